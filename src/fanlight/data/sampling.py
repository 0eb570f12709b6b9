"""Which training images an epoch sees, and how often: each once, each class as often, or by weights of a list file."""

import math

import numpy as np

from fanlight.data.manifest import Manifest
from fanlight.data.order import Draws
from fanlight.errors import DataError

NAMES = ("epoch", "balanced", "weighted")
WAY_OUT = "give every training image a number of 0 or more, or use --sampling epoch or balanced"


def draws(manifest: Manifest, rows: np.ndarray, *, sampling: str) -> Draws | None:
    """How an epoch draws from manifest `rows` [N]; None for `epoch`, which takes every image once.

    `balanced`: every class that has images is equally likely, and every image of a class. `weighted`: an image is as
    likely as the column `weight` of the list file says; DataError where that cannot be.
    """
    if sampling == "epoch":
        return None
    labels = manifest.labels[rows]
    if sampling == "balanced":
        return Draws(1.0 / np.bincount(labels)[labels], labels)
    return Draws(_weights(manifest, rows), labels)


def _weights(manifest: Manifest, rows: np.ndarray) -> np.ndarray:
    texts, where = manifest.column("weight"), f"{manifest.root}, {manifest.source}"
    if not (texts != "").any():
        raise DataError(
            f"{where}: no column 'weight', which --sampling weighted draws by. Add it to a list file (CSV, Parquet), or "
            "use --sampling epoch or balanced"
        )
    weights = np.array([_number(text) for text in texts[rows]])
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        row = rows[bad[0]]
        why = f"is {texts[row]!r}" if texts[row] else "is empty"
        more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
        raise DataError(f"{where}, row of {manifest.column('path')[row]}: weight {why}{more}; {WAY_OUT}")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 0 < total < math.inf:
        raise DataError(f"{where}: the weights of the training images add up to {total:g}; {WAY_OUT}")
    return weights


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
