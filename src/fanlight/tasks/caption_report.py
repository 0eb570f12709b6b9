"""Scores of a captioner, each a function of `predictions.parquet`, and what is said of them. No torch.

Before a network has written, there is the loss per word and the share of words that are right, each after the true words
before it. Of what it writes there are the scores of caption_scores.py. A row is an image: `sample, path, split, references,
loss, right, words, leaked`, and once it is written `caption, log_probability`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fanlight.tasks import caption_scores
from fanlight.tasks.classify_scores import share_text, wilson

JUDGED = ("true_and_complete", "only_true")  # columns of scenes that can be judged (data/shapes)


def score(rows: pa.Table, *, split: str) -> dict[str, Any]:
    """Everything that the rows of one split say, as plain containers. `loss` is None where it is not finite."""
    words_N, right_N = (rows[name].to_numpy().astype(np.int64) for name in ("words", "right"))
    count, right = int(words_N.sum()), int(right_N.sum())
    loss = float((rows["loss"].to_numpy().astype(np.float64) * words_N).sum() / count) if count else math.nan
    found: dict[str, Any] = {
        "split": split, "count": len(rows), "words": count, "correct": right,
        "accuracy": right / count if count else None, "loss": loss if math.isfinite(loss) else None,
    }  # fmt: skip
    if "caption" not in rows.column_names:
        return found
    found |= caption_scores.report(rows["caption"].to_pylist(), rows["references"].to_pylist())
    for name in JUDGED:
        if name in rows.column_names:
            right = int(np.array(rows[name].to_pylist(), bool).sum())
            found |= {name: right / max(1, len(rows)), f"{name}_interval": wilson(right, len(rows))}
    if "true_elsewhere" in rows.column_names:
        found["true_elsewhere"] = float(np.mean(rows["true_elsewhere"].to_numpy())) if len(rows) else 0.0
    return found


def words(scores: dict[str, Any]) -> list[str]:
    """Lines for the user about one split."""
    loss = "not finite" if scores["loss"] is None else f"{scores['loss']:.3f}"
    said = [
        f"{scores['split']}: loss per word {loss}, {share_text(scores['accuracy'])} of {scores['words']} words right, each after "
        f"the true words before it (n = {scores['count']} images)"
    ]
    if "bleu4" not in scores:
        return said
    intervals = scores["intervals"]
    named = ", ".join(
        f"{label} {_number(scores[name])}{_interval(intervals.get(name))}"
        for label, name in (("BLEU-4", "bleu4"), ("ROUGE-L", "rouge_l"), ("CIDEr", "cider"))
    )
    said.append(f"  written: {named} (CIDEr's scale is 10; 95 % intervals over images)")
    if blind := scores["blind"]:
        gap = blind["gaps"]["cider"]
        low, high = gap["interval"]
        saw = (
            "so it saw something in the images" if low > 0 else "which does not show that it saw anything in the images"
        )
        said.append(
            f"  blind test: with captions at other images CIDEr is {_number(blind['scores']['cider'])}; the gap is "
            f"{gap['gap']:.3f} ({low:.3f} … {high:.3f}), {saw}"
        )
    if scores["mean_length"] is not None:
        said.append(
            f"  wording: {scores['mean_length']:.1f} words per caption (references {scores['mean_length_references']:.1f}), "
            f"{scores['vocabulary_used']} different words (references {scores['vocabulary_references']}), "
            f"{scores['repeated']:.0%} of captions stand at several images"
        )
    if "true_and_complete" in scores:
        low, high = scores["true_and_complete_interval"] or (0.0, 0.0)
        shuffled = scores.get("true_elsewhere")
        chance = "" if shuffled is None else f", {shuffled:.3f} with captions at other images (all shuffles)"
        said.append(
            f"  judged: {share_text(scores['true_and_complete'])} ({share_text(low)} … {share_text(high)}) state only true "
            f"facts and all that are required{chance}; {share_text(scores['only_true'])} state only true facts"
        )
    return [*said, *(f"  {note}" for note in scores.get("notes", ()))]  # runs made before have none


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if not interval else f" ({interval[0]:.3f} … {interval[1]:.3f})"
