"""Convolution and its input's gradient by register tiles: cpu/walk lays the image out, cpu/tile adds up.

The input's gradient is the same walk over the result's gradient with the weights turned round, once for each of the
stride × stride images of every stride-th pixel. The order of every sum depends on shapes alone: any number of threads gives
the same bits. Letters as in scratch/shapes; C and O are of one group inside kernels, K = C·R·S taps.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from fanlight.scratch import shapes
from fanlight.scratch.cpu import walk as walks
from fanlight.scratch.cpu import winograd
from fanlight.scratch.cpu.compiled import compiled, parallel
from fanlight.scratch.cpu.convolution_weight import conv2d_weight
from fanlight.scratch.cpu.tile import REGISTER_BYTES, M, V, add_products
from fanlight.scratch.shapes import Pair

__all__ = ["conv2d", "conv2d_bias", "conv2d_input", "conv2d_weight"]

BLOCKS = 4  # of M filters each, that go over the same pixels one after the other
# Numbers of a filter's result that are added up at once: of 4 blocks they are 150 KB with M = 8, and 75 KB with M = 4.
TILE_POSITIONS = 1200


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    relu: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """[N, O, P, Q] of images [N, C, H, W] and weights [O, C/G, R, S]; bias and ReLU cost no pass of their own."""
    at = shapes.convolution(
        x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
        bias=shapes.of(bias),
    )  # fmt: skip
    dtype = shapes.number_type(x, weight, bias)
    y = shapes.room(out, at.y, dtype)
    x, grouped = np.ascontiguousarray(x), weight.reshape(at.G, at.O // at.G, at.C // at.G, at.R, at.S)
    bias = np.zeros(at.O, dtype) if bias is None else np.ascontiguousarray(bias)
    if winograd.fits(grouped, stride=at.stride, dilation=at.dilation):
        origin = (-at.padding[0], -at.padding[1])
        winograd.correlate(x, grouped, bias, y, relu=relu, origin=origin, dilation=at.dilation[1])
        return y
    walk, offsets = walks.forward(at, dtype, most=TILE_POSITIONS)
    packed = _packed(grouped.reshape(*grouped.shape[:3], at.R * at.S))
    _correlate(x, packed, offsets, bias, relu, y, walk, get_num_threads())
    return y


def conv2d_input(
    grad: np.ndarray,
    weight: np.ndarray,
    *,
    image: Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient [N, C, H, W] of images of H × W = `image` pixels, from that of the result."""
    at = shapes.input_gradient(
        grad.shape, weight.shape, image=image, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    dtype = shapes.number_type(grad, weight)
    dx = shapes.room(out, at.x, dtype)
    grad, nothing = np.ascontiguousarray(grad), np.zeros(at.C, dtype)
    (sh, sw), (ph, pw) = at.stride, at.padding
    turned = weight.reshape(at.G, at.O // at.G, at.C // at.G, at.R, at.S).swapaxes(1, 2)
    if winograd.fits(turned, stride=at.stride, dilation=at.dilation):
        origin = (ph - at.R + 1, pw - at.dilation[1] * (at.S - 1))
        around = turned[..., ::-1, ::-1]
        winograd.correlate(grad, around, nothing, dx, relu=False, origin=origin, dilation=at.dilation[1])
        return dx
    turned, of_tap = turned.reshape(*turned.shape[:3], at.R * at.S), walks.taps(at)
    for down in range(min(sh, at.H)):
        for across in range(min(sw, at.W)):
            # Every stride-th pixel from here on is seen by the taps of one phase, and never by the others.
            seeing = np.flatnonzero((of_tap[:, 0] == (down + ph) % sh) & (of_tap[:, 1] == (across + pw) % sw))
            if not len(seeing):
                dx[:, :, down::sh, across::sw] = 0
                continue
            reach = (int(of_tap[seeing, 2].max()), int(of_tap[seeing, 3].max()))
            walk = walks.plan(
                at, C=at.O // at.G, O=at.C // at.G, P=(at.H - down - 1) // sh + 1, Q=(at.W - across - 1) // sw + 1,
                phases=(1, 1), origin=((down + ph) // sh - reach[0], (across + pw) // sw - reach[1]), reach=reach,
                base=(down, across), step=at.stride, dtype=dtype, most=TILE_POSITIONS,
            )  # fmt: skip
            # In the buffer the first result stands `reach` before its own pixel of the gradient: a tap looks back.
            looking = np.stack([0 * seeing, 0 * seeing, reach[0] - of_tap[seeing, 2], reach[1] - of_tap[seeing, 3]], 1)
            _correlate(
                grad,
                _packed(turned[..., seeing]),
                walks.offsets(walk, looking),
                nothing,
                False,
                dx,
                walk,
                get_num_threads(),
            )
    return dx


def conv2d_bias(grad: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """The gradient [O] of the bias: what arrives at each filter, added up."""
    N, O, L = shapes.channels(grad.shape)  # noqa: E741
    dtype = shapes.number_type(grad)
    dbias = shapes.room(out, (O,), dtype)
    _channel_sums(np.ascontiguousarray(grad).reshape(N, O, L), dbias)
    return dbias


def _packed(weight_GOCT: np.ndarray) -> np.ndarray:
    """[G, O/M, C, taps, M], flat: the M numbers that are wanted together lie together, zeros after the last filter."""
    G, O, C, T = weight_GOCT.shape  # noqa: E741
    packed = np.zeros((G, -(-O // M) * M, C, T), weight_GOCT.dtype)
    packed[:, :O] = weight_GOCT
    return np.ascontiguousarray(packed.reshape(G, -1, M, C, T).transpose(0, 1, 3, 4, 2)).ravel()


@parallel
def _correlate(x, weights, offsets, bias, relu, y, walk, threads):
    """All rows of all images; each thread has one stretch of them and one buffer."""
    works = x.shape[0] * walk.G * ((walk.P + walk.rows - 1) // walk.rows)
    threads = min(threads, works)
    for thread in prange(threads):
        t = np.int64(thread)  # Numba counts in uint64, which divides as a float
        _stretch(x, weights, offsets, bias, relu, y, walk, t * works // threads, (t + 1) * works // threads)


@compiled
def _stretch(x, weights, offsets, bias, relu, y, walk, low, high):
    """Pieces of work low … high: one is `walk.rows` rows of the result, of one image and group."""
    width = V * (REGISTER_BYTES // x.itemsize)
    tiles = (walk.P + walk.rows - 1) // walk.rows
    buffer = np.zeros(walks.buffer_numbers(walk, width), x.dtype)
    sums = np.empty(BLOCKS * M * ((walk.rows * walk.pitch + width - 1) // width * width), x.dtype)
    for work in range(low, high):
        n, rest = divmod(work, walk.G * tiles)
        g, t = divmod(rest, tiles)
        _rows(x, weights, offsets, bias, relu, y, walk, n, g, t * walk.rows, buffer, sums)


@compiled
def _rows(x, weights, offsets, bias, relu, y, walk, n, g, p, buffer, sums):
    """The result's rows from p on, of one image and group: M filters after the other."""
    K, pitch, width = len(offsets), len(sums) // (BLOCKS * M), V * (REGISTER_BYTES // x.itemsize)
    walks.fill(buffer, x, n, g, p, walk, 0, walk.height)
    rows = min(walk.rows, walk.P - p)
    blocks = (walk.O + M - 1) // M
    for low in range(0, blocks, BLOCKS):
        high = min(low + BLOCKS, blocks)
        for start in range(0, rows * walk.pitch, width):  # what the first block has read is near for the others
            for block in range(low, high):
                add_products(
                    sums, (block - low) * M * pitch + start, pitch,
                    buffer, start, offsets, weights, (g * blocks + block) * K * M, K,
                )  # fmt: skip
        for o in range(low * M, min(high * M, walk.O)):
            for row in range(rows):
                line = y[n, g * walk.O + o, walk.base_down + (p + row) * walk.step_down]
                at = (o - low * M) * pitch + row * walk.pitch
                _write(line, sums[at : at + walk.Q], bias[g * walk.O + o], relu, walk)


@compiled
def _write(line, sums, bias, relu, walk):
    """One row of the result; the loops are apart because each becomes vectors of its own."""
    if walk.step_across != 1:
        for q in range(walk.Q):
            line[walk.base_across + q * walk.step_across] = sums[q] + bias
    elif relu:
        for q in range(walk.Q):
            value = sums[q] + bias
            line[q] = line.dtype.type(0) if value < 0 else value  # NaN stays
    else:
        for q in range(walk.Q):
            line[q] = sums[q] + bias


@parallel
def _channel_sums(x, sums):
    """Σ over images and pixels, in double precision: it waits for memory anyway."""
    for c in prange(x.shape[1]):
        total = 0.0
        for n in range(x.shape[0]):
            for i in range(x.shape[2]):
                total += x[n, c, i]
        sums[c] = total
