"""Accuracies beside times: which points end elsewhere than the serial run of the same seeds, and when each reached the
target. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fanlight.study import accuracy
from fanlight.study.accuracy import ALPHA, Difference
from fanlight.study.stats import Untold

Doc = dict[str, Any]
Rows = Mapping[str, Sequence[Doc]]


def gaps(pairs: Mapping[str, str], rows: Rows) -> dict[str, Difference | Untold]:
    """By point, its accuracy less that of its baseline (`pairs`), by seed; flags are corrected for all points together."""
    found: dict[str, Difference | Untold] = {}
    for base in dict.fromkeys(pairs.values()):
        names = [base, *(name for name, other in pairs.items() if other == base)]
        scores = {name: {row["seed"]: row["accuracy"] for row in rows[name] if row["accuracy"] is not None}
                  for name in names}  # fmt: skip
        images = min((row["images_scored"] for name in names for row in rows[name] if row["images_scored"]), default=0)
        if images:
            found |= accuracy.differences(scores, baseline=base, images=images)
    tested = {name: each for name, each in found.items() if isinstance(each, Difference)}
    corrected = dict(zip(tested, accuracy.holm([each.p for each in tested.values()])))
    return found | {
        name: replace(each, p_holm=corrected[name], differs=corrected[name] <= ALPHA) for name, each in tested.items()
    }


def of(own: Sequence[Doc], base: Sequence[Doc], gap: Difference | Untold | None) -> Doc:
    """A point's accuracy and loss over its seeds, and the difference of its accuracy from the baseline's."""
    found: Doc = {}
    for score in ("accuracy", "loss"):
        if values := [row[score] for row in own if row[score] is not None]:
            found |= {score: statistics.median(values), f"{score}_interval": [min(values), max(values)]}
    if isinstance(gap, Difference):
        return found | {
            "accuracy_gap": gap.mean, "accuracy_gap_interval": list(gap.interval), "accuracy_p": gap.p_holm,
            "accuracy_test": gap.method,
        }  # fmt: skip
    theirs = {row["seed"]: row["accuracy"] for row in base if row["accuracy"] is not None}
    apart = [
        row["accuracy"] - theirs[row["seed"]] for row in own if row["seed"] in theirs and row["accuracy"] is not None
    ]
    return found | ({"accuracy_gap": statistics.fmean(apart)} if apart and gap is not None else {})


def time_to(own: Sequence[Doc], target: float) -> Doc:
    """Seconds of training until an evaluation reached `target`, by seed; a median only where it is known in spite of the
    seeds that did not get there."""
    curves = {row["seed"]: [(seconds, value) for seconds, value in row["curve"]] for row in own if row["curve"]}
    times = [next((seconds for seconds, value in row["curve"] if value >= target), None) for row in own]
    made: Doc = {"target": target, "seconds": times, "reached": 0, "of": len(own), "median_s": None, "interval": None}
    if not curves:
        return made | {"reason": "no evaluation of validation images"}
    found = accuracy.time_to_accuracy(curves, target=target)
    untold = found.median_s.reason if isinstance(found.median_s, Untold) else ""
    return made | {
        "reached": found.reached, "median_s": None if isinstance(found.median_s, Untold) else found.median_s,
        "interval": found.range_s and list(found.range_s), "reason": untold,
    }  # fmt: skip
