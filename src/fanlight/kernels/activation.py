"""ReLU, tanh and GELU and their gradients, number by number, in float32 whatever numbers come. L numbers.

tanh near 0 is a rational of Cephes (Moshier 1989), for 1 − 2/(e²ˣ + 1) loses its digits there. GELU is x · Φ(x) with
Φ = erfc(−x/√2)/2 by a Chebyshev fit of relative error 1.2e-7 (Press et al. 1992, erfcc), which keeps its digits far below 0.
"""

import torch
import triton
import triton.language as tl

from fanlight.kernels.launch import IS_INTERPRETED, aligned, given

BLOCK = 256 if IS_INTERPRETED else 1024


def relu(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """max(x, 0); NaN stays."""
    return _forward(x, "relu", out)


def relu_backward(grad: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """grad where y > 0, else 0."""
    return _backward(grad, y, "relu", out)


def tanh(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """The hyperbolic tangent."""
    return _forward(x, "tanh", out)


def tanh_backward(grad: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """grad · (1 − y²)."""
    return _backward(grad, y, "tanh", out)


def gelu(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """x · Φ(x)."""
    return _forward(x, "gelu", out)


def gelu_backward(grad: torch.Tensor, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """grad · (Φ(x) + x · φ(x))."""
    return _backward(grad, x, "gelu", out)


def _forward(x: torch.Tensor, name: str, out: torch.Tensor | None) -> torch.Tensor:
    x, y = aligned(x, torch.empty_like(x) if out is None else out)
    _curve[(triton.cdiv(x.numel(), BLOCK),)](x, y, x.numel(), ACTIVATION=name, BLOCK=BLOCK)
    return given(y, out)


def _backward(grad: torch.Tensor, of: torch.Tensor, name: str, out: torch.Tensor | None) -> torch.Tensor:
    grad, of, dx = aligned(grad, of, torch.empty_like(grad) if out is None else out)
    _slope[(triton.cdiv(grad.numel(), BLOCK),)](grad, of, dx, grad.numel(), ACTIVATION=name, BLOCK=BLOCK)
    return given(dx, out)


@triton.jit
def _curve(x_ptr, y_ptr, L, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    l_L = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = l_L < L
    x_L = tl.load(x_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    tl.store(y_ptr + l_L, curved(x_L, ACTIVATION).to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _slope(grad_ptr, of_ptr, dx_ptr, L, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    l_L = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = l_L < L
    grad_L = tl.load(grad_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    of_L = tl.load(of_ptr + l_L, mask=ok, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        dx_L = tl.where(of_L > 0, grad_L, 0.0)
    elif ACTIVATION == "tanh":
        dx_L = grad_L * (1 - of_L * of_L)
    else:
        density_L = tl.exp(-0.5 * of_L * of_L) * 0.3989422804014327
        dx_L = grad_L * (_share_below(of_L) + of_L * density_L)
    tl.store(dx_ptr + l_L, dx_L.to(dx_ptr.dtype.element_ty), mask=ok)


@triton.jit
def curved(x, ACTIVATION: tl.constexpr):
    """The activation of that name, or none, of float32."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    if ACTIVATION == "tanh":
        x = _tanh(x)
    if ACTIVATION == "gelu":
        x = x * _share_below(x)
    return x


@triton.jit
def _tanh(x):
    size = tl.abs(x)
    z = tl.where(size < 0.625, x * x, 0.0)
    near = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z
    near = (near - 3.33332819422e-1) * z * x + x
    far = 1 - 2 / (tl.exp(2 * tl.minimum(size, 20.0)) + 1)
    far = tl.where(x < 0, -far, far)
    return tl.where(size < 0.625, near, tl.where(x == x, far, x))


@triton.jit
def _share_below(x):
    """Φ(x) = erfc(z)/2 with z = −x/√2; erfc(z) = t · exp(−z² + polynomial of t), t = 1/(1 + z/2), and 2 − erfc(−z) below 0."""
    z = tl.abs(x) * 0.7071067811865476
    t = 1 / (1 + 0.5 * z)
    fit = (((0.17087277 * t - 0.82215223) * t + 1.48851587) * t - 1.13520398) * t + 0.27886807
    fit = ((((fit * t - 0.18628806) * t + 0.09678418) * t + 0.37409196) * t + 1.00002368) * t - 1.26551223
    beyond = 0.5 * t * tl.exp(fit - z * z)
    return tl.where(x > 0, 1 - beyond, tl.where(x <= 0, beyond, x))
