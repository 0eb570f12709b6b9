"""What a plan's input threads do is what a run's do."""

import itertools

import numpy as np
import pytest

from fanlight.data import loader, policy
from fanlight.plan import inputs
from plan import jobs


def config(**values):
    return jobs.config(
        model__name="small-resnet", data__image_px=16, data__canvas_px=20, augment__engine="cpu", train__batch_size=16, **values
    )  # fmt: skip


def few(config, *, rows=5, count=3):
    made = inputs.Batches(config, rows=rows, workers=2)
    try:
        return list(itertools.islice(made, count))
    finally:
        made.close()


def test_batches_are_the_loaders_without_end():
    found = few(config(train__microbatches=4, data__image_px_start=8), count=inputs.STEPS + 2)
    assert len(found) == inputs.STEPS + 2
    for batch in found:
        (part,) = batch.parts
        assert part.images.shape == (5, 16, 16, 3) and part.changes is None and batch.seconds > 0
        assert len(np.unique(part.images.numpy())) > 100, "equalizing a canvas of one colour would cost nothing"


@pytest.mark.parametrize(("values", "count"), [({}, 0), ({"augment__policy": "rand"}, 5), ({"augment__erase": 0.5}, 5)])
def test_what_input_threads_change_is_changed(monkeypatch, values, count):
    changed = []
    monkeypatch.setattr(loader.policy, "change", lambda image, changes, index: changed.append(index))
    made = inputs.Batches(config(**values), rows=5, workers=0)
    next(made)
    made.close()
    assert len(changed) == count


def test_what_was_begun_is_made_before_others_go_on():
    made = inputs.Batches(config(), rows=5, workers=2)
    made.settle()
    for taken in (1, 2, 3):
        next(made)
        made.settle()
        assert len(made._noise.reads) == 5 * (taken + 3), "as many ahead as threads, and one"
    made.close()


def test_what_the_device_changes_is_not(monkeypatch):
    monkeypatch.setattr(policy, "change", lambda *_: pytest.fail("changed twice"))
    (batch,) = few(config(augment__policy="rand").with_value("augment.engine", "device"), count=1)
    assert batch.parts[0].changes is not None


def test_seconds_are_of_one_image_with_all_that_is_done_to_it(monkeypatch):
    changed = []
    monkeypatch.setattr(loader.policy, "change", lambda image, changes, index: changed.append(index))
    assert 0 < inputs.seconds(config(augment__policy="rand")) < 1
    assert len(changed) >= inputs.TIMED * inputs.ROWS
