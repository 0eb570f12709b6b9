"""Functions that tests of replication, of the ledger and of checkpoints run on ranks. They return numbers, tests judge them."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fanlight.errors import FanlightError, TrainingError
from fanlight.parallel.comm import World
from fanlight.parallel.layout import Layout
from fanlight.parallel.parallelize import place, reduced_over_ranks
from fanlight.train import state
from fanlight.train.ledger import Ledger
from parallel.parity_jobs import check_equal, digest, error, strictly


def replicated_gradients(world: World, *, channels_last: bool) -> dict[str, Any]:
    """Two microbatches of one step on a replicated network; the serial gradient of the same rows is the reference."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    serial = copy.deepcopy(model)
    replicated = replicated_model(model, world, channels_last=channels_last)
    assert replicated is not None
    x = torch.randn(2, world.ranks, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    sent, changed = [], []
    for index, more in (0, True), (1, False):
        before = replicated.sent_at
        with replicated.accumulating(more), strictly():
            replicated.wrapped(x[index, world.rank, None]).square().sum().backward()
        sent.append(replicated.sent_at > before)
        changed.append(world.any(not equal_on_ranks(model, world)))
    serial(x.flatten(0, 1)).square().sum().backward()
    pairs = [(p.grad, q.grad) for p, q in zip(model.parameters(), serial.parameters())]
    return {
        "sent": sent, "differs between ranks": changed,
        "error": max(error(found, expected) for found, expected in pairs),
        "formats": [p.grad.stride() == p.stride() for p in model.parameters()],
        "channels last": model[0].weight.is_contiguous(memory_format=torch.channels_last),
    }  # fmt: skip


def replicated_model(model: nn.Module, world: World, *, channels_last: bool) -> Any:
    layout = Layout(dp_replicate=world.ranks, name="ddp")
    placed = place(model, layout, world, channels_last=channels_last)
    return reduced_over_ranks(placed, layout, world, number_format="fp32")[0]


def equal_on_ranks(model: nn.Module, world: World) -> bool:
    try:
        check_equal({name: p.grad for name, p in model.named_parameters()}, world)
    except TrainingError:
        return False
    return True


def keep_ledger(
    world: World, *, sums: list[list[list[float]]], stop: dict[str, int], save: dict[str, int],
    over: dict[str, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`sums[step][rank]`: loss, hits, rows and norm, each row of weight 1/2; `stop`, `save`, `over`: at which step a rank
    (a string, for JSON) wishes it."""
    ledger, decisions = Ledger(world), []
    for step, by_rank in enumerate(sums, 1):
        *own, norm = torch.tensor(by_rank[world.rank], dtype=torch.float64)
        weight = sum(numbers[2] for numbers in by_rank) / 2
        ledger.add(torch.stack(own), denominator=weight, norm=norm.float())
        assert ledger.is_due
        me = str(world.rank)
        try:
            wishes = {"stop": stop.get(me) == step, "save": save.get(me) == step, "over": (over or {}).get(me) == step}
            decisions.append(ledger.exchange(step=step, **wishes))
        except FanlightError as raised:
            return {"decisions": decisions, "raised": [type(raised).__name__, str(raised)]}
    return {"decisions": decisions, "epoch": ledger.close_epoch(), "after": ledger.epoch_sums.tolist()}


def odd_tensors() -> dict[str, torch.Tensor]:
    """One of each kind that a checkpoint meets, and more."""
    random = torch.Generator().manual_seed(5)
    image = torch.randn(4, 3, 5, 5, generator=random).to(memory_format=torch.channels_last)
    return {
        "model.weight": nn.Parameter(image),
        "model.norm.num_batches_tracked": torch.tensor(1 << 53, dtype=torch.int64) + 1,
        "model.double": torch.randn(3, generator=random, dtype=torch.float64) / 3,
        "model.short": torch.randn(7, generator=random).to(torch.bfloat16),
        "model.mask": torch.tensor([True, False, True]),
        "model.view": torch.arange(20.0).view(4, 5).T,
        "model.one": torch.zeros(1),
        "optim.weight.step": torch.tensor(3.0),
        "optim.weight.exp_avg": -torch.zeros(2, 2),
    }


def save_and_load(world: World, *, checkpoints: str, step: int) -> dict[str, Any]:
    given = odd_tensors()
    with strictly():
        path = state.save(Path(checkpoints), tensors=given, document={"step": step, "x": 1.5}, world=world, keep=2)
        tensors, document = state.load(path)
    return {"name": path.name, "same": digest(tensors) == digest(given), "document": document}


def load_only(world: World, *, checkpoint: str) -> str:
    return digest(state.load(Path(checkpoint))[0])


def save_unequal(world: World, *, checkpoints: str, key: str, place: int) -> None:
    """One rank, the last, holds one bit else in one of the tensors."""
    tensors = {key: torch.zeros(140_000, dtype=torch.bfloat16), "model.same": torch.ones(3)}
    if world.rank == world.ranks - 1:
        tensors[key].view(torch.int16)[place] = 1
    state.save(Path(checkpoints), tensors=tensors, document={"step": 1}, world=world, keep=2)
