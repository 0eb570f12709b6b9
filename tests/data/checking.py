"""What `fanlight check` does, without its command line."""

from pathlib import Path
from typing import Any

from fanlight.data import checkup


def check(path: str, *, workers: int | None = None, out: Path | None = None, level: str = "quick") -> dict[str, Any]:
    """The JSON object of `check --json`."""
    manifest, found = checkup.examine(path, workers=workers, level=level)
    return checkup.tell(path, manifest, found, out=out, level=level)
