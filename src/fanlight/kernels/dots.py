"""What kernels on tensor cores share: a product of two tiles, and the choices of tile sizes."""

import triton
import triton.language as tl

# M rows of the result, N columns, K of the sum. The first are for many rows, the last for few.
TILES = (
    {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "warps": 8, "stages": 3},
    {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "warps": 8, "stages": 3},
    {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64, "warps": 4, "stages": 4},
    {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 32, "warps": 4, "stages": 4},
    {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "warps": 4, "stages": 5},
    {"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 32, "warps": 4, "stages": 4},
)
SMALL = {"BLOCK_M": 64, "BLOCK_N": 16, "BLOCK_K": 32}  # in the interpreter


@triton.jit
def product(a_MK, b_KN, acc_MN, PRECISION: tl.constexpr):
    """acc + a · b, summed in float32. `widened`: the interpreter multiplies bfloat16 as if it were whole numbers."""
    if PRECISION == "widened":
        return tl.dot(a_MK.to(tl.float32), b_KN.to(tl.float32), acc_MN, input_precision="ieee")
    return tl.dot(a_MK, b_KN, acc_MN, input_precision=PRECISION)
