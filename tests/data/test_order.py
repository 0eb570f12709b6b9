from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.data import order
from fanlight.types import Position

CHI_63 = 103.4  # chi-square with 63 degrees of freedom passes it once in 1,000 draws; seeds here are fixed
CHI_49 = 85.4  # the same with 49
CHI_23 = 49.7  # the same with 23
KS = 1.95  # √n times the Kolmogorov-Smirnov distance: once in 1,000
CORRELATION = 4.0  # √n times a correlation of independent numbers: once in 16,000
WORD = (1 << 64) - 1

GOLDEN_BITS = [[3827544751006511609, 1434305392382282151], [12544547414484133101, 308674239284659054]]
GOLDEN_UNIFORMS = [0.39327092928225393, 0.01775744785205069, 0.4599584071870604]
GOLDEN_ORDER = [1, 8, 5, 6, 10, 2, 0, 7, 3, 11, 9, 4]
GOLDEN_ORDER_1 = [1, 5, 10, 2, 7, 9, 6, 3, 0, 4, 11, 8]
GOLDEN_BLOCKS = [8, 6, 10, 7, 11, 9, 1, 5, 2, 0, 3, 4]

seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 2**31)


def reference(seed: int, epoch: int, sample: int, draw: int) -> int:
    """The hash in Python's own integers, after Steele, Lea and Flood."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    key = mix((seed & WORD) + golden & WORD)
    key = mix((key ^ epoch) + golden & WORD)
    key = mix((key ^ sample) + golden & WORD)
    return mix(key + (draw + 1) * golden & WORD)


def chi_square(values: np.ndarray, bins: int) -> float:
    counts = np.bincount((values * bins).astype(int), minlength=bins)
    expected = len(values) / bins
    return float(((counts - expected) ** 2 / expected).sum())


def chi_square_joint(a: np.ndarray, b: np.ndarray, bins: int = 8) -> float:
    """With (bins − 1)² degrees of freedom: are a and b independent, in more than their means?"""
    table = np.zeros((bins, bins))
    np.add.at(table, ((a * bins).astype(int), (b * bins).astype(int)), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


# --- the hash


@given(seeds, epochs, st.integers(0, 2**40), st.integers(0, 2**41))
@settings(deadline=None)
def test_bits_are_the_published_hash(seed: int, epoch: int, sample: int, draw: int) -> None:
    got = order.bits(np.array([sample]), seed=seed, epoch=epoch, draws=2, first_draw=draw)
    assert got.tolist() == [[reference(seed, epoch, sample, draw), reference(seed, epoch, sample, draw + 1)]]


def test_numbers_never_change_between_versions() -> None:
    """Pinned: a drift here changes every run's batches and crops without an error."""
    assert order.bits(np.array([0, 12345]), seed=7, epoch=3, draws=2).tolist() == GOLDEN_BITS
    assert order.uniforms(np.array([5]), seed=0, epoch=0, draws=3)[0].tolist() == GOLDEN_UNIFORMS
    assert order.epoch_order(12, seed=0, epoch=0).tolist() == GOLDEN_ORDER
    assert order.epoch_order(12, seed=0, epoch=1).tolist() == GOLDEN_ORDER_1
    assert order.block_order(np.arange(12) // 3, seed=0, epoch=0, window=2).tolist() == GOLDEN_BLOCKS


def test_mix_is_a_bijection_with_avalanche() -> None:
    values = np.arange(1 << 16, dtype=np.uint64)
    mixed = order.mix(values)
    assert len(np.unique(mixed)) == len(values)
    for bit in (0, 1, 31, 63):
        flipped = mixed ^ order.mix(values ^ np.uint64(1 << bit))
        share = np.unpackbits(flipped.view(np.uint8)).mean()
        assert abs(share - 0.5) < 0.01, f"bit {bit} of the input turns {share} of the output"


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.randoms(), seeds, epochs)
@settings(deadline=None)
def test_a_sample_has_the_same_numbers_with_anyone(samples: list[int], random, seed: int, epoch: int) -> None:
    whole = order.uniforms(np.array(samples), seed=seed, epoch=epoch, draws=4)
    assert whole.shape == (len(samples), 4)
    assert ((whole >= 0) & (whole < 1)).all()
    places = random.sample(range(len(samples)), random.randint(1, len(samples)))
    part = order.uniforms(np.array(samples)[places], seed=seed, epoch=epoch, draws=4)
    assert np.array_equal(part, whole[places])


def test_later_draws_are_the_tail_of_more_draws() -> None:
    samples = np.arange(9)
    whole = order.uniforms(samples, seed=1, epoch=2, draws=8)
    assert np.array_equal(order.uniforms(samples, seed=1, epoch=2, draws=3, first_draw=5), whole[:, 5:])
    assert order.uniforms(np.empty(0, np.int64), seed=1, epoch=2, draws=3).shape == (0, 3)


def test_integer_types_of_samples_do_not_matter() -> None:
    wanted = order.bits(np.arange(5, dtype=np.int64), seed=1, epoch=1, draws=2)
    for kind in (np.int32, np.uint8, np.uint64):
        assert np.array_equal(order.bits(np.arange(5, dtype=kind), seed=1, epoch=1, draws=2), wanted)


@pytest.mark.parametrize("draw", [0, 1, 4, 100])
@pytest.mark.parametrize("epoch", [0, 1, 50])
def test_draws_are_uniform(draw: int, epoch: int) -> None:
    values = order.uniforms(np.arange(40_000), seed=3, epoch=epoch, draws=1, first_draw=draw)[:, 0]
    assert chi_square(values, 64) < CHI_63
    ranks = np.arange(1, len(values) + 1) / len(values)
    assert np.abs(np.sort(values) - ranks).max() * len(values) ** 0.5 < KS
    assert chi_square(values * 1024 % 1, 64) < CHI_63  # the bits below the leading ten
    assert chi_square(values * 2.0**40 % 1, 64) < CHI_63  # and those at the end


@pytest.mark.parametrize("axis", ["draw", "epoch", "seed", "neighbour", "epoch for seed", "sample for epoch"])
def test_numbers_are_independent_along(axis: str) -> None:
    samples = np.arange(40_000)

    def numbers(*, seed: int = 11, epoch: int = 0, draw: int = 0, shift: int = 0) -> np.ndarray:
        return order.uniforms(samples + shift, seed=seed, epoch=epoch, draws=1, first_draw=draw)[:, 0]

    others = {
        "draw": numbers(draw=1),
        "epoch": numbers(epoch=1),
        "seed": numbers(seed=12),
        "neighbour": numbers(shift=1),
        "epoch for seed": numbers(seed=10, epoch=1),  # a sum or a xor of seed and epoch would collide here
        "sample for epoch": numbers(epoch=1, shift=-1),
    }
    a, b = numbers(), others[axis]
    assert abs(np.corrcoef(a, b)[0, 1]) * len(a) ** 0.5 < CORRELATION
    assert chi_square_joint(a, b) < CHI_49
    assert not np.isin(a, b).any() or axis == "neighbour"


# --- orders


@given(st.integers(0, 300), seeds, epochs)
@settings(deadline=None)
def test_epoch_order_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    found = order.epoch_order(count, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(found), np.arange(count))


def test_epoch_orders_differ_between_epochs_and_seeds() -> None:
    orders = {order.epoch_order(50, seed=seed, epoch=epoch).tobytes() for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_permutation_is_as_likely() -> None:
    found = [tuple(order.epoch_order(4, seed=0, epoch=epoch).tolist()) for epoch in range(2400)]
    counts = np.array([found.count(permutation) for permutation in sorted(set(found))])
    assert len(counts) == 24
    assert ((counts - 100) ** 2 / 100).sum() < CHI_23


def test_the_order_is_not_the_augmentation() -> None:
    """The order's hash is drawn where no augmentation draws, or first samples of an epoch would be cropped alike."""
    first = order.uniforms(order.epoch_order(5000, seed=0, epoch=0), seed=0, epoch=0, draws=8)
    place = np.linspace(-1, 1, 5000)
    for draw in range(8):
        assert abs(np.corrcoef(place, first[:, draw])[0, 1]) * 5000**0.5 < CORRELATION


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(1, 5), seeds, epochs)
@settings(deadline=None)
def test_block_order_finishes_windows(blocks: list[int], window: int, seed: int, epoch: int) -> None:
    blocks_N = np.array(blocks) * 7  # names need not be 0 … k−1
    found = order.block_order(blocks_N, seed=seed, epoch=epoch, window=window)
    assert np.array_equal(np.sort(found), np.arange(len(blocks_N)))
    names = len(np.unique(blocks_N))
    read = blocks_N[found]
    seen: list[set[int]] = []  # the windows, one after the other
    place = 0
    while place < len(read):
        opened: set[int] = set()
        while place < len(read) and (read[place] in opened or len(opened) < window):
            opened.add(int(read[place]))
            place += 1
        seen.append(opened)
    assert len(seen) == -(-names // window)
    assert sum(len(opened) for opened in seen) == names  # no block is opened again


def test_block_order_shuffles_blocks_and_samples_of_a_window() -> None:
    blocks = np.arange(400) // 10
    found = [order.block_order(blocks, seed=0, epoch=epoch, window=4) for epoch in range(2)]
    assert not np.array_equal(found[0], found[1])
    for permutation in found:
        read = blocks[permutation]
        windows = [set(read[start : start + 40].tolist()) for start in range(0, 400, 40)]
        assert all(len(names) == 4 for names in windows)
        assert any(max(names) - min(names) > 4 for names in windows)  # blocks that do not lie side by side
        assert all(len(set(read[start : start + 10].tolist())) > 1 for start in range(0, 400, 40))  # mixed
    assert blocks.tolist() == (np.arange(400) // 10).tolist()


def test_one_window_of_all_blocks_is_the_random_order() -> None:
    blocks = np.arange(60) // 6
    found = order.block_order(blocks, seed=4, epoch=2, window=10)
    assert np.array_equal(found, order.epoch_order(60, seed=4, epoch=2))


# --- draws with replacement

some_chances = st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5, 1e-9, 1e6]), min_size=1, max_size=60).filter(any)


def counts_of(found: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(found, minlength=count)


@given(some_chances, st.data(), seeds, epochs)
@settings(deadline=None)
def test_every_sample_and_stratum_is_drawn_as_often_as_it_should(chances, data, seed: int, epoch: int) -> None:
    """To within the rounding up or down of one systematic sample."""
    count = len(chances)
    strata = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    found = order.drawn(order.Draws(np.array(chances), strata), seed=seed, epoch=epoch)
    assert found.shape == (count,) and ((found >= 0) & (found < count)).all()
    wanted = count * np.array(chances) / sum(chances)
    drawn = counts_of(found, count)
    assert (np.abs(drawn - wanted) < 1 + 1e-6).all()
    assert not drawn[np.array(chances) == 0].any()
    by_stratum = [np.bincount(strata, weights=weights, minlength=4) for weights in (drawn, wanted)]
    assert (np.abs(by_stratum[0] - by_stratum[1]) < 1 + 1e-6).all()


def test_draws_are_of_every_epoch_anew_and_right_on_average() -> None:
    chances, strata = np.linspace(0.1, 2, 40), np.arange(40) % 3
    draws = order.Draws(chances, strata)
    found = [order.drawn(draws, seed=3, epoch=epoch) for epoch in range(400)]
    assert np.array_equal(found[7], order.drawn(draws, seed=3, epoch=7))
    assert len({each.tobytes() for each in found}) == 400
    mean = np.mean([counts_of(each, 40) for each in found], axis=0)
    wanted = 40 * chances / chances.sum()
    share = wanted % 1
    assert (np.abs(mean - wanted) <= 4 * np.sqrt(share * (1 - share) / 400) + 1e-9).all()  # rounded up with that chance


def test_two_samples_are_not_drawn_together_more_than_others() -> None:
    """Systematic samples of a fixed line would take every third image of a class, always with the same company."""
    draws = order.Draws(np.repeat([1 / 60, 1 / 20], [60, 20]), np.repeat([0, 1], [60, 20]))
    drawn = np.array([counts_of(order.drawn(draws, seed=0, epoch=epoch), 80)[:60] for epoch in range(1000)])
    together = np.corrcoef(drawn.T)[np.triu_indices(60, 1)]
    assert np.abs(together).max() < 0.2  # 1/√1000 scatters by 0.03; a fixed line gives 1


def test_balanced_draws_have_every_class_as_often() -> None:
    labels = np.repeat([0, 1, 2], [90, 9, 3])
    found = order.drawn(order.Draws(1.0 / np.bincount(labels)[labels], labels), seed=1, epoch=0)
    assert np.bincount(labels[found]).tolist() == [34, 34, 34]
    drawn = counts_of(found, 102)
    assert drawn[:90].max() == 1 and set(drawn[90:99]) <= {3, 4} and set(drawn[99:]) <= {11, 12}


@given(st.lists(st.integers(0, 9), max_size=60))
def test_a_sample_s_first_time_has_its_own_key_and_every_other_another(samples: list[int]) -> None:
    keys = order.occurrence_keys(np.array(samples, np.int64))
    assert order.samples_of(keys).tolist() == samples
    assert len(set(keys.tolist())) == len(samples)
    first = {sample: samples.index(sample) for sample in samples}
    assert all(keys[place] == sample for sample, place in first.items())


def test_a_permutation_is_its_own_keys() -> None:
    found = order.epoch_order(50, seed=0, epoch=0)
    assert np.array_equal(order.occurrence_keys(found), found)
    assert np.array_equal(order.samples_of(found), found)


# --- steps, parts and ranks


def test_steps_leave_out_the_partial_batch() -> None:
    assert [order.steps_per_epoch(count, 8) for count in (0, 7, 8, 15, 16)] == [0, 0, 1, 1, 2]


@given(st.integers(0, 5), st.integers(0, 6), st.data())
def test_positions_from_anywhere_are_the_tail(epochs: int, steps: int, data: st.DataObject) -> None:
    whole = list(order.positions(Position(0, 0), epochs=epochs, steps=steps))
    assert whole == [Position(epoch, step) for epoch in range(epochs) for step in range(steps)]
    done = data.draw(st.integers(0, len(whole)))
    start = whole[done] if done < len(whole) else Position(epochs, 0)
    assert list(order.positions(start, epochs=epochs, steps=steps)) == whole[done:]


def test_a_position_at_an_epoch_s_end_goes_on_with_the_next() -> None:
    assert list(order.positions(Position(0, 3), epochs=2, steps=3)) == [Position(1, 0), Position(1, 1), Position(1, 2)]


@given(st.integers(0, 10_000), st.integers(1, 300))
@settings(deadline=None)
def test_parts_are_consecutive_and_even(count: int, parts: int) -> None:
    slices = [order.part_rows(count, part=part, parts=parts) for part in range(parts)]
    assert slices[0].start == 0 and slices[-1].stop == count
    assert all(a.stop == b.start for a, b in pairwise(slices))
    sizes = [part.stop - part.start for part in slices]
    assert min(sizes) >= 0 and max(sizes) - min(sizes) <= 1


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None)
def test_ranks_together_take_each_microbatch_once(batch: int, microbatches: int, ranks: int) -> None:
    rows = np.arange(batch)
    serial = order.rank_slices(batch, microbatches=microbatches, rank=0, ranks=1)
    assert np.array_equal(np.concatenate([rows[part] for part in serial]), rows)
    of_rank = [order.rank_slices(batch, microbatches=microbatches, rank=rank, ranks=ranks) for rank in range(ranks)]
    for index, whole in enumerate(serial):
        assert np.array_equal(np.concatenate([rows[slices[index]] for slices in of_rank]), rows[whole])


@given(st.integers(0, 100), st.integers(2, 3), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None)
def test_units_stay_together_on_any_ranks(units: int, unit: int, microbatches: int, ranks: int) -> None:
    rows = np.arange(units * unit)
    options = {"microbatches": microbatches, "unit": unit}
    serial = order.rank_slices(len(rows), rank=0, ranks=1, **options)
    assert np.array_equal(np.concatenate([rows[part] for part in serial]), rows)
    of_rank = [order.rank_slices(len(rows), rank=rank, ranks=ranks, **options) for rank in range(ranks)]
    assert all(part.start % unit == part.stop % unit == 0 for slices in of_rank for part in slices)
    for index, whole in enumerate(serial):
        assert np.array_equal(np.concatenate([rows[slices[index]] for slices in of_rank]), rows[whole])
        sizes = [slices[index].stop - slices[index].start for slices in of_rank]
        assert max(sizes) - min(sizes) <= unit


def test_a_batch_that_is_no_multiple_of_its_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 13 rows does not divide into units of 2"):
        order.rank_slices(13, microbatches=1, rank=0, ranks=1, unit=2)


@given(st.integers(0, 500), st.integers(1, 70), st.integers(1, 9))
@settings(deadline=None)
def test_evaluation_covers_every_sample_once(count: int, batch: int, ranks: int) -> None:
    serial = order.evaluation_slices(count, batch=batch, rank=0, ranks=1)
    assert [row for part in serial for row in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start == batch for part in serial[:-1])
    found = [
        part for rank in range(ranks) for part in order.evaluation_slices(count, batch=batch, rank=rank, ranks=ranks)
    ]
    assert sorted(found, key=lambda part: part.start) == serial  # the same samples share a batch
    shares = [len(order.evaluation_slices(count, batch=batch, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert max(shares) - min(shares) <= 1


def test_order_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, fanlight.data.order; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
