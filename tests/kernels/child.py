"""A process whose Triton interprets: TRITON_INTERPRET counts when Triton is imported, and must not reach other tests.

A request is a line of JSON and the arrays it numbers, one after the other; so is its answer. Started by `interpreter`.
"""

import io
import json
import os
import sys
from typing import Any, BinaryIO

import numpy as np
import torch

NUMBERS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def perform(
    name: str,
    args: list,
    options: dict,
    *,
    kind: str,
    is_last: bool = False,
    wide: list[int] | None = None,
    shows: list[int] | None = None,
) -> list[np.ndarray]:
    """Calls a function of fanlight.kernels ("conv_gemm.forward") or of an operators' backend ("TRITON.conv2d").

    kind `array`: with arrays as they are; else with tensors whose floats are of that type, but for arguments numbered in
    `wide`, and with `is_last` channels last.
    Returns what the function does, then the arguments numbered in `shows` as they are afterwards; tensors as arrays."""
    import importlib

    from fanlight.kernels import launch
    from fanlight.scratch import operators

    module, _, function = name.partition(".")
    if module == "TRITON":
        called = getattr(operators.TRITON, function)
    else:
        called = getattr(importlib.import_module(f"fanlight.kernels.{module}"), function)

    def given(value: Any, kind: str = kind) -> Any:
        if kind == "array" or not isinstance(value, np.ndarray):
            return value
        tensor = torch.from_numpy(value.copy())
        if tensor.is_floating_point():
            tensor = tensor.to(NUMBERS[kind])
        if is_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor.to(launch.device())

    args = [given(each, "float32" if place in (wide or []) else kind) for place, each in enumerate(args)]
    options = {key: given(value) for key, value in options.items()}
    if "dtype" in options:
        options["dtype"] = NUMBERS[options["dtype"]]
    found = called(*args, **options)
    found = list(found) if isinstance(found, tuple) else [] if found is None else [found]
    assert "out" not in options or found[0] is options["out"], "a result is not where it was asked to be"
    return [_array(each) for each in found + [args[place] for place in shows or []]]


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
        value = value.cpu().numpy()
    return np.asarray(value)


def send(pipe: BinaryIO, message: dict) -> None:
    """`message`, with arrays anywhere in it."""
    arrays: list[np.ndarray] = []

    def marked(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            arrays.append(np.asarray(value))
            return {"array": len(arrays) - 1}
        if isinstance(value, dict):
            return {key: marked(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [marked(each) for each in value]
        return value

    buffer = io.BytesIO()
    line = json.dumps(marked(message))
    for array in arrays:
        np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    pipe.write(f"{len(data)} {line}\n".encode() + data)
    pipe.flush()


def receive(pipe: BinaryIO) -> dict | None:
    """What `send` sent; None when the other side is gone."""
    head = pipe.readline()
    if not head:
        return None
    size, _, line = head.partition(b" ")
    buffer = io.BytesIO(pipe.read(int(size)))
    arrays: list[np.ndarray] = []
    while buffer.tell() < int(size):
        arrays.append(np.load(buffer, allow_pickle=False))

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"array"}:
                return arrays[value["array"]]
            return {key: whole(each) for key, each in value.items()}
        if isinstance(value, list):
            return [whole(each) for each in value]
        return value

    return whole(json.loads(line))


def main() -> None:
    torch.set_num_threads(1)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints must not be taken for an answer
        while (request := receive(sys.stdin.buffer)) is not None:
            try:
                send(answers, {"results": perform(**request)})
            except Exception as error:
                send(answers, {"error": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    main()
