"""Convolution with kernels of three rows at stride 1, by Winograd's F(4, 3) down the image (Lavin and Gray 2015).

Four rows of a result and three of a kernel need 12 products of rows; these need 6, of sums of rows: y = Aᵀ[(G·w) ⊙ (Bᵀ·x)].
Down only: across, neighbours in a row stay neighbours, so the sums are of whole rows and the tiles are those of every
convolution. In both directions products would be fewer still, and errors larger: here they are about twice those of the
plain sum. A NaN or an infinity is seen by four rows of the result more than its own windows.

Small images lie in the buffer one after the other: one of 8 × 8 alone would fill less than half of a tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from fanlight.scratch.cpu.compiled import compiled, parallel
from fanlight.scratch.cpu.tile import REGISTER_BYTES, M, V, add_products, combine, lanes
from fanlight.scratch.cpu.walk import copy, fewest_tiles, fill_rows
from fanlight.scratch.shapes import Pair

CHANNELS_LEAST = 8  # read and written: below, sums of rows cost what products save
TILE_POSITIONS = 640  # numbers at once: with 6 sums of M = 8 filters and 16 channels they are 370 KB, of M = 4 310 KB
BUFFER_BYTES = 256 << 10


def _sums(a, b, c, d, e, f, _):
    """Bᵀ: six sums of six rows of an image."""
    even, odd, near, far = e - 4 * c, d - 4 * b, e - c, 2 * (d - b)
    return [4 * (a - c) + near, even + odd, even - odd, near + far, near - far, 4 * (b - d) + (f - d)]


def _results(a, b, c, d, e, f, bias):
    """Aᵀ: four rows of a result of six products."""
    plus, minus, near, far = b + c, b - c, d + e, d - e
    return [bias + (a + plus) + near, bias + minus + 2 * far, bias + plus + 4 * near, bias + minus + 8 * far + f]


add_rows, take_results = combine(_sums, rows=6), combine(_results, rows=6)
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24


class _Walk(NamedTuple):
    """How quads, four rows of the result each, are gone through; C, O of one group."""

    groups: int
    C: int
    O: int  # noqa: E741
    P: int
    Q: int
    origin_down: int  # the image's row that the result's first row sees first
    origin_across: int
    images: int  # at once, at most; more than one only where all quads of an image are
    quads: int  # of an image, at once
    pitch: int  # numbers of a row


def fits(weight_GOCRS: np.ndarray, *, stride: Pair, dilation: Pair) -> bool:
    """Whether this is the faster way."""
    _, O, C, R, _ = weight_GOCRS.shape  # noqa: E741
    return R == 3 and stride == (1, 1) and dilation[0] == 1 and min(C, O) >= CHANNELS_LEAST


def correlate(
    x: np.ndarray,
    weight_GOCRS: np.ndarray,
    bias: np.ndarray,
    y: np.ndarray,
    *,
    relu: bool,
    origin: Pair,
    dilation: int,
) -> None:
    """y[n, o, p, q] = bias[o] + Σ weight[o, c, r, s] · x[n, c, p + r + origin, q + s·dilation + origin]."""
    groups, O, C, _, S = weight_GOCRS.shape  # noqa: E741
    N, _, P, Q = y.shape
    threads = get_num_threads()
    pitch, width, high = Q + dilation * (S - 1), V * lanes(x.itemsize), -(-P // 4)
    most = max(1, min(TILE_POSITIONS // pitch, BUFFER_BYTES // (6 * C * pitch * x.itemsize)))
    quads = fewest_tiles(high, pitch, width=width, most=min(high, most))
    images = 1 if quads < high else _together(high * pitch, width=width, most=min(most // high, -(-N // threads)))
    if images * quads * pitch < lanes(x.itemsize):  # add_rows takes a vector at least
        images, quads = 1, -(-lanes(x.itemsize) // pitch)
    walk = _Walk(groups, C, O, P, Q, *origin, images, quads, pitch)
    offsets = (np.arange(C)[:, None] * (6 * images * quads * pitch) + np.arange(S) * dilation).ravel()
    _correlate(x, _packed(weight_GOCRS), offsets, bias, relu, y.reshape(-1), walk, threads)


def _together(positions: int, *, width: int, most: int) -> int:
    """How many images of so many positions leave least of their tiles of `width` unused, at least one; of equals the most."""
    return min(range(1, max(1, most) + 1), key=lambda images: (-(-images * positions // width) / images, -images))


def _packed(weight_GOCRS: np.ndarray) -> np.ndarray:
    """[groups, O/M, 6, C·S, M], flat: kernels' sums of rows, M filters beside each other, zeros after the last filter."""
    groups, O, C, R, S = weight_GOCRS.shape  # noqa: E741
    more = -O % M
    if more:
        weight_GOCRS = np.pad(weight_GOCRS, ((0, 0), (0, more), (0, 0), (0, 0), (0, 0)))
    rows = np.ascontiguousarray(np.moveaxis(weight_GOCRS, 3, 0)).reshape(R, -1)
    sums = (G.astype(rows.dtype) @ rows).reshape(6, groups, (O + more) // M, M, C * S)
    return np.ascontiguousarray(sums.transpose(1, 2, 0, 4, 3)).ravel()


@parallel
def _correlate(x, weights, offsets, bias, relu, y, walk, threads):
    """All quads of all images; each thread has one stretch of them."""
    works = _parts(x, walk) * walk.groups * _pieces(walk)
    threads = min(threads, works)
    for thread in prange(threads):
        t = np.int64(thread)  # Numba counts in uint64, which divides as a float
        _stretch(x, weights, offsets, bias, relu, y, walk, t * works // threads, (t + 1) * works // threads)


@compiled
def _parts(x, walk):
    """Into how many parts the images go."""
    return (len(x) + walk.images - 1) // walk.images


@compiled
def _pieces(walk):
    """Into how many pieces the quads of an image go."""
    return ((walk.P + 3) // 4 + walk.quads - 1) // walk.quads


@compiled
def _stretch(x, weights, offsets, bias, relu, y, walk, low, high):
    width = V * (REGISTER_BYTES // x.itemsize)
    parts, pieces, length = _parts(x, walk), _pieces(walk), walk.images * walk.quads * walk.pitch
    room = (length + width - 1) // width * width
    # The last tile reads past the end, and by as much further as taps reach to the right.
    buffer = np.zeros(walk.C * 6 * length + width + walk.pitch - walk.Q, x.dtype)
    sums, spare = np.zeros(6 * M * room, x.dtype), np.empty(4 * room, x.dtype)
    if walk.images == 1:
        plane = length + walk.pitch  # of every fourth row: what quads see of it lies side by side
        seen = np.array([0, plane, 2 * plane, 3 * plane, walk.pitch, plane + walk.pitch])
    else:  # two of the six rows twice, or there would be a gap between images
        seen = length * np.arange(6)
    rows = np.empty(seen[3] + seen[1] if walk.images == 1 else 6 * length, x.dtype)
    apart = room * np.arange(6)
    for work in range(low, high):
        part, rest = divmod(work, walk.groups * pieces)
        g, piece = divmod(rest, pieces)
        first, last = part * len(x) // parts, (part + 1) * len(x) // parts
        _transform(x[first:last], g, piece * walk.quads, rows, seen, buffer, walk)
        size = walk.groups * walk.O * walk.P * walk.Q
        to = y[first * size : last * size]
        _multiply(buffer, weights, offsets, bias, relu, to, walk, g, piece * walk.quads, sums, apart, spare)


@compiled
def _transform(x, g, quad, rows, seen, buffer, walk):
    """Bᵀ: buffer [C, 6, images, quads, pitch] of the rows that these quads see."""
    length, nothing = walk.images * walk.quads * walk.pitch, x.dtype.type(0)
    of_image = walk.quads * walk.pitch if walk.images > 1 else seen[1]
    for c in range(walk.C):
        for j in range(6 if walk.images > 1 else 4):
            for n in range(len(x)):
                line = rows[seen[1] * j + n * of_image : seen[1] * j + (n + 1) * of_image]
                above = 4 * quad + walk.origin_down + j
                fill_rows(line, x[n, g * walk.C + c], above, walk.origin_across, (4, 1), walk.pitch)
        add_rows(buffer, 6 * c * length, length, rows, 0, seen, length, nothing, x.dtype.type(-np.inf))


@compiled
def _multiply(buffer, weights, offsets, bias, relu, y, walk, g, quad, sums, apart, spare):
    """For M filters after the other: the six products, and Aᵀ of them, which is the result."""
    K, room, width, pitch = len(offsets), apart[1], V * (REGISTER_BYTES // buffer.itemsize), walk.pitch
    least = REGISTER_BYTES // buffer.itemsize  # that take_results takes
    quads, rows = min(walk.quads, (walk.P + 3) // 4 - quad), min(4 * walk.quads, walk.P - 4 * quad)
    whole = rows // 4 if least <= walk.Q else 0  # written where they belong; others have too few rows or numbers
    size = walk.groups * walk.O * walk.P * walk.Q  # of an image's result
    plane, images = walk.images * walk.quads * pitch, len(y) // size
    span = ((images - 1) * walk.quads + quads) * pitch
    floor = buffer.dtype.type(0) if relu else buffer.dtype.type(-np.inf)
    blocks = (walk.O + M - 1) // M
    for block in range(blocks):
        for t in range(6):
            weight = ((g * blocks + block) * 6 + t) * K * M
            for start in range(0, span, width):
                add_products(sums, t * room + start, 6 * room, buffer, t * plane + start, offsets, weights, weight, K)
        for m in range(min(M, walk.O - block * M)):
            o, from_ = g * walk.O + block * M + m, m * 6 * room
            skip = whole * pitch if images == 1 else 0
            if 4 * whole < rows:
                length = max(least, span - skip)
                take_results(spare, 0, room, sums, from_ + skip, apart, length, bias[o], floor)
            for n in range(images):
                to, first = n * size + (o * walk.P + 4 * quad) * walk.Q, n * walk.quads * pitch
                for own in range(whole):
                    at = to + 4 * own * walk.Q
                    take_results(y, at, walk.Q, sums, from_ + first + own * pitch, apart, walk.Q, bias[o], floor)
                for row in range(4 * whole, rows):
                    own, i = divmod(row, 4)
                    at = to + row * walk.Q
                    copy(y[at : at + walk.Q], spare[i * room + first + own * pitch - skip :], 1)
