"""Evaluation's batches, and input threads: what they make ahead, how they end, what they keep."""

import gc
import re
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.loading import (
    CUTTING,
    START,
    Arrays,
    arrays,
    assert_same,
    evaluate,
    input_threads,
    joined,
    samples_of,
    train,
)
from fanlight.data import augment, order
from fanlight.data.formats import recognise
from fanlight.data.loader import Samples, evaluation_batches, train_batches
from fanlight.data.scan import scan
from fanlight.data.source import Files
from fanlight.data.vocabulary import SPECIAL, Vocabulary
from fanlight.errors import DataError
from fanlight.tasks.caption import Caption
from fanlight.types import END, PAD, Position

GROWTH_BYTES = 64_000  # of Python's memory over 300 batches: caches. Orders kept would be 180,000, batches more


# --- evaluation


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 7, 8, 29])
def test_evaluation_scores_every_sample_once_in_the_same_batches(ranks: int, count: int) -> None:
    samples = samples_of(count)
    serial = evaluate(samples)
    assert [batch.position for batch in serial] == [Position(0, step) for step in range(-(-count // 8))]
    of_rank = [evaluate(samples, replace(CUTTING, rank=rank, ranks=ranks)) for rank in range(ranks)]
    found = sorted(
        (batch for batches in of_rank for batch in batches), key=lambda batch: int(batch.parts[0].samples[0])
    )
    scored = np.concatenate([batch.parts[0].samples for batch in found])
    assert np.array_equal(scored, np.arange(count))
    assert sum(batch.denominator for batch in found) == samples.weights.sum()
    for one, other in zip(found, serial, strict=True):
        (a,), (b,) = arrays(one), arrays(other)
        assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_the_last_batch_is_padded_with_its_last_image_and_not_counted() -> None:
    samples = samples_of(19)
    *_, last = evaluate(samples)
    ((chosen, images, targets),) = arrays(last)
    assert chosen.tolist() == [16, 17, 18]
    assert targets.tolist() == [160, 170, 180] + 5 * [180], "as many as images: a decoder is told those of each"
    assert last.rows == 3
    assert last.denominator == samples.weights[16:].sum()
    assert images.shape == (8, 8, 8, 3), "a fixed size, so that the same sums are made on any number of ranks"
    assert (images[3:] == images[2]).all()


def test_evaluation_sees_the_centre_and_no_chance() -> None:
    samples = samples_of(19)
    rows = samples.rows
    boxes = augment.centre_boxes(samples.source.heights[rows], samples.source.widths[rows], share=0.875)
    images = np.concatenate([next(arrays(batch))[1] for batch in evaluate(samples)])[:19]
    for sample in range(19):
        wanted = np.zeros((8, 8, 3), np.uint8)
        augment.cut(samples.source.read(int(rows[sample])), boxes, sample, out=wanted)
        assert np.array_equal(images[sample], wanted)
    assert_same(evaluate(samples, replace(CUTTING, seed=99)), evaluate(samples))


@pytest.mark.parametrize("ranks", [1, 2])
def test_captions_of_a_batch_are_as_wide_as_its_longest(ranks: int) -> None:
    """The longest of a split is much longer than most, and logits of PAD would be most of an evaluation's memory."""
    lengths = np.array([2, 3, 2, 9, 2, 2, 4, 2])
    targets = np.where(np.arange(9) < lengths[:, None], END, PAD)[:, None]  # [N, 1, L]
    task = Caption(Vocabulary((*SPECIAL, "a")), longest=7, per_image=1, beams=1)
    samples = replace(samples_of(8), targets=targets, chooser=task)
    of_rank = [evaluate(samples, replace(CUTTING, rank=rank, ranks=ranks), batch=4) for rank in range(ranks)]
    found = {int(batch.parts[0].samples[0]): batch.parts[0].targets for batches in of_rank for batch in batches}
    assert {first: tuple(each.shape) for first, each in found.items()} == {0: (4, 1, 9), 4: (4, 1, 4)}
    assert all((each != PAD).sum() == lengths[first : first + 4].sum() for first, each in found.items())


def test_evaluation_of_nothing() -> None:
    assert evaluate(samples_of(0)) == []


# --- threads


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_made_ahead_than_promised(workers: int) -> None:
    samples = samples_of(400)
    source = samples.source
    assert isinstance(source, Arrays)
    batches = train_batches(samples, CUTTING, start=START, epochs=1, workers=workers)
    for taken in range(1, 4):
        next(batches)
        assert 12 * taken <= len(source.reads) <= 12 * (taken + workers + 1)
    batches.close()
    assert len(source.reads) <= 12 * (3 + workers + 1)


def test_nothing_is_read_before_the_first_batch_is_asked_for() -> None:
    samples = samples_of(40)
    source = samples.source
    assert isinstance(source, Arrays)
    batches = train_batches(samples, CUTTING, start=START, epochs=1, workers=2)
    assert source.reads == [] and input_threads() == []
    batches.close()


@pytest.mark.parametrize("end", ["closed", "dropped", "exhausted", "failed"])
def test_threads_end_with_the_batches(end: str) -> None:
    assert input_threads() == []
    samples = samples_of(200)
    batches = train_batches(samples, CUTTING, start=START, epochs=1, workers=3)
    next(batches)
    assert 1 <= len(input_threads()) <= 3
    if end == "closed":
        batches.close()
    elif end == "dropped":
        del batches
    elif end == "exhausted":
        assert len(list(batches)) == 15
    else:
        samples.source.canvases.clear()  # type: ignore[attr-defined]
        with pytest.raises(IndexError):
            list(batches)
    gc.collect()
    assert input_threads() == []


def test_an_error_of_an_input_thread_names_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    manifest = scan(recognise(str(tmp_path), cache=tmp_path / "unused"), workers=1)
    files = Files(manifest, canvas_px=9)
    samples = Samples(files, manifest.rows(), np.zeros(24, np.int64), np.ones(24))
    cutting = replace(CUTTING, batch=4)
    sample = int(order.epoch_order(24, seed=5, epoch=0)[13])  # the fourth batch
    path = manifest.path(sample)
    path.write_bytes(path.read_bytes()[:60])
    batches = train_batches(samples, cutting, start=START, epochs=1, workers=2)
    assert [next(batches).position.step for _ in range(3)] == [0, 1, 2], "what was whole is delivered first, in order"
    with pytest.raises(DataError, match=re.escape(str(path))):
        next(batches)
    assert input_threads() == []
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(evaluation_batches(samples, cutting, batch=8, workers=2))


def test_memory_does_not_grow() -> None:
    samples, cutting = samples_of(60), replace(CUTTING, batch=40)  # every batch is an epoch with an order of its own
    source = samples.source
    assert isinstance(source, Arrays)
    batches = train_batches(samples, cutting, start=START, epochs=1000, workers=2)

    def bytes_after(count: int) -> int:
        """Of Python's memory, once `count` batches were taken and let go."""
        taken = [weakref.ref(next(batches)) for _ in range(count)]
        source.reads.clear()
        gc.collect()
        assert sum(batch() is not None for batch in taken) <= 2, "an input thread may not have let go of its last"
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = bytes_after(100)
        after = bytes_after(300)
    finally:
        tracemalloc.stop()
        batches.close()
    assert after - before < GROWTH_BYTES


def test_views_are_parts_of_a_batch_and_every_image_is_read_once():
    samples = samples_of(20)
    batches = list(evaluation_batches(samples, CUTTING, batch=8, workers=2, views=4))
    assert sorted(samples.source.reads) == sorted([*samples.rows.tolist(), *[samples.rows[-1]] * 4])  # padding too
    plain = evaluate(samples)
    for batch, one in zip(batches, plain, strict=True):
        assert len(batch.parts) == 4 and {len(part.images) for part in batch.parts} == {8}
        assert all(part.samples.tolist() == one.parts[0].samples.tolist() for part in batch.parts)
        assert torch.equal(batch.parts[0].images, one.parts[0].images)
        assert torch.equal(batch.parts[1].images, one.parts[0].images.flip(2))  # the mirror image
        assert torch.equal(batch.parts[3].images, batch.parts[2].images.flip(2))
        assert not torch.equal(batch.parts[2].images, batch.parts[0].images)


@pytest.mark.parametrize("workers", [1, 3])
def test_training_images_grow_and_evaluation_s_do_not(workers: int) -> None:
    samples = samples_of(30)
    cutting = replace(CUTTING, image_px=48, start_px=16, epochs=3)
    batches = train(samples, cutting, epochs=3, workers=workers)
    for batch in batches:
        px = (16, 32, 48)[batch.position.epoch]
        assert {rows.images.shape[1:] for rows in batch.parts} == {(px, px, 3)}
    assert {rows.images.shape[1] for batch in evaluate(samples, cutting) for rows in batch.parts} == {48}
    last = [batch for batch in train(samples, replace(CUTTING, image_px=48), epochs=3) if batch.position.epoch == 2]
    assert_same(batches[-len(last) :], last)  # at the full side it is the run that was there all along
    parts = [train(samples, replace(cutting, rank=rank, ranks=2), epochs=3) for rank in range(2)]
    for whole, *halves in zip(batches, *parts, strict=True):
        for one, other in zip(arrays(whole), joined(halves), strict=True):
            assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
