"""What is learned from the images. A task is a value; the loop, the journal and the report know no other name for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    from fanlight.config import Config
    from fanlight.data.manifest import Manifest


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
        """How many rows are right, for the log."""
        ...

    def rows(self, outputs: torch.Tensor) -> np.ndarray:
        """[B, …] of plain numbers: what ranks send for each sample."""
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


def of(config: Config, manifest: Manifest) -> Task:
    """The task that the data asks for."""
    from fanlight.tasks.classify import Classify

    return Classify(manifest.classes, config.optim.label_smoothing, weights_of_classes(config, manifest))


def weights_of_classes(config: Config, manifest: Manifest) -> tuple[float, ...] | None:
    """float [K], of the training loss; None: all equal. ConfigError where the config's words mean none. No torch."""
    import numpy as np

    from fanlight.tasks import class_weights

    if config.optim.class_weights is None:
        return None
    counts = np.bincount(manifest.labels[manifest.rows("train")], minlength=len(manifest.classes))
    return class_weights.of(config.optim.class_weights, classes=manifest.classes, counts=counts)
