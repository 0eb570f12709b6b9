"""Functions that tests of batch normalisation over ranks run on ranks. They return numbers, tests judge them."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from fanlight.data import order
from fanlight.parallel import comm
from fanlight.parallel.comm import World
from fanlight.parallel.norm import apart, synchronise
from parallel.parity_jobs import DTYPES, error, strictly


@contextlib.contextmanager
def norm_group(world: World, folder: str) -> Iterator[Any]:
    """The group of norms; one of its own on a rank that is alone."""
    if world.norm is not None:
        yield world.norm
        return
    path = Path(folder, f"meeting-{time.monotonic_ns()}")
    comm.join(rank=0, ranks=1, local_rank=0, local_ranks=1, device="cpu", init_method=f"file://{path}")
    try:
        yield dist.group.WORLD
    finally:
        comm.leave()


def make_norm(kind: str, channels: int, options: dict[str, Any]) -> nn.Module:
    if kind == "BatchNormAct2d":
        from timm.layers import BatchNormAct2d

        return BatchNormAct2d(channels, act_layer=nn.SiLU, **options)
    return getattr(nn, kind)(channels, **options)


def norm_passes(
    norm: nn.Module, inputs: list[torch.Tensor], upstream: list[torch.Tensor], rows: slice
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """One training pass after another over `rows` of the inputs, then an evaluation of a whole input. What they leave:
    by row, and for the norm as a whole."""
    for x, gradient in zip(inputs, upstream):
        leaf = x[rows].clone().requires_grad_()  # a clone keeps the memory format
        y = norm.train()(leaf)
        y.backward(gradient[rows])
        by_row = {"output": y.detach(), "input gradient": leaf.grad}
    evaluation = {"evaluation": norm.eval()(inputs[0]).detach()}
    gradients = {f"{name} gradient": p.grad for name, p in norm.named_parameters()}
    return by_row, evaluation | gradients | dict(norm.named_buffers())


def norm_errors(
    world: World, *, folder: str, kind: str, shape: list[int], dtype: str = "fp64", channels_last: bool = False,
    mean: float = 0.0, std: float = 1.0, **options: Any,
) -> dict[str, list[float]]:  # fmt: skip
    """By quantity, two distances from torch's own norm over the whole batch in float64: of ours with the rows cut over
    the ranks, and of torch's over the whole batch in the same number format as ours."""
    random = torch.Generator().manual_seed(7)
    spread_C = torch.linspace(0.5, 2.0, shape[1], dtype=torch.float64).view(1, -1, *(1,) * (len(shape) - 2))

    def drawn(*, mean: float, std: float) -> torch.Tensor:
        values = (torch.randn(shape, generator=random, dtype=torch.float64) * spread_C * std + mean).to(DTYPES[dtype])
        return values.contiguous(memory_format=torch.channels_last) if channels_last else values

    inputs = [drawn(mean=mean, std=std) for _ in range(2)]
    upstream = [drawn(mean=0.25, std=1.0) for _ in range(2)]
    exact, usual, ours = (make_norm(kind, shape[1], options) for _ in range(3))
    for norm in (exact, usual, ours):
        norm.to(torch.float32 if dtype == "bf16" else DTYPES[dtype])  # as under autocast: parameters stay in fp32
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5, generator=torch.Generator().manual_seed(3))
    exact.to(torch.float64)
    keys, every = list(ours.state_dict()), slice(0, shape[0])
    mine = order.part_rows(shape[0], part=world.rank, parts=world.ranks)
    with norm_group(world, folder) as group, strictly():
        assert synchronise(ours, group) == 1
        assert list(ours.state_dict()) == keys
        found_rows, found = norm_passes(ours, inputs, upstream, mine)
        for name in found:
            if name.endswith("gradient"):
                dist.all_reduce(found[name], group=group)
        with apart(ours) as are_shared:
            assert are_shared and type(ours) is type(usual), "and of their own rows again"
        assert type(ours) is not type(usual)
    usual_rows, plain = norm_passes(usual, inputs, upstream, every)
    exact_rows, expected = norm_passes(exact, [x.double() for x in inputs], [g.double() for g in upstream], every)
    for name, value in found_rows.items():
        found[name], plain[name], expected[name] = value, usual_rows[name][mine], exact_rows[name][mine]
        assert value.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert found.keys() == expected.keys()
    assert {name: value.dtype for name, value in found.items()} == {name: plain[name].dtype for name in found}
    errors = {name: [error(found[name], expected[name]), error(plain[name], expected[name])] for name in found}
    errors["input gradient sum"] = [
        channel_sum(world, found["input gradient"]),
        channel_sum(comm.alone(), usual_rows["input gradient"]),
    ]
    return errors


def channel_sum(world: World, gradient: torch.Tensor) -> float:
    """‖sum by channel‖ / ‖gradient‖ over all ranks' rows: 0 but for rounding, whatever the upstream gradient."""
    by_channel_CX = gradient.double().transpose(0, 1).flatten(1)
    sums = world.sum_host(torch.cat([by_channel_CX.sum(1), by_channel_CX.square().sum()[None]]).numpy())
    return float(np.linalg.norm(sums[:-1]) / np.sqrt(sums[-1]))


def network_after_synchronise(world: World, *, folder: str, frozen: bool) -> dict[str, Any]:
    """A network whose first norm is frozen or not: how many were synchronised, and what one forward moved."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with norm_group(world, folder) as group:
        count, again = synchronise(model, group), synchronise(model, group)
        model.train()
        if frozen:
            model[1].eval()
        x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(world.rank))
        first = model[1](x_B := model[0](x)).detach()
        model(x)
    plain = torch.nn.functional.batch_norm(x_B, before["1.running_mean"], before["1.running_var"])
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    return {"count": [count, again], "moved": moved, "first norm by its buffers": torch.equal(first, plain)}


def synchronise_unknown(world: World, *, folder: str) -> None:
    class MyNorm(nn.BatchNorm2d):
        pass

    with norm_group(world, folder) as group:
        synchronise(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(MyNorm(4))), group)
