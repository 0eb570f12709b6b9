"""From a pack of uint8 images to a batch in the training layout in one pass: gather, crop, mirror, normalise. Every byte is
read once and every number written once, where the steps one by one would write and read the batch five times.

I images of H × W × C in the pack, B of them in a batch, P × P of each. Crops are not resized: their side is the batch's.
"""

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED

BLOCK = 256 if IS_INTERPRETED else 1024


def batch(
    images: torch.Tensor, rows: torch.Tensor, left: torch.Tensor, top: torch.Tensor, mirror: torch.Tensor, *,
    side_px: int, scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """[B, C, P, P], channels last: images uint8 [I, H, W, C] at `rows` [B], from column `left` and row `top`, mirrored where
    `mirror` (bool [B]), times `scale` plus `shift`, float32 [C] each. What a crop has outside its image counts as 0."""
    (_, H, W, C), B = images.shape, len(rows)
    y = torch.empty((B, C, side_px, side_px), dtype=dtype, device=images.device, memory_format=torch.channels_last)
    _batch[(B * triton.cdiv(side_px * side_px * C, BLOCK),)](
        images.contiguous(), rows, left, top, mirror.view(torch.uint8), scale, shift, y, H, W, C, side_px, BLOCK=BLOCK
    )
    return y


@triton.jit
def _batch(
    images_ptr, rows_ptr, left_ptr, top_ptr, mirror_ptr, scale_ptr, shift_ptr, y_ptr, H, W, C, P, BLOCK: tl.constexpr
):
    blocks = tl.cdiv(P * P * C, BLOCK)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    l_L = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    ok = l_L < P * P * C
    c_L, q_L, p_L = l_L % C, l_L // C % P, l_L // (P * C)
    q_L = tl.where(tl.load(mirror_ptr + b) != 0, P - 1 - q_L, q_L)
    h_L, w_L = tl.load(top_ptr + b) + p_L, tl.load(left_ptr + b) + q_L
    inside = ok & (h_L >= 0) & (h_L < H) & (w_L >= 0) & (w_L < W)
    image = tl.load(rows_ptr + b).to(tl.int64) * H * W * C
    value_L = tl.load(images_ptr + image + (h_L * W + w_L) * C + c_L, mask=inside, other=0).to(tl.float32)
    y_L = value_L * tl.load(scale_ptr + c_L, mask=ok, other=0.0) + tl.load(shift_ptr + c_L, mask=ok, other=0.0)
    tl.store(y_ptr + b * P * P * C + l_L, y_L.to(y_ptr.dtype.element_ty), mask=ok)
