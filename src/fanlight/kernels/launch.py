"""Where kernels run, the choices they are tuned over, and the layouts they read and write.

A choice is a set of block sizes. On a GPU each new shape tries all of a kernel's choices once; the fastest is kept in
Triton's cache folder. In the interpreter there is one, small enough that tests see several blocks.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
import triton

IS_INTERPRETED: bool = triton.knobs.runtime.interpret  # what @triton.jit made of the kernels when they were imported


@functools.cache
def missing() -> str | None:
    """Why kernels cannot run here, and what does instead; None where they can."""
    if IS_INTERPRETED or torch.cuda.is_available():
        return None
    return (
        "Triton's kernels need a GPU and torch sees none: NUMBA has the same operators on all CPU cores. "
        "TRITON_INTERPRET=1 runs the kernels themselves on a CPU, thousands of times slower"
    )


def device() -> torch.device:
    """Where arrays go that are on no GPU yet. RuntimeError as `missing`."""
    why = missing()
    if why is not None:
        raise RuntimeError(why)
    return torch.device("cpu" if IS_INTERPRETED else "cuda")


def tuned(*choices: Mapping[str, int], interpreted: Mapping[str, int], key: tuple[str, ...]) -> Any:
    """A decorator: the fastest of `choices` per value of the arguments named `key`. `warps` and `stages` are the
    compiler's; the others are block sizes."""
    kept = (interpreted,) if IS_INTERPRETED else choices
    configs = [
        triton.Config(
            {name: size for name, size in choice.items() if name not in ("warps", "stages")},
            num_warps=choice.get("warps", 4), num_stages=choice.get("stages", 3),
        )
        for choice in kept
    ]  # fmt: skip
    return triton.autotune(configs, key=list(key), cache_results=True)


def size_class(rows: int) -> int:
    """The next power of two: batches of about one size share a choice."""
    return triton.next_power_of_2(max(1, rows))


def precision(x: torch.Tensor) -> str:
    """How `dots.product` multiplies numbers as in `x`: float32 as torch.set_float32_matmul_precision says, `ieee` unless
    that was "high" or "medium", which is `tf32`."""
    if x.dtype == torch.bfloat16 and IS_INTERPRETED:
        return "widened"
    if x.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest":
        return "ieee"
    return "tf32"


def pixels(x: torch.Tensor) -> torch.Tensor:
    """[N, H, W, C], dense, of [N, C, H, W]; a copy only if that is not channels last."""
    return x.permute(0, 2, 3, 1).contiguous()


def room(out: torch.Tensor | None, shape: tuple[int, ...], *, like: torch.Tensor) -> torch.Tensor:
    """A tensor [N, C, H, W], channels last, or [N, C], dense: `out` if that is one."""
    is_image = len(shape) == 4
    if out is not None and (out.permute(0, 2, 3, 1) if is_image else out).is_contiguous():
        return out
    layout = torch.channels_last if is_image else torch.contiguous_format
    dtype = like.dtype if out is None else out.dtype
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


def given(found: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """`found`, in `out` if there is one."""
    return found if out is None or out is found else out.copy_(found)


def aligned(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """The tensors in one dense memory order, that of the first: number i of each belongs together."""
    first = tensors[0]
    is_dense = first.is_contiguous() or (first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last))
    if is_dense and all(each.stride() == first.stride() for each in tensors[1:]):
        return list(tensors)
    return [each.contiguous() for each in tensors]
