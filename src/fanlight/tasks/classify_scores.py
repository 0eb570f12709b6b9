"""Scores of a classifier, each a function of `predictions.parquet`: right on any number of ranks, and the report can
recompute them. No torch. K classes.

A rate whose denominator is 0 is None (JSON null), never 0 or NaN: the precision of a class that was never predicted,
the recall of a class without images. Means over classes (`balanced_accuracy`, `macro_f1`) skip the classes without
images in the split; `absent` names those.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fanlight.errors import RunError

NORMAL_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def score(table: pa.Table, *, classes: Sequence[str], split: str) -> dict[str, Any]:
    """Everything that the rows of `split` say, as plain containers.

    `confusion` is K×K counts, rows are the truth; `interval` is Wilson's 95 % interval of `accuracy`; `loss` is the
    mean of the rows' losses, None where it is not finite. RunError where a row holds no such class.
    """
    rows = _rows(table, split)
    label, predicted = (class_ids(rows[name], classes, name) for name in ("label", "predicted"))
    k = len(classes)
    confusion = np.bincount(label * k + predicted, minlength=k * k).reshape(k, k)
    per_class = [_class_score(name, confusion, index) for index, name in enumerate(classes)]
    present = [row for row in per_class if row["count"]]
    correct = int(confusion.trace())
    loss = float(np.mean(rows["loss"].to_numpy(), dtype=np.float64)) if len(rows) else math.nan
    return {
        "split": split,
        "count": len(rows),
        "correct": correct,
        "accuracy": _ratio(correct, len(rows)),
        "interval": wilson(correct, len(rows)),
        "balanced_accuracy": _ratio(sum(row["recall"] for row in present), len(present)),
        "macro_f1": _ratio(sum(row["f1"] for row in present), len(present)),
        "loss": loss if math.isfinite(loss) else None,
        "without_leaks": _without_leaks(rows, label == predicted),
        "absent": [row["class"] for row in per_class if not row["count"]],
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def _without_leaks(rows: pa.Table, is_correct: np.ndarray) -> dict[str, Any] | None:
    """The score over the rows of which no copy was trained on; None where that is all of them."""
    if "leaked" not in rows.column_names:  # written before copies were looked for
        return None
    clean = ~np.array(rows["leaked"].to_pylist(), bool)
    if clean.all():
        return None
    correct, count = int(is_correct[clean].sum()), int(clean.sum())
    return {"count": count, "correct": correct, "accuracy": _ratio(correct, count), "interval": wilson(correct, count)}


def leak_words(scores: dict[str, Any]) -> str:
    """Both scores of a split that leaks, and what they mean; empty where it does not."""
    clean = scores.get("without_leaks")
    if clean is None:
        return ""
    leaked = scores["count"] - clean["count"]
    said = f"{leaked} of {scores['count']} {scores['split']} images have copies or others of their group in train: "
    if not clean["count"]:
        return said + "the score says what was learned by heart, and nothing of new images"
    return (
        said + f"accuracy {share_text(scores['accuracy'])} with them, {share_text(clean['accuracy'])} "
        f"{interval_text(clean)} without; expect the latter of new images"
    )


def worst(table: pa.Table, *, split: str, n: int) -> list[dict[str, Any]]:
    """The `n` mistakes of `split` with the highest loss, highest first; class names instead of numbers."""
    classes = classes_of(table)
    rows = _rows(table, split)
    label, predicted = (class_ids(rows[name], classes, name) for name in ("label", "predicted"))
    loss = np.nan_to_num(rows["loss"].to_numpy().astype(np.float64), nan=np.inf)
    wrong = np.flatnonzero(label != predicted)
    order = wrong[np.lexsort((rows["sample"].to_numpy()[wrong], -loss[wrong]))][:n]
    return [
        {
            "sample": row["sample"],
            "path": row["path"],
            "label": classes[label[at]],
            "predicted": classes[predicted[at]],
            "probability": row["probability"],
            "loss": row["loss"],
        }
        for at, row in zip(order, rows.select(["sample", "path", "probability", "loss"]).take(order).to_pylist())
    ]


def classes_of(table: pa.Table) -> list[str]:
    """The class names, in order, that `predictions.parquet` carries in its schema."""
    try:
        return list(json.loads(table.schema.metadata[b"classes"]))
    except (KeyError, TypeError, ValueError):
        raise RunError("predictions.parquet names no classes; train again") from None


def wilson(correct: int, count: int) -> list[float] | None:
    """Wilson's 95 % interval of a share (Wilson 1927): the shares p with |correct − count·p| ≤ z·√(count·p·(1−p))."""
    if not count:
        return None
    share, z2 = correct / count, NORMAL_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return [0.0 if correct == 0 else centre - half, 1.0 if correct == count else centre + half]


def gap_words(val: dict[str, Any], test: dict[str, Any]) -> str:
    """What the distance between validation and test accuracy means; empty where one of them has no rows.

    Two intervals that overlap do not prove equality, and the sentence does not say so.
    """
    if not val["count"] or not test["count"]:
        return ""
    gap = test["accuracy"] - val["accuracy"]
    numbers = (
        f"test accuracy {share_text(test['accuracy'])} {interval_text(test)} is {share_text(abs(gap))} "
        f"{'below' if gap < 0 else 'above'} validation accuracy {share_text(val['accuracy'])} {interval_text(val)}"
    )
    low, high = sorted((val, test), key=lambda scores: scores["accuracy"])
    if low["interval"][1] >= high["interval"][0]:
        if share_text(abs(gap)) == share_text(0):
            numbers = f"test and validation accuracy are both {share_text(test['accuracy'])} {interval_text(test)}"
        return (
            f"{numbers}; the 95 % intervals overlap: {test['count']} test images do not settle whether there is a gap"
        )
    if gap < 0:
        cause = (
            "the test images differ in kind (another place, camera or time), or the validation split leaks "
            "(near copies of training images are in it); expect the test figure in use"
        )
    else:
        cause = "the test images are easier or of another mix of classes; do not expect the test figure on the rest"
    return f"{numbers}, and the 95 % intervals do not overlap: {cause}"


def share_text(share: float | None) -> str:
    """.932 for 0.9324, 1.000 for 1, – for None."""
    return "–" if share is None else f"{share:.3f}".removeprefix("0")


def interval_text(scores: dict[str, Any]) -> str:
    low, high = scores["interval"]
    return f"({share_text(low)} … {share_text(high)}, n = {scores['count']})"


def _rows(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"].cast(pa.string()), split))


def class_ids(column: pa.ChunkedArray, classes: Sequence[str], name: str) -> np.ndarray:
    """Class numbers of a column that holds numbers, or names."""
    if pa.types.is_integer(column.type):
        ids = column.to_numpy().astype(np.int64)
    else:
        found = pc.index_in(column.cast(pa.string()), value_set=pa.array(classes, pa.string()))
        ids = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    bad = np.flatnonzero((ids < 0) | (ids >= len(classes)))
    if len(bad):
        value = column[int(bad[0])].as_py()
        raise RunError(f"predictions.parquet: {name} {value!r} is none of the {len(classes)} classes; train again")
    return ids


def _class_score(name: str, confusion: np.ndarray, index: int) -> dict[str, Any]:
    count, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
    correct = int(confusion[index, index])
    return {
        "class": name,
        "count": count,
        "predicted": predicted,
        "correct": correct,
        "precision": _ratio(correct, predicted),
        "recall": _ratio(correct, count),
        "f1": _ratio(2 * correct, count + predicted),
    }


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
