"""The operators over all cores, compiled by Numba. What is compiled is kept in Fanlight's cache folder, under a name that
changes with these sources: Numba itself looks at one file only, and would keep a caller of what has changed in another.

Where that folder cannot be written, Numba takes `__pycache__` beside the sources or its own folder in the user's cache;
where nothing can, every process compiles anew. NUMBA_CACHE_DIR, where set, wins over all.
"""

import hashlib
from pathlib import Path
from typing import Any

import numba

from fanlight.data import cache


def _sources() -> str:
    """A name for the state of the sources."""
    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


_config: Any = numba.config
if not _config.CACHE_DIR:
    _config.CACHE_DIR = str(cache.folder() / "compiled" / _sources())
