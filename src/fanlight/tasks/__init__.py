"""What is learned from the images. A task is a value; the loop, the journal and the report know no other name for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from fanlight.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    from fanlight.config import Config
    from fanlight.data.loader import Chooser
    from fanlight.data.manifest import Manifest
    from fanlight.models import zoo


class Task(Protocol):
    """B rows of a batch, N of a split; outputs and targets have B (or N) as their first dimension."""

    @property
    def name(self) -> str: ...  # as run.json and weights files say it

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> list[str]: ...  # what a run should say about it

    @property
    def headline(self) -> str: ...  # the score that the best weights are chosen by, higher is better

    @property
    def logged(self) -> tuple[str, ...]: ...  # scores that an evaluation during training writes down

    @property
    def kept(self) -> tuple[str, ...]: ...  # scores that run.json keeps

    @property
    def chooser(self) -> Chooser | None: ...  # where samples have several targets

    def model(
        self, name: str, *, image_px: int, seed: int, pretrained: bool = False, weights: str | None = None
    ) -> zoo.Created:
        """The network `name` with the outputs that the task asks for, as zoo.create has it."""
        ...

    def targets(self, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
        """Fixed-shape targets [N, …] of manifest rows."""
        ...

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """float64 [N], what each sample adds to the denominator of the loss: known before any forward."""
        ...

    def loss_sum(
        self, outputs: torch.Tensor, targets: torch.Tensor, *, share: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss, summed over rows, each times its weight; `share` [B] is how much of each row's loss counts, where
        images are mixed."""
        ...

    def hits(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How many answers are right, for the log."""
        ...

    def counted(self, targets: torch.Tensor) -> torch.Tensor:
        """How many answers there are: rows, or words."""
        ...

    def example(self, rows: int) -> np.ndarray | None:
        """Targets of made-up images, for networks that are told the targets before a forward; None: they are not."""
        ...

    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """[B, …] of plain numbers: what ranks send for each sample."""
        ...

    def agree(self, rows: np.ndarray, expected: np.ndarray) -> bool:
        """Whether two evaluations, as `rows` gave them, are the same but for rounding."""
        ...

    def table(self, manifest: Manifest, rows: np.ndarray, outputs: np.ndarray) -> pa.Table:
        """`predictions.parquet`: one row per sample."""
        ...

    def score(self, table: pa.Table, *, split: str) -> dict[str, Any]:
        """Every metric, as a function of the table alone."""
        ...

    def temperature(self, table: pa.Table) -> tuple[float, str]:
        """What the logits of a run's own validation table are divided by before a probability is told, and why."""
        ...

    def facts(self, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
        """What run.json keeps beside the scores, of the tables of all splits."""
        ...

    def about(self) -> dict[str, Any]:
        """What a file of weights says of the task."""
        ...

    def keep(self, run: Path) -> None:
        """What a new run's folder holds of it, for people."""
        ...


class WritingTask(Task, Protocol):
    """One whose answers are written bit by bit, by the whole network, when it is trained."""

    def write(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, …]: what the network, in eval mode, says of images by itself."""
        ...

    def written(self, manifest: Manifest, table: pa.Table, outputs: np.ndarray) -> pa.Table:
        """The table, and what `write` gave for its rows."""
        ...

    def look(self, model: torch.nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
        """What was looked at for each part of what `write` gives: plain arrays, first dimension B."""
        ...

    def told(self, outputs: np.ndarray) -> list[tuple[str, float]]:
        """What `write` gave, in words, and how sure it is."""
        ...

    def lacks(self, manifest: Manifest, rows: np.ndarray) -> list[str]:
        """What of the targets of these rows the network could not write, whatever it sees; nothing where it could all."""
        ...


def writes(task: Task) -> TypeGuard[WritingTask]:
    """Whether the task is one of writing."""
    return hasattr(task, "write")


def name_of(manifest: Manifest) -> str:
    """The name of the task that the data asks for."""
    return "caption" if manifest.is_captioned else "classify"


def check(config: Config, manifest: Manifest) -> None:
    """ConfigError for what is asked and has no meaning for the task. No torch."""
    if manifest.is_captioned:
        from fanlight.tasks import caption_unsuited

        caption_unsuited.check(config, manifest)
    else:
        _refuse_captions(config, manifest)
        weights_of_classes(config, manifest)


def _refuse_captions(config: Config, manifest: Manifest) -> None:
    """ConfigError for what is asked of captions where there are none: it would do nothing, in silence."""
    for field in dataclasses.fields(config.caption):
        value = getattr(config.caption, field.name)
        if value != field.default:
            raise ConfigError(
                f"caption.{field.name} is {value}, and {manifest.root} has classes and no captions; leave it out"
            )


def of(config: Config, manifest: Manifest) -> Task:
    """The task that the data asks for, of a resolved config."""
    if manifest.is_captioned:
        from fanlight.tasks.caption import Caption

        return Caption.of(config, manifest)
    from fanlight.tasks.classify import Classify

    return Classify(manifest.classes, config.optim.label_smoothing, weights_of_classes(config, manifest))


def restored(about: Mapping[str, Any], *, beams: int | None = None) -> Task:
    """The task of a run's weights, as their file says (Task.about): for evaluation and prediction, not for training. `beams`:
    of captions, other than the run's. ConfigError where there is nothing to search."""
    if about["task"] == "caption":
        from fanlight.tasks.caption import Caption

        return Caption.restored(about, beams=beams)
    from fanlight.tasks.classify import Classify

    if beams is not None:
        raise ConfigError(f"--beams {beams} is for captions, and the run names classes; leave it out")

    return Classify(tuple(map(str, about["classes"])))


def weights_of_classes(config: Config, manifest: Manifest) -> tuple[float, ...] | None:
    """float [K], of the training loss; None: all equal. ConfigError where the config's words mean none. No torch."""
    import numpy as np

    from fanlight.tasks import class_weights

    if config.optim.class_weights is None:
        return None
    counts = np.bincount(manifest.labels[manifest.rows("train")], minlength=len(manifest.classes))
    return class_weights.of(config.optim.class_weights, classes=manifest.classes, counts=counts)
