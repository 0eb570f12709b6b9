"""A convolution's or a pooling's sizes, in the order in which kernels take them.

N images, C channels, H × W image, O filters, R × S kernel or window, P × Q result, G groups; stride, padding and dilation
down and across.
"""

from typing import NamedTuple

Pair = tuple[int, int]

# Sizes for whose particular values nothing is compiled anew; that C and O divide by 16 and G is 1 makes loads wider.
PLAIN = (
    "N", "H", "W", "R", "S", "P", "Q", "stride_h", "stride_w", "pad_h", "pad_w", "dil_h", "dil_w",
)  # fmt: skip


class Sizes(NamedTuple):
    N: int
    C: int
    H: int
    W: int
    O: int  # noqa: E741
    R: int
    S: int
    P: int
    Q: int
    G: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dil_h: int
    dil_w: int


def sizes(
    image: tuple[int, ...],
    filters: int,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Sizes:
    """Of `filters` of `kernel` pixels over images of shape `image` = [N, C, H, W]."""
    P, Q = (
        (side + 2 * around - apart * (seen - 1) - 1) // step + 1
        for side, seen, step, around, apart in zip(image[2:], kernel, stride, padding, dilation)
    )
    N, C, H, W = image
    return Sizes(N, C, H, W, filters, *kernel, P, Q, groups, *stride, *padding, *dilation)
