"""Batch normalisation over the replicas of one microbatch, on CPUs and GPUs. B rows here, C channels, H×W pixels.

torch.nn.SyncBatchNorm refuses CPUs, and plain BatchNorm under DDP normalises by each rank's own rows: another function
than the serial run's (its first step is already 7e-3 off). Forward: every rank's (count, mean, M2) is gathered and
merged in rank order, so all ranks hold the same bits. Backward: so are the two sums of the gradient formula.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fanlight.errors import ConfigError
from fanlight.parallel import comm

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _Normalise(torch.autograd.Function):
    """Normalised over all ranks' rows; the running statistics are updated as torch does, by the unbiased variance."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, running_mean, running_var, momentum: float, eps: float, group):
        mean_C, var_C, count = _statistics(x, eps, group)
        if running_mean is not None:
            unbiased_C = var_C * (count / (count - 1).clamp(min=1))
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased_C.to(running_var.dtype), momentum)
        ctx.save_for_backward(x, weight, mean_C, var_C, count)
        ctx.eps, ctx.group = eps, group
        # Given statistics make torch's inference kernel do one vectorised pass, whatever the memory format.
        return torch.native_batch_norm(x, weight, bias, mean_C, var_C, False, momentum, eps)[0]

    @staticmethod
    def backward(ctx: Any, grad_output):
        x, weight, mean_C, var_C, count = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        gain_C = torch.ones_like(mean_C) if weight is None else weight
        # torch's backward for fixed statistics gives this rank's Σg·x̂ and Σg; of the input's gradient no part is wanted.
        _, sum_gx_C, sum_g_C = torch.ops.aten.native_batch_norm_backward(
            grad_output, x, gain_C, mean_C, var_C, None, None, False, ctx.eps, [False, True, True]
        )
        grad_x = None
        if needs_x:
            sums_2C = _gathered(torch.stack([sum_g_C, sum_gx_C]), ctx.group).sum(0)  # their rows are one batch
            mean_g_C, mean_gx_C = sums_2C / count
            # grad_x = scale · (g − mean_g − x̂ · mean_gx). The last two terms are the inference kernel again, in fp32
            # inside; both parts take the scale as rounded to x's format, or the gradient's sum would not be 0.
            scale_C = (gain_C * torch.rsqrt(var_C + ctx.eps)).to(x.dtype)
            grad_x = torch.native_batch_norm(
                x, -scale_C * mean_gx_C, -scale_C * mean_g_C, mean_C, var_C, False, 0.0, ctx.eps
            )[0]
            grad_x.addcmul_(grad_output, scale_C.view((1, -1) + (1,) * (x.dim() - 2)))
        return (
            grad_x, sum_gx_C if needs_weight else None, sum_g_C if needs_bias else None, None, None, None, None, None
        )  # fmt: skip


def _statistics(x: torch.Tensor, eps: float, group) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and biased variance per channel [C] over all ranks, and the count of values per channel: a tensor, since
    reading it would wait for a GPU.

    Merging is Chan, Golub and LeVeque 1979: no rank's mean is subtracted from another's squares.
    """
    local = x.numel() // x.shape[1]
    if x.is_cuda:
        mean_C, invstd_C = torch.batch_norm_stats(x, eps)
        var_C = invstd_C.square().reciprocal() - eps
    else:
        # Half-precision input with fp32 buffers is summed, and answered, in fp32; momentum 0 leaves them as they are.
        half = x.dtype in (torch.bfloat16, torch.float16)
        running_C = torch.zeros(x.shape[1]) if half else None
        mean_C, var_C = torch.batch_norm_update_stats(x, running_C, running_C, 0.0)
    # In float64 because it is small: counts stay whole numbers, and far from 0 no digit of the means' spread is lost.
    own = torch.cat([mean_C.double(), var_C.double(), mean_C.new_full((1,), local, dtype=torch.float64)])
    table_RX = _gathered(own, group)
    channels = x.shape[1]
    means_RC, vars_RC, counts_R1 = table_RX[:, :channels], table_RX[:, channels:-1], table_RX[:, -1:]
    count = counts_R1.sum()
    merged_C = (means_RC * counts_R1).sum(0) / count
    spread_C = ((vars_RC + (means_RC - merged_C).square()) * counts_R1).sum(0) / count
    return merged_C.to(mean_C.dtype), spread_C.to(mean_C.dtype), count


def _gathered(own: torch.Tensor, group) -> torch.Tensor:
    """Every rank's `own`, in rank order, [R, ...]. For vectors this small gloo's all-reduce takes twice as long."""
    comm.sent["statistics of norms"] += own.nbytes
    all_R = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_R, own, group=group)
    return torch.stack(all_R)


def _forward(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """A BatchNorm's forward, synchronised in training, torch's own in evaluation, where ranks see different batches."""
    if not norm.training:  # without running statistics by the batch's own, as torch does
        return torch.nn.functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.running_mean is None, 0.0, norm.eps
        )
    mean_C, var_C, momentum = None, None, norm.momentum
    if norm.track_running_stats:
        mean_C, var_C = norm.running_mean, norm.running_var
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:  # the plain average over all batches
                momentum = 1.0 / float(norm.num_batches_tracked)
    return _Normalise.apply(
        x, norm.weight, norm.bias, mean_C, var_C, momentum or 0.0, norm.eps, norm.fanlight_group
    )  # fmt: skip


def _synchronised_kind(kind: type) -> type:
    """A subclass of a BatchNorm class whose statistics are shared: same name, parameters and state."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _forward(self, x)
        if hasattr(self, "act"):  # timm's BatchNormAct2d: norm, drop, activation in one module
            y = self.act(self.drop(y))
        return y

    return type(f"Synchronised{kind.__name__}", (kind,), {"forward": forward, "__doc__": kind.__doc__})


def stay_out_of_graphs() -> None:
    """torch.compile steps over synchronised norms from now on: their exchange between ranks is no part of a graph."""
    global _forward
    if not getattr(_forward, "_torchdynamo_disable", False):  # it stays so for the process, and once is enough
        _forward = torch.compiler.disable(_forward)


_synchronised: dict[type, type] = {}


@contextlib.contextmanager
def apart(model: nn.Module) -> Iterator[bool]:
    """Inside, its synchronised norms are torch's own again, of each rank's rows; whether there are any."""
    shared = [(module, type(module)) for module in model.modules() if type(module) in _synchronised.values()]
    kinds = {after: before for before, after in _synchronised.items()}
    for module, kind in shared:
        module.__class__ = kinds[kind]
    try:
        yield bool(shared)
    finally:
        for module, kind in shared:
            module.__class__ = kind


def synchronise(model: nn.Module, group: dist.ProcessGroup) -> int:
    """Makes every trained BatchNorm of `model` share its statistics over `group`, in place; returns how many.

    Names, parameters and buffers stay: a checkpoint knows no difference. Norms in eval mode (frozen ones) use and keep
    their own statistics. Raises ConfigError for a BatchNorm subclass whose own forward is unknown.
    """
    count = 0
    for name, module in model.named_modules():
        if not isinstance(module, _KINDS) or hasattr(module, "fanlight_group"):
            continue
        kind = type(module)
        if kind not in _KINDS and not (kind.__name__ == "BatchNormAct2d" and hasattr(module, "drop")):
            raise ConfigError(
                f"norm {name!r} of class {kind.__name__} cannot be synchronised over ranks; train it with --ranks 1"
            )
        _synchronised.setdefault(kind, _synchronised_kind(kind))
        module.__class__ = _synchronised[kind]
        module.__dict__["fanlight_group"] = group  # no parameter, buffer or submodule
        count += 1
    return count
