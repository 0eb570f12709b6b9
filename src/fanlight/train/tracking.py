"""TensorBoard event files beside the metrics, where TensorBoard is installed; nothing where it is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


class Tracker:
    """Opens its writer at the first record, so that starting a run costs nothing."""

    def __init__(self, run: Path, *, first_step: int):
        self._folder, self._first_step = run / "tensorboard", first_step
        self._installed = importlib.util.find_spec("tensorboard") is not None
        self._writer: Any = None

    def add(self, kind: str, record: dict[str, Any]) -> None:
        """Each number of a record as `train/loss`, `val/accuracy`, …, by optimizer step."""
        if not self._installed:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier start wrote of steps that are done again is hidden.
            self._writer = SummaryWriter(str(self._folder), purge_step=self._first_step + 1)
        head = record.get("split", kind)
        for name, value in record.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{head}/{name}", value, record["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
