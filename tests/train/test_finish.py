"""What `fanlight train` says when it is done."""

from pathlib import Path

import pytest

from fanlight.train import finish

RUN = Path("runs/my photos")


def summary(*, best: float, last: float, count: int, task: str = "classify", words: int | None = None):
    val = {"accuracy": last, "count": count} | ({} if words is None else {"words": words})
    return {"task": task, "metrics": {"val": val}, "best": {"epoch": 20.0, "accuracy": best}}


def test_better_weights_than_the_last_are_named_with_what_uses_them():
    words = finish.overtrained_words(summary(best=0.9, last=0.8, count=400), RUN)
    assert "epoch 20" in words and ".900" in words and ".800" in words
    assert "fanlight evaluate 'runs/my photos' --best" in words


@pytest.mark.parametrize(("best", "last"), [(0.8, 0.8), (0.81, 0.8)])
def test_what_chance_gives_is_not_called_better(best, last):
    assert finish.overtrained_words(summary(best=best, last=last, count=400), RUN) == ""


def test_of_captions_words_are_counted_not_images():
    said = {"best": 0.32, "last": 0.28, "count": 150, "task": "caption"}
    assert finish.overtrained_words(summary(**said, words=8000), RUN)
    assert not finish.overtrained_words(summary(**said, words=100), RUN)


def test_a_run_without_validation_has_nothing_to_compare():
    assert finish.overtrained_words({"task": "classify", "metrics": {}, "best": {}}, RUN) == ""
