"""Which sample, in which step, microbatch and rank, and with which random numbers: pure arithmetic, no state, no torch.

The global batch is cut into microbatches first, then into ranks, so a microbatch holds the same samples on any number
of ranks. Randomness is a counter hash of (seed, epoch, sample, draw): any rank can compute any sample's numbers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fanlight.types import Position

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment (Steele, Lea, Flood 2014)
_ORDER_DRAW = 1 << 40  # draws from here on are the epoch's order, below it augmentation
_LINE_DRAW, _OFFSET_DRAW = _ORDER_DRAW + 1, _ORDER_DRAW + 2  # of draws with replacement
_OCCURRENCE = 1 << 40  # a key is sample + occurrence · 2^40: more samples than that there are not
BLOCK_BYTES = 8 << 20  # a block of the `blocks` order: large enough that a disk streams it
BLOCK_WINDOW = 16  # blocks whose samples are shuffled together


def mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: a bijection of uint64 whose output bits each depend on every input bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def bits(samples: np.ndarray, *, seed: int, epoch: int, draws: int, first_draw: int = 0) -> np.ndarray:
    """uint64 [B, draws]: the hash of (seed, epoch, sample, first_draw … first_draw + draws − 1)."""
    with np.errstate(over="ignore"):  # wrap-around is the arithmetic wanted
        key = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + _GOLDEN)
        key = mix((key ^ np.uint64(epoch)) + _GOLDEN)
        keys = mix((key ^ np.asarray(samples).astype(np.uint64)) + _GOLDEN)
        counters = np.arange(first_draw + 1, first_draw + draws + 1, dtype=np.uint64) * _GOLDEN
        return mix(keys[:, None] + counters[None, :])


def uniforms(samples: np.ndarray, *, seed: int, epoch: int, draws: int, first_draw: int = 0) -> np.ndarray:
    """float64 [B, draws] in [0, 1), equal for a sample wherever and with whomever it is drawn."""
    return (bits(samples, seed=seed, epoch=epoch, draws=draws, first_draw=first_draw) >> np.uint64(11)) * 2.0**-53


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 … count−1: the stable argsort of the hash, the same on every machine and NumPy version."""
    return np.argsort(_order_keys(np.arange(count), seed=seed, epoch=epoch), kind="stable")


def block_order(blocks: np.ndarray, *, seed: int, epoch: int, window: int = BLOCK_WINDOW) -> np.ndarray:
    """A permutation of the samples that reads blocks whole: blocks in random order, shuffled `window` at a time.

    `blocks` int64 [N] names each sample's block. The k-th group of `window` blocks is finished before the next begins.
    """
    names, block_of = np.unique(blocks, return_inverse=True)
    place = np.empty(len(names), np.int64)
    place[epoch_order(len(names), seed=seed ^ 0x5EED, epoch=epoch)] = np.arange(len(names))
    keys = _order_keys(np.arange(len(blocks)), seed=seed, epoch=epoch)
    return np.lexsort((keys, place[block_of] // window))


class Draws(NamedTuple):
    """How an epoch draws its samples with replacement. N samples."""

    chances: np.ndarray  # float64 [N], at least 0 and not all 0: how likely each sample is, relative to the others
    strata: np.ndarray  # int64 [N]: each stratum, such as a class, gets its share of an epoch to within one draw


def drawn(draws: Draws, *, seed: int, epoch: int) -> np.ndarray:
    """int64 [N]: N samples drawn with replacement, sorted by stratum; sample i is drawn N·chances[i]/Σchances times.

    Systematic sampling (Madow and Madow 1944) by the inverse of the cumulative chances: not N independent uniforms but N
    equidistant points with one keyed offset, over samples in keyed order within their strata. Every sample is drawn as
    often as it should on average, and in each epoch that number rounded down or up, where independent draws would
    scatter like a Poisson count: an epoch's mix varies less, so do its gradients. Chances of 0 are never drawn.
    """
    count = len(draws.chances)
    keys = bits(np.arange(count), seed=seed, epoch=epoch, draws=1, first_draw=_LINE_DRAW)[:, 0]
    line = np.lexsort((keys, draws.strata))
    ends = np.cumsum(draws.chances[line])
    offset = uniforms(np.zeros(1, np.int64), seed=seed, epoch=epoch, draws=1, first_draw=_OFFSET_DRAW)[0, 0]
    points = (np.arange(count) + offset) / count * ends[-1]
    last = np.searchsorted(ends, ends[-1])  # rounding must not carry a point past the last sample that has a chance
    return line[np.minimum(np.searchsorted(ends, points, side="right"), last)]


def occurrence_keys(samples: np.ndarray) -> np.ndarray:
    """int64 [N]: what the random numbers of an epoch's samples are hashed by, in the epoch's order: the sample the first
    time, another number at each further time, so that a sample drawn twice is not augmented twice alike."""
    places = np.argsort(samples, kind="stable")
    ordered = samples[places]
    keys = np.empty(len(samples), np.int64)
    keys[places] = ordered + (np.arange(len(samples)) - np.searchsorted(ordered, ordered)) * _OCCURRENCE
    return keys


def samples_of(keys: np.ndarray) -> np.ndarray:
    """int64 [N]: the samples that `occurrence_keys` made keys of."""
    return keys % _OCCURRENCE


def _order_keys(samples: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    return bits(samples, seed=seed, epoch=epoch, draws=1, first_draw=_ORDER_DRAW)[:, 0]


def steps_per_epoch(count: int, batch: int) -> int:
    """Optimizer steps of one epoch. Samples that fill no whole batch wait for another epoch's order."""
    return count // batch


def positions(start: Position, *, epochs: int, steps: int) -> Iterator[Position]:
    """Every (epoch, step) from `start` to the end, `steps` per epoch."""
    for epoch in range(start.epoch, epochs):
        for step in range(start.step if epoch == start.epoch else 0, steps):
            yield Position(epoch, step)


def part_rows(count: int, *, part: int, parts: int) -> slice:
    """Part `part` of `count` rows cut into `parts`. The union over parts is all rows, sizes differ by at most 1."""
    return slice(part * count // parts, (part + 1) * count // parts)


def rank_slices(batch: int, *, microbatches: int, rank: int, ranks: int, unit: int = 1) -> list[slice]:
    """Rows of the global batch that `rank` takes, one slice per microbatch.

    Microbatch first, then rank: for every microbatch the union over ranks is the microbatch, for any number of ranks.
    `unit` neighbouring rows stay together: every microbatch and every part begins and ends at a multiple of it.
    ValueError where the batch is no multiple itself.
    """
    if batch % unit:
        raise ValueError(f"a batch of {batch} rows does not divide into units of {unit}")
    slices = []
    for index in range(microbatches):
        whole = part_rows(batch // unit, part=index, parts=microbatches)
        mine = part_rows(whole.stop - whole.start, part=rank, parts=ranks)
        slices.append(slice((whole.start + mine.start) * unit, (whole.start + mine.stop) * unit))
    return slices


def evaluation_slices(count: int, *, batch: int, rank: int, ranks: int) -> list[slice]:
    """Batches that `rank` scores: every `ranks`-th of the batches of fixed size that cover 0 … count−1 once.

    Which samples share a batch does not depend on the number of ranks, so neither do the rows, bit for bit.
    """
    batches = -(-count // batch)
    return [slice(k * batch, min((k + 1) * batch, count)) for k in range(rank, batches, ranks)]
