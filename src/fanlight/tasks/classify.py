"""Classification: one label per image. B rows, K classes.

A task says what a sample's target is, what it adds to the loss's denominator, the summed loss, and one row per sample
for the table that every metric is computed from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError
from fanlight.models import captioner, zoo
from fanlight.tasks import calibration, class_weights, classify_scores

MARGIN = 1e-4  # between the two best outputs: below, rounding may choose the class


@dataclass(frozen=True)
class Classify:
    """The task of a manifest with labels."""

    classes: tuple[str, ...]
    label_smoothing: float = 0.0  # Szegedy et al. 2015, in training only
    class_weights: tuple[float, ...] | None = None  # [K], of the training loss; None: all equal
    _placed: dict[Any, torch.Tensor] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )  # the same, on a device

    name = "classify"
    headline = "accuracy"
    logged = ("loss", "accuracy", "balanced_accuracy")
    kept = ("count", "correct", "accuracy", "interval", "balanced_accuracy", "loss", "without_leaks")
    chooser = None

    @property
    def notes(self) -> list[str]:
        if self.class_weights is None:
            return []
        return [f"weights of the classes in the training loss: {class_weights.words(self.class_weights, self.classes)}"]

    def model(
        self, name: str, *, image_px: int, seed: int, pretrained: bool = False, weights: str | None = None
    ) -> zoo.Created:
        if captioner.is_name(name):
            raise ConfigError(
                f"model.name is {name}, which writes captions, and the data has classes; use --model "
                f"{captioner.parse(name).encoder}"
            )
        return zoo.create(
            name, classes=len(self.classes), image_px=image_px, seed=seed, pretrained=pretrained, weights=weights
        )

    def targets(self, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
        """int64 [N], the class index of each manifest row."""
        return manifest.labels[rows]

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """float64 [N], what each sample adds to the denominator of the loss."""
        return np.ones(len(targets)) if self.class_weights is None else np.array(self.class_weights)[targets]

    def loss_sum(
        self, logits_BK: torch.Tensor, targets_B: torch.Tensor, *, share: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross-entropy, summed over rows, in at least fp32 whatever the precision of the network.

        A row counts as much as its class weighs, its smoothed part included (torch's own `weight` would weigh that part
        by the other classes), so that divided by the summed weights it is a mean. `share` [B] is how much of each row's
        loss counts, where images are mixed.
        """
        logits_BK = logits_BK.float() if logits_BK.dtype in (torch.bfloat16, torch.float16) else logits_BK
        if share is None and self.class_weights is None:
            return F.cross_entropy(logits_BK, targets_B, reduction="sum", label_smoothing=self.label_smoothing)
        losses_B = F.cross_entropy(logits_BK, targets_B, reduction="none", label_smoothing=self.label_smoothing)
        if self.class_weights is not None:
            losses_B = losses_B * self._weights_on(logits_BK)[targets_B]
        return (losses_B if share is None else losses_B * share.to(losses_B.dtype)).sum()

    def _weights_on(self, like: torch.Tensor) -> torch.Tensor:
        """[K], kept where it was needed before: sending it at every step would wait for a GPU."""
        place = (like.device, like.dtype)
        if place not in self._placed:
            self._placed[place] = torch.tensor(self.class_weights, dtype=like.dtype, device=like.device)
        return self._placed[place]

    def hits(self, logits_BK: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """How many rows are right: a number that training logs as it goes."""
        return (logits_BK.argmax(1) == targets_B).sum()

    def counted(self, targets_B: torch.Tensor) -> torch.Tensor:
        """How many rows there are."""
        return torch.full((), len(targets_B), device=targets_B.device)

    def example(self, rows: int) -> np.ndarray | None:
        return None

    def rows(self, logits_BK: torch.Tensor, targets_B: torch.Tensor) -> np.ndarray:
        """float32 [B, K], what is gathered from the ranks: the logits, from which the rest of the row follows."""
        return logits_BK.float().cpu().numpy()

    def agree(self, rows: np.ndarray, expected: np.ndarray) -> bool:
        """Whether the classes are the same, wherever the two best outputs are far enough apart that rounding cannot choose."""
        if not (np.isfinite(rows).all() and np.isfinite(expected).all()):
            return False  # no output is clear then, and nothing would be compared
        best = np.sort(expected, 1)
        clear = best[:, -1] - best[:, -2] > MARGIN
        return bool((rows.argmax(1) == expected.argmax(1))[clear].all())

    def table(self, manifest: Manifest, rows: np.ndarray, logits_NK: np.ndarray) -> pa.Table:
        """`predictions.parquet`: one row per sample, in the order of `rows` (manifest rows)."""
        targets = self.targets(manifest, rows)
        shifted = logits_NK.astype(np.float64) - logits_NK.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        predicted = logits_NK.argmax(1)
        every = np.arange(len(rows))
        names = np.array(self.classes, dtype=object)
        flat = pa.array(np.ascontiguousarray(logits_NK, np.float32).reshape(-1))
        columns = {
            "sample": rows,
            "path": manifest.column("path")[rows],
            "split": manifest.column("split")[rows],
            "label": names[targets],
            "predicted": names[predicted],
            "probability": np.exp(log_probability[every, predicted]).astype(np.float32),
            "loss": -log_probability[every, targets].astype(np.float32),
            "correct": predicted == targets,
            "leaked": manifest.leaked[rows],
            "logits": pa.FixedSizeListArray.from_arrays(flat, len(self.classes)),
        }
        return pa.table(columns).replace_schema_metadata({"classes": json.dumps(self.classes)})

    def score(self, table: pa.Table, *, split: str) -> dict[str, Any]:
        """Every metric of one split, from the table alone."""
        return classify_scores.score(table, classes=self.classes, split=split)

    def temperature(self, table: pa.Table) -> tuple[float, str]:
        """What calibrates the probabilities (Guo et al. 2017), fitted on the table's validation rows, and why."""
        return calibration.fit(calibration.outputs(table, split="val"))

    def facts(self, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
        """How far the probabilities of each split can be believed."""
        temperature, why = 1.0, "no validation images"
        if "val" in tables:
            temperature, why = self.temperature(tables["val"])
        return {"calibration": calibration.of_run(tables, temperature=temperature, reason=why)}

    def about(self) -> dict[str, Any]:
        return {"task": self.name, "classes": list(self.classes)}

    def keep(self, run: Path) -> None:
        """Nothing: run.json names the classes."""
