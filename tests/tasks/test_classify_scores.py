"""Scores against scikit-learn's, intervals by inverting their formula, and the words."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from fanlight.errors import RunError
from fanlight.tasks.classify_scores import (
    NORMAL_95,
    classes_of,
    gap_words,
    leak_words,
    score,
    share_text,
    wilson,
    worst,
)


def predictions(label, predicted, *, k, split="val", loss=None, names=None):
    rows = len(label)
    names = names or [f"class {index}" for index in range(k)]
    columns = {
        "sample": pa.array(range(rows), pa.int64()),
        "path": [f"{index}.png" for index in range(rows)],
        "split": pa.array([split] * rows, pa.string()),
        "label": pa.array(label, pa.int64()),
        "predicted": pa.array(predicted, pa.int64()),
        "probability": pa.array([0.5] * rows, pa.float32()),
        "loss": pa.array([1.0] * rows if loss is None else loss, pa.float32()),
    }
    return pa.table(columns).replace_schema_metadata({b"classes": json.dumps(names).encode()})


@st.composite
def pairs(draw):
    k = draw(st.integers(2, 7))
    ids = st.integers(0, k - 1)
    rows = draw(st.lists(st.tuples(ids, ids), min_size=1, max_size=60))
    return k, [row[0] for row in rows], [row[1] for row in rows]


@given(pairs())
def test_equals_sklearn(drawn):
    k, label, predicted = drawn
    table = predictions(label, predicted, k=k)
    found = score(table, classes=classes_of(table), split="val")
    labels = list(range(k))
    present = sorted(set(label))
    assert found["confusion"] == metrics.confusion_matrix(label, predicted, labels=labels).tolist()
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(label, predicted))
    recalls = metrics.recall_score(label, predicted, labels=present, average="macro", zero_division=0)
    assert found["balanced_accuracy"] == pytest.approx(recalls)
    assert found["macro_f1"] == pytest.approx(
        metrics.f1_score(label, predicted, labels=present, average="macro", zero_division=0)
    )
    for key, function in (("precision", "precision_score"), ("recall", "recall_score"), ("f1", "f1_score")):
        theirs = getattr(metrics, function)(label, predicted, labels=labels, average=None, zero_division=np.nan)
        ours = [np.nan if row[key] is None else row[key] for row in found["per_class"]]
        np.testing.assert_allclose(ours, theirs)
    json.dumps(found, allow_nan=False)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_z_away(drawn):
    correct, count = drawn
    low, high = wilson(correct, count)
    assert 0 <= low <= correct / count <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(correct / count - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(NORMAL_95, rel=1e-6)


def test_only_the_split_counts():
    table = pa.concat_tables([predictions([0, 1], [0, 1], k=2), predictions([0, 1], [1, 1], k=2, split="test")])
    assert score(table, classes=["a", "b"], split="val")["accuracy"] == 1.0
    assert score(table, classes=["a", "b"], split="test")["accuracy"] == 0.5


def test_empty_split_is_null_not_zero():
    found = score(predictions([0], [0], k=2), classes=["a", "b"], split="test")
    assert (found["count"], found["accuracy"], found["interval"], found["loss"]) == (0, None, None, None)
    assert found["balanced_accuracy"] is None and found["absent"] == ["a", "b"]


def test_absent_class_is_named_and_skipped():
    found = score(predictions([0, 0, 1], [0, 2, 1], k=3), classes=["a", "b", "c"], split="val")
    assert found["absent"] == ["c"]
    assert found["balanced_accuracy"] == 0.75
    assert found["per_class"][2] | {"class": ""} == {
        "class": "", "count": 0, "predicted": 1, "correct": 0, "precision": 0.0, "recall": None, "f1": 0.0
    }  # fmt: skip


def test_infinite_loss_is_null():
    assert score(predictions([0], [0], k=1, loss=[math.inf]), classes=["a"], split="val")["loss"] is None


def test_names_serve_as_well_as_numbers():
    table = predictions([0, 1, 1], [0, 1, 0], k=2)
    columns = {name: table[name] for name in table.column_names}
    named = pa.table(columns | {"label": ["a", "b", "b"], "predicted": ["a", "b", "a"]})
    classes = ["a", "b"]
    assert score(named, classes=classes, split="val") == score(table, classes=classes, split="val")


def test_unknown_class_names_the_way_out():
    with pytest.raises(RunError, match=r"predicted 4 is none of the 2 classes; train again"):
        score(predictions([0, 1], [0, 4], k=2), classes=["a", "b"], split="val")
    with pytest.raises(RunError, match=r"names no classes; train again"):
        classes_of(predictions([0], [0], k=1).replace_schema_metadata(None))


def test_worst_are_mistakes_by_loss_then_sample():
    loss = [9.0, 1.0, 3.0, math.nan, 3.0]
    table = predictions([0, 1, 1, 0, 1], [0, 0, 0, 1, 0], k=2, loss=loss, names=["dry", "wet"])
    assert [row["sample"] for row in worst(table, split="val", n=3)] == [3, 2, 4]
    assert worst(table, split="val", n=2)[1] | {"probability": 0} == {
        "sample": 2, "path": "2.png", "label": "wet", "predicted": "dry", "probability": 0, "loss": 3.0
    }  # fmt: skip
    assert worst(table, split="test", n=3) == []


def scores(correct, count):
    table = predictions([0] * count, [0] * correct + [1] * (count - correct), k=2)
    return score(table, classes=["a", "b"], split="val")


def test_gap_below_names_both_causes():
    words = gap_words(scores(930, 1000), scores(41, 100))
    assert words.startswith("test accuracy .410 (.319 … .508, n = 100) is .520 below validation accuracy .930 (")
    assert "do not overlap" in words and "another place, camera or time" in words and "leaks" in words


def test_gap_within_the_intervals_is_neutral():
    words = gap_words(scores(90, 100), scores(8, 10))
    assert "is .100 below" in words and "intervals overlap" in words and "leaks" not in words
    assert "are both .900" in gap_words(scores(90, 100), scores(90, 100))


def test_gap_above_and_without_rows():
    assert "easier" in gap_words(scores(41, 100), scores(930, 1000))
    assert gap_words(scores(1, 2), scores(0, 0)) == ""


def test_share_text():
    assert [share_text(value) for value in (0.9324, 1.0, 0.0, None)] == [".932", "1.000", ".000", "–"]


@pytest.mark.parametrize(
    ("leaked", "clean", "words"),
    [
        ([0, 0, 0, 0], None, ""),
        ([1, 0, 0, 0], (3, 1), "1 of 4 val images have copies or others of their group in train: accuracy .500 with them, .333"),
        ([1, 1, 1, 1], (0, 0), "learned by heart, and nothing of new images"),
    ],
)  # fmt: skip
def test_what_leaked_is_scored_apart(leaked, clean, words):
    table = predictions([0, 1, 0, 1], [0, 1, 1, 0], k=2).append_column("leaked", pa.array(np.array(leaked, bool)))
    found = score(table, classes=classes_of(table), split="val")
    without = found["without_leaks"]
    assert (without and (without["count"], without["correct"])) == clean
    assert words in leak_words(found) and bool(leak_words(found)) == bool(words)
    if clean and clean[0]:
        assert without["interval"] == wilson(1, 3) and without["accuracy"] == pytest.approx(1 / 3)


def test_tables_of_before_tell_of_no_leaks():
    table = predictions([0, 1], [0, 1], k=2)
    assert score(table, classes=classes_of(table), split="val")["without_leaks"] is None
