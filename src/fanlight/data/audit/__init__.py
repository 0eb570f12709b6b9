"""The audit: which files show one picture, and which are neighbouring frames of one film.

`find` decodes every picture once, small, and compares in near-linear time; `Audit` is what it found. Without torch.
"""

from fanlight.data.audit.result import KINDS, Audit
from fanlight.data.audit.search import Pixels, find

__all__ = ["KINDS", "Audit", "Pixels", "find"]
