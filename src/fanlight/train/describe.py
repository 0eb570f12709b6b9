"""Writes a sentence about images with a run's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.tasks import WritingTask
from fanlight.train.eye import Eye, several
from fanlight.train.step import Normalise

TOP = 3  # as `predict` has it where nothing is said


@dataclass(frozen=True)
class Describer:
    """A trained captioner, ready for images."""

    model: nn.Module
    task: WritingTask
    eye: Eye
    normalise: Normalise

    def predict(
        self, paths: str | Path | Iterable[str | Path], *, top: int = TOP, tta: int = 1,
        unknown_below: float | None = None,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """One answer per file, in order: {path, caption, score} or {path, error}. The score is the geometric mean of the
        probabilities of its words, its end included. The other options are for classes, and refused."""
        for flag, is_asked in {
            "--top": top != TOP,
            "--tta": tta != 1,
            "--unknown-below": unknown_below is not None,
        }.items():
            if is_asked:
                raise ConfigError(f"{flag} is for classes, and this run writes captions; leave it out")
        return self.eye.answers(several(paths), self._answers)

    @torch.no_grad()
    def _answers(self, squares_B1PP3: np.ndarray) -> list[dict[str, Any]]:
        images = self.normalise(torch.from_numpy(squares_B1PP3[:, 0]))
        told = self.task.told(self.task.write(self.model, images).cpu().numpy())
        return [{"caption": text, "score": score} for text, score in told]

    def words(self, answer: dict[str, Any]) -> str:
        """An answer in a line."""
        return f"{answer['caption']}  ({answer['score']:.2f})"

    def how(self, answers: list[dict[str, Any]], *, tta: int, below: float | None) -> list[str]:
        """What the numbers above are, after them."""
        return ["In brackets: the geometric mean of the probabilities of a sentence's words"]

    def columns(self, below: float | None) -> tuple[str, ...]:
        """Of a table of answers."""
        return ("caption", "score")
