from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.loading import (
    CUTTING,
    arrays,
    assert_same,
    drawn_samples,
    evaluate,
    joined,
    keys_of,
    samples_of,
    train,
)
from fanlight.config import Augment
from fanlight.data import augment, order, policy
from fanlight.data.loader import Cutting
from fanlight.types import Batch, Position, Rows

# --- training


def test_a_batch_is_the_order_s_samples_cut_by_their_own_numbers() -> None:
    samples = samples_of(40)
    batches = train(samples)
    assert [batch.position for batch in batches] == [Position(e, s) for e in range(2) for s in range(3)]
    for batch in batches:
        epoch, step = batch.position
        chosen = order.epoch_order(40, seed=5, epoch=epoch)[12 * step : 12 * step + 12]
        assert batch.denominator == samples.weights[chosen].sum()
        assert batch.rows == 12
        assert batch.seconds > 0
        place = 0
        for part, images, targets in arrays(batch):
            assert np.array_equal(part, chosen[place : place + len(part)])
            place += len(part)
            assert np.array_equal(targets, part * 10)
            assert images.shape == (6, 8, 8, 3) and images.dtype == np.uint8
            for sample, image in zip(part, images):
                row = samples.rows[[sample]]
                boxes = augment.random_boxes(
                    np.array([sample]), samples.source.heights[row], samples.source.widths[row], seed=5, epoch=epoch,
                    flip=True, share=(0.25, 1.0), ratio=(0.75, 4 / 3),
                )  # fmt: skip
                wanted = np.zeros((8, 8, 3), np.uint8)
                augment.cut(samples.source.read(int(row[0])), boxes, 0, out=wanted)
                assert np.array_equal(image, wanted)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("microbatches", [1, 2, 5])
def test_ranks_together_see_the_serial_batches(ranks: int, microbatches: int) -> None:
    """The parity contract's first part: the same samples, microbatches, crops and pixels on any number of ranks."""
    samples = samples_of(40)
    serial = train(samples, replace(CUTTING, microbatches=microbatches))
    of_rank = [
        train(samples, replace(CUTTING, microbatches=microbatches, rank=rank, ranks=ranks)) for rank in range(ranks)
    ]
    for step, whole in enumerate(serial):
        parts = [batches[step] for batches in of_rank]
        assert {part.position for part in parts} == {whole.position}
        assert {part.denominator for part in parts} == {whole.denominator}, "every rank knows the whole batch's"
        assert sum(part.rows for part in parts) == whole.rows == 12
        for found, wanted in zip(joined(parts), arrays(whole), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(found, wanted))


EVERYTHING = {"policy": "rand", "jitter": (0.4, 0.4, 0.4, 0.1), "erase": 0.5, "mixup": 0.4, "cutmix": 1.0}


def parts_of(batches: list[Batch]) -> list[Rows]:
    return [part for batch in batches for part in batch.parts]


@pytest.mark.parametrize("engine", ["cpu", "device"])
def test_changes_do_not_depend_on_threads_or_ranks(engine: str) -> None:
    samples = samples_of(40)
    cutting = replace(CUTTING, augment=Augment(engine=engine, **EVERYTHING))
    one, four = (parts_of(train(samples, cutting, workers=workers)) for workers in (1, 4))
    of_rank = [parts_of(train(samples, replace(cutting, rank=rank, ranks=3))) for rank in range(3)]
    for rows, other, *parts in zip(one, four, *of_rank, strict=True):
        assert all(len(part.samples) == 2 for part in parts)  # 6 rows are 3 pairs
        for found in ([other], parts):
            for name in ("images", "mix.share", "mix.box", "changes.op", "changes.amount", "changes.erase"):
                if name.startswith("changes") and engine == "cpu":
                    assert all(part.changes is None for part in (rows, *found))
                    continue
                values = [np.asarray(attrgetter(name)(part)) for part in (rows, *found)]
                assert np.array_equal(np.concatenate(values[1:]), values[0]), name


def test_engine_cpu_changes_what_engine_device_leaves_to_do() -> None:
    """Crops are the same with and without: what is drawn for a change is drawn for nothing else."""
    samples = samples_of(40)
    plain = parts_of(train(samples))
    left, done = (
        parts_of(train(samples, replace(CUTTING, augment=Augment(engine=engine, **EVERYTHING))))
        for engine in ("device", "cpu")
    )
    for bare, todo, changed in zip(plain, left, done, strict=True):
        assert bare.changes is None and bare.mix is None and todo.mix is not None and changed.mix is not None
        assert bare.images is not None and todo.images is not None and changed.images is not None
        assert todo.changes is not None and torch.equal(todo.images, bare.images)
        for place, image in enumerate(todo.images.numpy()):
            policy.change(image, todo.changes, place)
        assert torch.equal(todo.images, changed.images) and not torch.equal(changed.images, bare.images)


def test_without_augmentation_training_sees_what_evaluation_sees() -> None:
    samples = samples_of(40)
    evaluated = {
        int(sample): image
        for batch in evaluate(samples)
        for part, images, _ in arrays(batch)
        for sample, image in zip(part, images)
    }
    for batch in train(samples, replace(CUTTING, augment=Augment(off=True))):
        for part, images, _ in arrays(batch):
            assert all(np.array_equal(image, evaluated[int(sample)]) for sample, image in zip(part, images))


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_any_cutting_sees_the_serial_batch(batch: int, microbatches: int, ranks: int) -> None:
    """Also ranks and microbatches without a row."""
    samples = samples_of(20)
    cutting = replace(CUTTING, batch=batch, microbatches=microbatches)
    serial = train(samples, cutting, epochs=1)
    of_rank = [train(samples, replace(cutting, rank=rank, ranks=ranks), epochs=1) for rank in range(ranks)]
    assert len(serial) == 20 // batch
    for step, whole in enumerate(serial):
        for found, wanted in zip(joined([batches[step] for batches in of_rank]), arrays(whole), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(found, wanted))


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_workers_do_not_matter(workers: int) -> None:
    samples = samples_of(40)
    assert_same(train(samples, workers=workers), train(samples, workers=2))
    assert_same(evaluate(samples, workers=workers), evaluate(samples, workers=2))


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("start", [Position(0, 1), Position(0, 3), Position(1, 0), Position(2, 2)])
def test_resuming_goes_on_with_the_next_sample(start: Position, blocks: bool) -> None:
    samples = samples_of(40, blocks=blocks)
    whole = train(samples, epochs=3)
    assert_same(train(samples, start=start, epochs=3), whole[3 * start.epoch + start.step :])


def test_an_ended_run_has_no_batches() -> None:
    assert train(samples_of(40), start=Position(2, 0)) == []
    assert train(samples_of(11)) == [], "no whole batch"


def test_samples_left_out_differ_between_epochs() -> None:
    samples = samples_of(40)  # 3 batches of 12 and 4 left out
    left = []
    for epoch in range(6):
        batches = train(samples, start=Position(epoch, 0), epochs=epoch + 1)
        seen = np.concatenate([part for batch in batches for part, _, _ in arrays(batch)])
        assert len(np.unique(seen)) == len(seen) == 36
        left.append(frozenset(range(40)) - set(seen.tolist()))
    assert len(set(left)) == 6
    assert len(frozenset.union(*left)) > 12


def test_the_blocks_order_reads_blocks_whole() -> None:
    samples = samples_of(120, blocks=True)  # blocks of 3, so a window is 48 samples
    batches = train(samples, replace(CUTTING, batch=48), epochs=1)
    seen = [part // 3 for batch in batches for part, _, _ in arrays(batch)]
    assert len(set(np.concatenate(seen[:2]).tolist())) == order.BLOCK_WINDOW
    assert not set(np.concatenate(seen[:2]).tolist()) & set(np.concatenate(seen[2:]).tolist())


def test_seeds_and_epochs_change_crops() -> None:
    samples = samples_of(12)

    def of(cutting: Cutting, epoch: int) -> dict[int, bytes]:
        (batch,) = train(samples, cutting, start=Position(epoch, 0), epochs=epoch + 1)
        return {int(s): image.tobytes() for part, images, _ in arrays(batch) for s, image in zip(part, images)}

    first = of(CUTTING, 0)
    for other in (of(CUTTING, 1), of(replace(CUTTING, seed=6), 0)):
        same = [sample for sample in first if first[sample] == other[sample]]
        assert len(same) <= 2  # images of a pixel or two have one crop


def test_targets_of_any_shape_are_copied() -> None:
    samples = replace(samples_of(24), targets=np.arange(24 * 3, dtype=np.float32).reshape(24, 3))
    batch = train(samples)[0]
    targets = batch.parts[0].targets
    assert targets is not None and targets.shape == (6, 3) and targets.dtype == torch.float32
    wanted = samples.targets[batch.parts[0].samples].copy()
    samples.targets[:] = -1
    assert np.array_equal(targets.numpy(), wanted)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("blocks", [False, True])
def test_drawn_batches_are_the_same_on_any_number_of_ranks(ranks: int, blocks: bool) -> None:
    samples = drawn_samples(40, blocks=blocks)
    serial = train(samples)
    of_ranks = [train(samples, replace(CUTTING, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for whole, *parts in zip(serial, *of_ranks, strict=True):
        assert {part.denominator for part in parts} == {whole.denominator}
        for wanted, found in zip(joined([whole]), joined(parts), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(wanted, found))


def test_a_sample_that_is_drawn_again_is_cut_otherwise() -> None:
    samples = drawn_samples(40)
    batches = train(samples, replace(CUTTING, batch=40, microbatches=1), epochs=1)
    (part,) = batches[0].parts
    assert part.keys is not None and part.images is not None
    assert np.array_equal(order.samples_of(part.keys), part.samples)
    sample = int(np.bincount(part.samples).argmax())
    places = np.flatnonzero(part.samples == sample)
    assert len(places) == 3
    for place in places:
        row = samples.rows[[sample]]
        boxes = augment.random_boxes(
            part.keys[[place]], samples.source.heights[row], samples.source.widths[row], seed=5, epoch=0, flip=True,
            share=(0.25, 1.0), ratio=(0.75, 4 / 3),
        )  # fmt: skip
        wanted = np.zeros((8, 8, 3), np.uint8)
        augment.cut(samples.source.read(int(row[0])), boxes, 0, out=wanted)
        assert np.array_equal(part.images[place].numpy(), wanted)
    assert len({part.images[place].numpy().tobytes() for place in places}) == 3
    assert batches[0].denominator == samples.weights[part.samples].sum()


def test_draws_in_blocks_are_the_same_draws_in_another_order() -> None:
    one, other = (keys_of(train(drawn_samples(96, blocks=blocks), epochs=1)) for blocks in (False, True))
    assert sorted(one) == sorted(other)
    windows = [{int(sample) // 3 for sample in order.samples_of(part)} for part in np.array_split(other, 8)]
    assert not windows[0] & windows[-1] and len(windows[0]) <= order.BLOCK_WINDOW  # of 32 blocks
    assert {int(sample) // 3 for sample in order.samples_of(one[:48])} & windows[-1]


def test_a_resumed_epoch_of_draws_goes_on_with_the_next_batch() -> None:
    whole = train(drawn_samples(40))
    assert_same(train(drawn_samples(40), start=Position(1, 1)), whole[4:])


def test_without_draws_keys_are_the_samples() -> None:
    for part in (part for batch in train(samples_of(40)) for part in batch.parts):
        assert part.keys is not None and np.array_equal(part.keys, part.samples)
