"""Convolution with kernels of three rows at stride 1, by Winograd's F(4, 3) down the image (Lavin and Gray 2015).

Four rows of a result and three of a kernel need 12 products of rows; these need 6, of sums of rows: y = Aᵀ[(G·w) ⊙ (Bᵀ·x)].
Down only: across, neighbours in a row stay neighbours, so the sums are of whole rows and the tiles are those of every
convolution. In both directions products would be fewer still, and errors larger: here they are about twice those of the
plain sum. A NaN or an infinity is seen by four rows of the result more than its own windows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from fanlight.scratch.cpu.compiled import compiled, parallel
from fanlight.scratch.cpu.tile import REGISTER_BYTES, M, V, add_products, lanes
from fanlight.scratch.cpu.walk import fewest_tiles, fill_rows
from fanlight.scratch.shapes import Pair

CHANNELS_LEAST = 8  # read and written: below, sums of rows cost what products save
TILE_POSITIONS = 640  # numbers at once: with 6 sums of 8 filters and 16 channels they are 370 KB
BUFFER_BYTES = 256 << 10

AT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
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
    quads: int  # at once
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
    P, Q = y.shape[2:]
    pitch, width = Q + dilation * (S - 1), V * lanes(x.itemsize)
    most = max(1, min(-(-P // 4), TILE_POSITIONS // pitch, BUFFER_BYTES // (6 * C * pitch * x.itemsize)))
    quads = fewest_tiles(-(-P // 4), pitch, width=width, most=most)
    walk = _Walk(groups, C, O, P, Q, *origin, quads, pitch)
    offsets = (np.arange(C)[:, None] * (6 * quads * pitch) + np.arange(S) * dilation).ravel()
    matrices = AT.astype(x.dtype), BT.astype(x.dtype)
    _correlate(x, _packed(weight_GOCRS), offsets, bias, relu, y, matrices, walk, get_num_threads())


def _packed(weight_GOCRS: np.ndarray) -> np.ndarray:
    """[groups, O/M, 6, C·S, M], flat: kernels' sums of rows, M filters beside each other, zeros after the last filter."""
    groups, O, C, _, S = weight_GOCRS.shape  # noqa: E741
    packed = np.zeros((groups, -(-O // M) * M, 6, C, S), weight_GOCRS.dtype)
    packed[:, :O] = np.einsum("tr,gocrs->gotcs", G, weight_GOCRS)
    return np.ascontiguousarray(packed.reshape(groups, -1, M, 6, C * S).transpose(0, 1, 3, 4, 2)).ravel()


@parallel
def _correlate(x, weights, offsets, bias, relu, y, matrices, walk, threads):
    """All quads of all images; each thread has one stretch of them."""
    pieces = ((walk.P + 3) // 4 + walk.quads - 1) // walk.quads
    works = x.shape[0] * walk.groups * pieces
    threads = min(threads, works)
    for thread in prange(threads):
        t = np.int64(thread)  # Numba counts in uint64, which divides as a float
        _stretch(x, weights, offsets, bias, relu, y, matrices, walk, t * works // threads, (t + 1) * works // threads)


@compiled
def _stretch(x, weights, offsets, bias, relu, y, matrices, walk, low, high):
    width = V * (REGISTER_BYTES // x.itemsize)
    pieces = ((walk.P + 3) // 4 + walk.quads - 1) // walk.quads
    room = (walk.quads * walk.pitch + width - 1) // width * width
    rows = np.empty((4 * walk.quads + 2) * walk.pitch, x.dtype)
    # The last tile reads past the end, and by as much further as taps reach to the right.
    buffer = np.zeros(walk.C * 6 * walk.quads * walk.pitch + width + walk.pitch - walk.Q, x.dtype)
    sums = np.empty(6 * M * room, x.dtype)
    for work in range(low, high):
        n, rest = divmod(work, walk.groups * pieces)
        g, piece = divmod(rest, pieces)
        _transform(x[n, g * walk.C : (g + 1) * walk.C], piece * walk.quads, rows, buffer, matrices[1], walk)
        _multiply(buffer, weights, offsets, bias, relu, y[n], matrices[0], walk, g, piece * walk.quads, sums)


@compiled
def _transform(x, quad, rows, buffer, matrix, walk):
    """Bᵀ: buffer [C, 6, quads, pitch] of the rows that these quads see."""
    pitch = walk.pitch
    for c in range(walk.C):
        fill_rows(rows, x[c], 4 * quad + walk.origin_down, walk.origin_across, (1, 1), pitch)
        for t in range(6):
            for own in range(walk.quads):
                at = ((c * 6 + t) * walk.quads + own) * pitch
                _sum_of_rows(buffer[at : at + pitch], rows[4 * own * pitch :], pitch, matrix[t], x.dtype.type(0), False)


@compiled
def _multiply(buffer, weights, offsets, bias, relu, y, matrix, walk, g, quad, sums):
    """For M filters after the other: the six products, and Aᵀ of them, which is the result."""
    K, room, width = len(offsets), len(sums) // (6 * M), V * (REGISTER_BYTES // buffer.itemsize)
    quads = min(walk.quads, (walk.P + 3) // 4 - quad)
    blocks = (walk.O + M - 1) // M
    for block in range(blocks):
        for t in range(6):
            first = ((g * blocks + block) * 6 + t) * K * M
            for start in range(0, quads * walk.pitch, width):
                source = t * walk.quads * walk.pitch + start
                add_products(sums, t * room + start, 6 * room, buffer, source, offsets, weights, first, K)
        for m in range(min(M, walk.O - block * M)):
            o = g * walk.O + block * M + m
            for p in range(4 * quad, min(4 * (quad + quads), walk.P)):
                own, i = divmod(p - 4 * quad, 4)
                at = m * 6 * room + own * walk.pitch
                _sum_of_rows(y[o, p], sums[at:], room, matrix[i], bias[o], relu)


@compiled
def _sum_of_rows(to, rows, pitch, factors, bias, relu):
    """to = bias + Σ_t factors[t] · row t, rows `pitch` apart."""
    a, b, c, d, e, f = factors[0], factors[1], factors[2], factors[3], factors[4], factors[5]
    A, B, C = rows[:pitch], rows[pitch : 2 * pitch], rows[2 * pitch : 3 * pitch]
    D, E, F = rows[3 * pitch : 4 * pitch], rows[4 * pitch : 5 * pitch], rows[5 * pitch : 6 * pitch]
    if relu:
        for i in range(len(to)):
            value = bias + a * A[i] + b * B[i] + c * C[i] + d * D[i] + e * E[i] + f * F[i]
            to[i] = to.dtype.type(0) if value < 0 else value  # NaN stays
    else:
        for i in range(len(to)):
            to[i] = bias + a * A[i] + b * B[i] + c * C[i] + d * D[i] + e * E[i] + f * F[i]
