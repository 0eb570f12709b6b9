"""What an operator on the GPU takes and gives: tensors as they are, NumPy arrays by a copy there and back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from fanlight.kernels import launch
from fanlight.scratch import shapes

Array: TypeAlias = Any  # np.ndarray or torch.Tensor, the same for all arguments of a call
Function = TypeVar("Function", bound=Callable)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
WRITTEN = ("out", "index")  # arguments that take a result, where an operator has them and does not read them


def operator(function: Function | None = None, *, changes: tuple[str, ...] = WRITTEN) -> Any:
    """A decorator: `function` works on tensors. Arrays named in `changes` hold afterwards what their tensors hold."""
    if function is None:
        return functools.partial(operator, changes=changes)
    names = function.__code__.co_varnames

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        if any(isinstance(each, np.ndarray) for each in (*given, *named.values())):
            return _run_on_arrays(function, dict(zip(names, given)) | named, changes)
        tensors = [each for each in (*given, *named.values()) if isinstance(each, torch.Tensor)]
        _check_places(tensors)
        if tensors and tensors[0].is_cuda:
            with torch.cuda.device(tensors[0].device):
                return function(*given, **named)
        return function(*given, **named)

    return run


def _run_on_arrays(function: Callable, named: dict[str, Any], changes: tuple[str, ...]) -> Any:
    device, tensors = launch.device(), {}
    for name, value in named.items():
        if isinstance(value, np.ndarray):
            # A copy, also in the interpreter: an array that may not be written to is no tensor.
            tensors[name] = torch.from_numpy(np.array(value, order="C")).to(device)
    found = function(**(named | tensors))
    for name in changes:
        if name in tensors:
            named[name][...] = tensors[name].cpu().numpy()
    held = {id(tensor): named[name] for name, tensor in tensors.items()}

    def array_of(result: Any) -> Any:
        return held[id(result)] if id(result) in held else result.cpu().numpy()

    if found is None:
        return None
    return tuple(map(array_of, found)) if isinstance(found, tuple) else array_of(found)


def _check_places(tensors: list[torch.Tensor]) -> None:
    wanted = launch.device().type
    for each in tensors:
        if each.device.type != wanted or each.device != tensors[0].device:
            raise ValueError(
                f"values of {list(each.shape)} are on {each.device}, beside {list(tensors[0].shape)} on "
                f"{tensors[0].device}: kernels read one {wanted} device's memory; move them, or give NumPy arrays"
            )


def number_type(*tensors: torch.Tensor | None) -> torch.dtype:
    """float32, bfloat16 or float16, the same for all."""
    found = {tensor.dtype for tensor in tensors if tensor is not None}
    if len(found) != 1 or next(iter(found)) not in FLOATS:
        names = ", ".join(sorted(str(each).removeprefix("torch.") for each in found))
        more = "; the other backends take float64" if torch.float64 in found else ""
        raise ValueError(f"operators on a GPU take float32, bfloat16 or float16, one for all, got {names}{more}")
    return found.pop()


def parameters(x: torch.Tensor, *tensors: torch.Tensor) -> None:
    """What belongs to channels of `x`: float32, or as x."""
    for each in tensors:
        if each.dtype != torch.float32:
            number_type(x, each)
    number_type(x)


def room(out: torch.Tensor | None, shape: shapes.Shape, like: torch.Tensor) -> None:
    """`out`, where given, can take a result of `shape`; of float32, or of like's numbers."""
    if out is not None and (tuple(out.shape) != tuple(shape) or out.dtype not in (like.dtype, torch.float32)):
        kinds = [shapes.kind(each) for each in (out, like)]
        raise ValueError(
            f"out of {list(out.shape)} {kinds[0]} cannot take a result of {list(shape)} {kinds[1]} or float32"
        )
