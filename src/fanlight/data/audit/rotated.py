"""Pictures turned about their centre and cut to what is whole: found by making the turned picture, not by keypoints.

Every picture is turned in steps of STEP degrees, cut as programs cut (see `_views`), and its low frequencies are looked up
among those of all pictures in their 8 flips and quarter turns; so soft pictures, which have no keypoints, are found too.
What comes near is turned again in fine steps, and all frequencies and the details must agree. D pictures, F = 10
frequencies a side, V views of one picture, B bands of hash keys.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import Executor
from dataclasses import dataclass

import cv2
import numpy as np

from fanlight.data.audit import buckets, overlay
from fanlight.data.audit.signature import FREQUENCIES, THUMB_PX, Signatures, room, spectra

STEP = 3.75  # degrees between views; half of it off, copies still correlate by .93 (1 % of 800 are lower)
FINE = (-2.5, -1.875, -1.25, -0.625, 0.0, 0.625, 1.25, 1.875, 2.5)
LOW, VIEW_PX = 10, 24  # frequencies a side, and pixels of a view
BANDS = 40
BITS_MORE = 3  # of a key, than the logarithm of the number of entries
WINDOW = 8  # entries of one bucket that a view is compared with
COARSE_LEAST = 0.88  # correlation of low frequencies
TINT_MOST = 12.0  # mean half levels; of 800 copies none is beyond 5
CANDIDATES = 6  # of one picture: those that correlate best
BLOCK = 64  # pictures per task of a thread

_INNER = np.pad(np.ones((THUMB_PX - 2, THUMB_PX - 2), bool), 1)  # rims are mixed with what was cut
_turn = 1.0 - 2 * (np.arange(LOW) % 2)
_signs = np.stack([np.outer(down, across) for down in (_turn**2, _turn) for across in (_turn**2, _turn)])
_LAID = np.concatenate([_signs, _signs.swapaxes(1, 2)]).astype(np.float32)  # after transposing, from the fifth on


@dataclass(frozen=True, eq=False)
class Found:
    """Pairs of pictures, of which one was turned to lie on the other."""

    both: np.ndarray  # int64 [P, 2], a < b, in order
    like: np.ndarray  # float32 [P], correlation of the spectra
    pixels: np.ndarray  # float32 [P], correlation of the details
    capped: int  # views that met a bucket too large to be compared with all of it


@dataclass(frozen=True, eq=False)
class _Index:
    """All pictures in their 8 flips and turns; entry 8 · member + flip."""

    members: np.ndarray
    low: np.ndarray  # float32 [members, F, F], spectra of length 1
    throw: np.ndarray  # float32 [F·F, BANDS · bits]
    bits: int  # of a key
    entry_bits: int
    words: np.ndarray  # int64 [BANDS, 8 · members], a key and its entry, sorted


def find(pictures: Signatures, members: np.ndarray, *, known: np.ndarray, memory_bytes: int, pool: Executor) -> Found:
    """Pairs among `members` that lie on each other after a turn. `known`: codes a · D + b of pairs to leave out."""
    index = _indexed(pictures, members, memory_bytes=memory_bytes, pool=pool)
    count = len(pictures)
    starts = range(0, len(members), BLOCK)
    parts = list(pool.map(lambda start: _of_block(pictures, index, slice(start, start + BLOCK), known=known), starts))
    codes = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
    like, pixels = (np.concatenate([np.zeros(0, np.float32), *(part[k] for part in parts)]) for k in (1, 2))
    order = np.lexsort((-like, -pixels, codes))
    order = order[np.unique(codes[order], return_index=True)[1]]
    both = np.stack(np.divmod(codes[order], count), 1).reshape(-1, 2)
    return Found(both, like[order], pixels[order], sum(part[3] for part in parts))


def _indexed(pictures: Signatures, members: np.ndarray, *, memory_bytes: int, pool: Executor) -> _Index:
    entries = len(_LAID) * len(members)
    entry_bits = max(entries, 2).bit_length()
    bits = int(np.clip(entry_bits + BITS_MORE, 14, 24))  # float32 counts to 2^24
    low = pictures.spectrum[members].reshape(-1, FREQUENCIES, FREQUENCIES)[:, :LOW, :LOW].astype(np.float32)
    low /= np.maximum(np.linalg.norm(low, axis=(1, 2), keepdims=True), 1e-6)
    throw = buckets.coins(LOW * LOW, BANDS * bits, name="rotated")
    words = room((BANDS, entries), np.int64, memory_bytes=memory_bytes)

    def fill(start: int) -> None:
        some = low[start : start + BLOCK, None]
        flips = np.concatenate([some * _LAID[:4], some.swapaxes(2, 3) * _LAID[4:]], 1).reshape(-1, LOW * LOW)
        place = np.arange(8 * start, 8 * start + len(flips))
        words[:, place] = buckets.keys(flips @ throw > 0, bits=bits).T << entry_bits | place

    list(pool.map(fill, range(0, len(members), BLOCK)))
    list(pool.map(lambda band: words[band].sort(), range(BANDS)))
    return _Index(members, low, throw, bits, entry_bits, words)


def _of_block(
    pictures: Signatures, index: _Index, block: slice, *, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Codes a · D + b, correlations of spectra and of details, of pairs that these members' views propose."""
    members = index.members[block]
    views = [_seen(pictures.thumb[one], _maps(*pictures.size[one].tolist())) for one in members]
    counts = np.array([len(each) for each in views])
    low = spectra(np.concatenate(views), frequencies=LOW)
    place, entry, capped = _met(index, low)
    owner = np.repeat(np.arange(len(members)), counts)[place]
    view = place - (np.cumsum(counts) - counts)[owner]
    other, flip = np.divmod(entry, 8)
    apart = index.members[other] != members[owner]
    place, owner, view, other, flip = (each[apart] for each in (place, owner, view, other, flip))
    like = np.zeros(len(place), np.float32)
    for start in range(0, len(place), 4096):
        part = slice(start, start + 4096)
        laid = index.low[other[part]]
        laid = np.where((flip[part] >= 4)[:, None, None], laid.transpose(0, 2, 1), laid) * _LAID[flip[part]]
        like[part] = (low[place[part]] * laid.reshape(-1, LOW * LOW)).sum(1)
    best = np.flatnonzero(like >= COARSE_LEAST)
    best = best[np.lexsort((flip[best], view[best], -like[best], other[best], owner[best]))]
    _, first = np.unique(owner[best] * len(index.members) + other[best], return_index=True)
    best = best[first]
    best = best[np.lexsort((other[best], -like[best], owner[best]))]
    rank = np.arange(len(best)) - np.searchsorted(owner[best], owner[best])
    a, b = members[owner[best]], index.members[other[best]]
    codes = np.minimum(a, b) * len(pictures) + np.maximum(a, b)
    wanted = (rank < CANDIDATES) & ~np.isin(codes, known)
    fine = [
        _fine(pictures, int(one), int(two), view=int(view[at]), flip=int(flip[at]))
        for one, two, at in zip(a[wanted], b[wanted], best[wanted])
    ]
    both = np.array(fine, np.float32).reshape(-1, 2)
    return codes[wanted], both[:, 0], both[:, 1], capped


def _met(index: _Index, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Views and entries that share a key, each pair once."""
    keys = buckets.keys(low @ index.throw > 0, bits=index.bits)
    entries = index.words.shape[1]
    found = [np.zeros(0, np.int64)]
    capped = np.zeros(len(low), bool)
    for band in range(BANDS):
        words = index.words[band]
        order = np.argsort(keys[:, band])
        asked = keys[order, band]
        first = np.searchsorted(words, asked << index.entry_bits)
        size = np.searchsorted(words, (asked + 1) << index.entry_bits) - first
        capped[order[size > WINDOW]] = True
        first = first + np.where(size > WINDOW, asked * 40503 % np.maximum(size - WINDOW + 1, 1), 0)
        size = np.minimum(size, WINDOW)
        met = np.repeat(first - np.cumsum(size) + size, size) + np.arange(size.sum())
        entry = words[met] & ((1 << index.entry_bits) - 1)
        found.append(np.repeat(order, size) * entries + entry)
    place, entry = np.divmod(np.unique(np.concatenate(found)), max(entries, 1))
    return place, entry, int(capped.sum())


def _fine(pictures: Signatures, a: int, b: int, *, view: int, flip: int) -> tuple[float, float]:
    """Correlations of the spectra and of the details of b, flipped, and of a in the best of some turns about the view;
    0 where the colours differ."""
    maps = _fine_maps(*pictures.size[a].tolist(), view)
    seen = _seen(pictures.thumb[a], maps)
    laid = np.ascontiguousarray(_flips(pictures.thumb[b])[flip])
    like = spectra(seen, frequencies=FREQUENCIES) @ spectra(laid[None], frequencies=FREQUENCIES)[0]
    best = int(like.argmax())
    rows = slice(best * THUMB_PX, (best + 1) * THUMB_PX)
    tints = [_seen(tint, maps[:, rows])[0] for tint in _tints(pictures.colours[a])]
    other = _flips(_tints(pictures.colours[b]))[flip].astype(np.float32)
    if np.abs(tints - other).mean() > TINT_MOST + other.std((1, 2)).mean() / 4:  # vivid ones lose more by 8 × 8 places
        return 0.0, 0.0
    return float(like[best]), overlay.likeness(seen[best], laid, seen=_INNER)


def _tints(colours: np.ndarray) -> np.ndarray:
    """uint8 [2, S, S]: red and blue beyond green, 128 where they are equal."""
    small = colours.astype(np.int16)
    tints = (small[..., ::2] - small[..., 1:2]) // 2 + 128
    large = cv2.resize(tints.astype(np.uint8), (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(large.transpose(2, 0, 1))


def _flips(squares: np.ndarray) -> np.ndarray:
    """[8, …, S, S]: as they are, left-right, top-bottom, both, and these four transposed."""
    four = [squares, squares[..., ::-1], squares[..., ::-1, :], squares[..., ::-1, ::-1]]
    return np.stack(four + [one.swapaxes(-1, -2) for one in four])


@functools.lru_cache(256)
def _fine_maps(width: int, height: int, view: int) -> np.ndarray:
    """float32 [2, FINE · S, S]."""
    degrees, kept = _views(width, height)[view]
    maps = [_map(width, height, degrees + more, keeps_shape=kept, px=THUMB_PX) for more in FINE]
    return np.ascontiguousarray(np.concatenate(maps, 1))


@functools.lru_cache(512)
def _views(width: int, height: int) -> tuple[tuple[float, bool], ...]:
    """Degrees, and whether the cut keeps the picture's shape: else it is the largest rectangle, then stretched."""
    steps = (np.arange(round(90 / STEP)) + 0.5) * STEP
    kept = steps if width != height else steps[steps < 45]
    views = [(sign * float(degrees), True) for degrees in kept for sign in (1, -1)]
    if width != height:
        views += [(sign * float(degrees), False) for degrees in steps[steps < 45] for sign in (1, -1)]
    return tuple(views)


def _whole(width: int, height: int, degrees: float, *, keeps_shape: bool) -> tuple[float, float]:
    """Width and height of the largest upright rectangle in the turned picture."""
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    long, short = max(width, height), min(width, height)
    if keeps_shape:
        share = 1 / (cosine + sine * long / short)
        return width * share, height * share
    if short <= 2 * sine * cosine * long:
        across, along = short / 2 / sine, short / 2 / cosine
        return (across, along) if width >= height else (along, across)
    square = cosine * cosine - sine * sine
    return (width * cosine - height * sine) / square, (height * cosine - width * sine) / square


def _map(width: int, height: int, degrees: float, *, keeps_shape: bool, px: int) -> np.ndarray:
    """float32 [2, px, px]: x and y in the small picture of each pixel of the view."""
    across, down = _whole(width, height, degrees, keeps_shape=keeps_shape)
    grid = (np.arange(px) + 0.5) / px - 0.5
    x, y = grid * across, grid[:, None] * down
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    places = (cosine * x - sine * y) / width, (sine * x + cosine * y) / height
    return (np.stack(places) * THUMB_PX + (THUMB_PX - 1) / 2).astype(np.float32)


@functools.lru_cache(512)
def _maps(width: int, height: int) -> np.ndarray:
    """float32 [2, V · px, px]."""
    maps = [_map(width, height, degrees, keeps_shape=kept, px=VIEW_PX) for degrees, kept in _views(width, height)]
    return np.ascontiguousarray(np.concatenate(maps, 1))


def _seen(thumb: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """uint8 [V, px, px]."""
    px = maps.shape[-1]
    tall = cv2.remap(thumb, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return tall.reshape(-1, px, px)
