"""Optimizers step by step beside PyTorch's."""

import numpy as np
import pytest
import torch

from scratch.differences import BACKENDS, FP32_RTOL, FP64_RTOL, NAMES, error, numbers

SGD = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
]
ADAMW = [{"lr": 0.01}, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}]
STEPS = 5


def of_torch(kind, start, gradients, options):
    parameter = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = kind([parameter], **options)
    for grad in gradients:
        parameter.grad = torch.from_numpy(grad.copy())
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (257,), (3, 5, 7)])
def test_steps_are_pytorch_s(backend, dtype, shape):
    start = numbers(*shape, dtype=dtype)
    gradients = [numbers(*shape, seed=step, dtype=dtype) for step in range(1, STEPS + 1)]
    rtol = FP32_RTOL if dtype == "float32" else FP64_RTOL
    for options in SGD:
        parameter, velocity = start.copy(), np.zeros_like(start)
        for grad in gradients:
            backend.sgd(parameter, grad, velocity, **options)
        assert error(parameter, of_torch(torch.optim.SGD, start, gradients, options)) < rtol
    for options in ADAMW:
        parameter, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for step, grad in enumerate(gradients, start=1):
            backend.adamw(parameter, grad, mean, square, step=step, **options)
        assert error(parameter, of_torch(torch.optim.AdamW, start, gradients, options)) < rtol


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
def test_what_does_not_fit_is_named(backend):
    a, b = numbers(3, 4), numbers(3, 5)
    with pytest.raises(ValueError, match=r"\[3, 5\] beside \[3, 4\]"):
        backend.sgd(a, b, a.copy(), lr=0.1)
    with pytest.raises(ValueError, match="count from 1, got 0"):
        backend.adamw(a, a.copy(), a.copy(), a.copy(), step=0, lr=0.1)
    with pytest.raises(ValueError, match="one for all, got float32, float64"):
        backend.sgd(a, a.astype(np.float32), a.copy(), lr=0.1)
    with pytest.raises(ValueError, match=r"a parameter of \[2, 4\], its gradient or its state is not contiguous"):
        backend.sgd(numbers(4, 4)[::2], numbers(2, 4), numbers(2, 4), lr=0.1)


@pytest.mark.parametrize("backend", BACKENDS, **NAMES)
@pytest.mark.parametrize(("name", "more"), [("sgd", {"momentum": 0.9, "weight_decay": 0.1}), ("adamw", {"step": 2})])
def test_gradients_are_divided_first_and_without_a_divisor_nothing_moves(backend, name, more):
    """As a clipped step is: a divisor that is no number is that of a norm that is none."""
    arrays = [numbers(3, 5, seed=seed) ** 2 for seed in range(4 if name == "adamw" else 3)]
    parts, wanted = [each.copy() for each in arrays], [each.copy() for each in arrays]
    for divisor in (np.nan, np.inf):
        getattr(backend, name)(*parts, lr=0.1, divisor=divisor, **more)
    assert all(np.array_equal(found, before) for found, before in zip(parts, arrays, strict=True))
    getattr(backend, name)(*parts, lr=0.1, divisor=4.0, **more)
    wanted[1] /= 4
    getattr(backend, name)(*wanted, lr=0.1, **more)
    assert all(error(parts[place], wanted[place]) < FP64_RTOL for place in range(len(parts)) if place != 1)
    assert np.array_equal(parts[1], arrays[1])  # the gradient itself stays
