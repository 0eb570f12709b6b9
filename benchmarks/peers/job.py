"""What every peer's script shares: the job's options, and the lines that it prints for `main_job.py`.

Standard library only at import, so that it costs a peer no time. A line per validation, `{"epoch", "at", "accuracy"}`
(`at`: seconds since 1970), and one at the end, `{"accuracy", "count", "images", "steps", "phases"}`: images scored,
training images seen, optimizer steps, seconds of each phase. Phases begin when this module is imported, the script's first
line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP_SHARE, FLIP = (0.25, 1.0), 0.5  # what the job's random resized crop keeps; probability of a mirror image
EVAL_SHARE = 0.875  # of the short side that the centre crop of an evaluation keeps

_begin = time.perf_counter()


def options(about: str, *, versions: tuple[str, ...] = ("newcomer", "best", "recipe")) -> argparse.Namespace:
    """The job as the command line gives it. `data` has train/ and val/, each with a folder per class."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for whatever the library writes")
    parser.add_argument("--version", choices=versions, default=versions[0])
    parser.add_argument("--epochs", type=int, default=None, help="default: 4, or what the recipe says")
    parser.add_argument("--image-px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3, help="of AdamW, cosine to 0, no warm-up")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of `best` and `recipe`")
    parser.add_argument("--workers", type=int, default=2, help="of `best` and `recipe`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frozen", type=Path, default=None, help="ResNet-18 weights: train the last layer only")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.version == "newcomer":
        given.precision = "fp32"
    return given


def load_backbone(model, weights: Path) -> None:
    """Puts a ResNet-18's weights, all but its last layer's, into a model whose parameters have the same names."""
    from safetensors.torch import load_file

    kept = {name: value for name, value in load_file(weights).items() if not name.startswith("fc.")}
    missing, unknown = model.load_state_dict(kept, strict=False)
    if unknown or any(not name.startswith("fc.") for name in missing if not name.endswith("num_batches_tracked")):
        raise SystemExit(f"{weights} is not of this network: unknown {unknown[:3]}, missing {missing[:3]}")


class Diary:
    """Prints what the driver reads."""

    def __init__(self) -> None:
        self._phases: dict[str, float] = {}
        self._mark = _begin
        self._epochs: list[float | None] = []

    def phase(self, name: str) -> None:
        """The time since the phase before belongs to `name`; repeated names add up."""
        now = time.perf_counter()
        self._phases[name] = self._phases.get(name, 0.0) + now - self._mark
        self._mark = now

    def epoch(self, accuracy: float | None) -> None:
        """After each validation."""
        self._epochs.append(accuracy)
        self._print({"epoch": len(self._epochs), "at": time.time(), "accuracy": accuracy})

    def done(self, *, count: int, images: int, steps: int) -> None:
        phases = {f"{name}_s": seconds for name, seconds in self._phases.items()}
        facts = {"count": count, "images": images, "steps": steps}
        self._print({"accuracy": self._epochs[-1], **facts, "phases": phases})

    def _print(self, document: dict[str, object]) -> None:
        print(json.dumps(document), flush=True)
