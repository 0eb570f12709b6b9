"""Functions that tests of layouts run on ranks: any layout against the serial run, which rank 0 plays beside it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from fanlight.parallel import comm, held, link, schedule, tensor
from fanlight.parallel.comm import World
from fanlight.train import evaluate, parts, state
from fanlight.train.proof import gradients, take_parts
from parallel import micro  # noqa: F401  (registers the networks)
from parallel.parity_jobs import batches, error, mean_gain, strictly, sums_of, train_on, training  # noqa: F401  (mean_gain and train_on are jobs)


def mean_over_ranks(tensor: Tensor, world: World) -> Tensor:
    return torch.from_numpy(world.sum_host(tensor.double().numpy()) / world.ranks).to(tensor.dtype)


def vector(tensors: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([tensors[name].detach().flatten() for name in names]).double()


def lockstep(
    world: World, *, folder: str, values: dict[str, Any], dtype: str, steps: int
) -> dict[str, float] | None:  # fmt: skip
    """Steps of the serial run, each taken by this layout too, from the serial state: the worst relative differences.

    Raises TrainingError when ranks that hold the same part of a gradient hold other bits."""
    t = training(world, folder, values, dtype=dtype)
    serial = training(comm.alone(), folder, values, dtype=dtype) if world.is_first else None
    serial_batches = batches(serial) if serial else iter([])
    shared = Path(folder, f"layouts-{world.ranks}.safetensors")
    worst: dict[str, float] = {}
    for step, batch in zip(range(steps), batches(t)):
        if serial:
            save_file({key: value.contiguous() for key, value in serial.tensors().items()}, shared)
        world.barrier()
        take_parts(t, load_file(shared))
        world.barrier()
        sums = sums_of(t, batch)
        own = gradients(t)
        if t.meetings is not None:  # each rank's is of its own rows; their mean is what the serial run's is
            own = {name: mean_over_ranks(gradient, world) for name, gradient in own.items()}
        parts.plan(own, t.held.get, world)
        found = parts.whole_on_first(own, t.held.get, world)
        norm = float(t.update(step))
        means = parts.whole_on_first(t.average.tensors(), t.held_of, world) if t.average is not None else {}
        after = parts.whole_on_first(t.weights(), t.held.get, world)
        if serial is None:
            continue
        assert found is not None and after is not None
        expected = sums_of(serial, next(serial_batches))
        assert sums[1:].tolist() == expected[1:].tolist(), f"hits or rows: {sums[1:]} {expected[1:]}"
        errors = {"loss": abs(sums[0] - expected[0]) / abs(expected[0])}
        wanted = gradients(serial)
        assert found.keys() == wanted.keys()
        errors["gradient"] = error(vector(found, [*wanted]), vector(wanted, [*wanted]))
        expected_norm = float(serial.update(step))
        errors["norm"] = 0.0 if t.meetings is not None else abs(norm - expected_norm) / norm
        whole = serial.weights()
        assert after.keys() == whole.keys()
        names = [name for name, _ in serial.model.named_parameters()]
        errors["weights"] = error(vector(after, names), vector(whole, names))
        errors["averages"] = 0.0
        if serial.average is not None:
            assert means is not None
            kept = serial.average.tensors()
            errors["averages"] = error(vector(means, [*kept]), vector(kept, [*kept]))
        buffers = [name for name in whole if name not in names]
        errors["buffers"] = error(vector(after, buffers), vector(whole, buffers)) if buffers else 0.0
        worst = {kind: max(value, worst.get(kind, 0.0)) for kind, value in errors.items()}
    return worst if world.is_first else None


def seen(world: World, *, folder: str, values: dict[str, Any], steps: int) -> dict[str, Any]:
    """Samples by step and microbatch, and where this rank stands."""
    t = training(world, folder, values)
    samples = [[rows.samples.tolist() for rows in batch.parts] for _, batch in zip(range(steps), batches(t))]
    return {"samples": samples, "data rank": t.layout.data_rank(world.rank), "data ranks": t.layout.data_ranks}


def rows(world: World, *, folder: str, values: dict[str, Any], checkpoint: str) -> list | None:
    """Evaluation rows of val, from a checkpoint's weights."""
    t = training(world, folder, values)
    t.restore(state.load(Path(checkpoint), part_of=t.part_of)[0])
    with strictly(), t.averaged():
        found = evaluate.outputs(t.step, t.task, t.samples["val"], t.cutting, world, batch=4, workers=1)
    return None if found is None else found.tolist()


def through(world: World, *, folder: str, values: dict[str, Any], start: str, to: str) -> str:
    """Reads a checkpoint and saves it again, as this layout holds it."""
    t = training(world, folder, values)
    document = state.describe(Path(start))
    t.restore(state.load(Path(start), part_of=t.part_of)[0])
    given = {"step": document["step"]}
    return str(state.save(Path(to), tensors=t.tensors(), document=given, world=world, keep=9, held_of=t.held_of))


def differing(
    world: World, *, folder: str, values: dict[str, Any], expected: str, starts: dict[str, str]
) -> dict[str, list[str]] | None:  # fmt: skip
    """By name of a checkpoint in `starts`: keys that this layout reads out of it otherwise than the serial checkpoint
    `expected` holds them, put together on rank 0."""
    t = training(world, folder, values)
    wanted = state.load(Path(expected))[0] if world.is_first else {}
    found = {}
    for name, start in starts.items():
        for value in t.tensors().values():  # what is not read stays spoiled
            value.detach().zero_()
        t.restore(state.load(Path(start), part_of=t.part_of)[0])
        tensors = t.tensors()
        parts.plan(tensors, t.held_of, world)  # raises where ranks differ
        whole = parts.whole_on_first(tensors, t.held_of, world)
        if whole is not None:
            keys = sorted(wanted.keys() | whole.keys())
            found[name] = [k for k in keys if k not in whole or k not in wanted or not whole[k].equal(wanted[k])]
    return found if world.is_first else None


def outer_steps(world: World, *, folder: str, values: dict[str, Any], dtype: str, steps: int) -> dict[str, float]:
    """DiLoCo beside a serial run whose every step is turned into an outer Nesterov step by hand: how far weights are apart,
    and how far the outer steps went from the serial ones."""
    t, serial = training(world, folder, values, dtype=dtype), training(comm.alone(), folder, values, dtype=dtype)
    lr, momentum = values["optim.outer_lr"], values["optim.outer_momentum"]
    names = [name for name, _ in serial.model.named_parameters()]
    velocity = dict.fromkeys(names, 0.0)
    worst = {"weights": 0.0, "moved": 0.0}
    for step, batch, whole in zip(range(steps), batches(t), batches(serial)):
        start = {name: serial.weights()[name].clone() for name in names}
        for each, own in ((t, batch), (serial, whole)):
            sums_of(each, own)
            each.update(step)
        weights = serial.weights()
        inner = vector(weights, names)
        for name in names:
            change = start[name] - weights[name]
            velocity[name] = momentum * velocity[name] + change
            weights[name].copy_(start[name] - lr * (change + momentum * velocity[name]))
        expected = vector(weights, names)
        worst["weights"] = max(worst["weights"], error(vector(t.weights(), names), expected))
        worst["moved"] = max(worst["moved"], error(inner, expected))
    return worst


def kept_equal(world: World, *, folder: str, values: dict[str, Any]) -> list[list[str]]:
    """Names of whole gradients and statistics that differ from those of the tensor group's first rank, once the others'
    are spoiled, and after `keep_equal`."""
    t = training(world, folder, values)
    _, batch = next(zip(range(1), batches(t)))
    sums_of(t, batch)
    named = [(name, held.local(p.grad)) for part in t.step.parts for name, p in part.named_parameters()]
    named += [(name, b) for part in t.step.parts for name, b in part.named_buffers() if b.is_floating_point()]
    whole = {name: value for name, value in named if name not in t.placed.held}
    if t.layout.place(world.rank).tp > 0:
        for value in whole.values():
            value.add_(1.0)

    def differing() -> list[str]:
        found = []
        for name, value in whole.items():
            first = value.clone(memory_format=torch.contiguous_format)
            dist.broadcast(first, group=t.world.tensor, group_src=0)
            found += [] if first.equal(value) else [name]
        return found

    before = differing()
    tensor.keep_equal(t.step.parts, t.placed.held, t.world.tensor)
    return [before, differing()]


def held_bytes(world: World, *, folder: str, values: dict[str, Any], steps: int = 1) -> dict[str, int]:
    """Bytes that this rank holds after a step, by kind."""
    t = training(world, folder, values)
    found: dict[str, int] = {}
    for step, batch in zip(range(steps), batches(t)):
        sums_of(t, batch)
        found["gradients"] = sum(value.nbytes for value in gradients(t).values())
        t.update(step)
    found["parameters"] = sum(held.local(p).nbytes for part in t.step.parts for p in part.parameters())
    found["optimizer"] = sum(value.nbytes for key, value in t.optimizer.tensors().items() if not key.endswith(".step"))
    return found


def spoiled(world: World, *, folder: str, values: dict[str, Any]) -> str:
    """What saving says of a plain tensor that rank 1 holds otherwise."""
    t = training(world, folder, values)
    tensors = t.tensors()
    plain = next(key for key in sorted(tensors) if t.held_of(key) is None and tensors[key].is_floating_point())
    tensors[plain] = tensors[plain].detach().clone()
    if world.rank == world.ranks - 1:
        tensors[plain].view(-1)[0] += 1
    place = Path(folder, "never")
    state.save(place, tensors=tensors, document={"step": 1}, world=world, keep=1, held_of=t.held_of)
    return plain


def measured_link(world: World) -> dict[str, float]:
    return asdict(link.measure(world))


def saved_bytes(world: World, *, folder: str, values: dict[str, Any]) -> dict[str, Any]:
    """The most bytes of activations that wait for the backward at one time in a step, and how many microbatches they are of.
    Parameters and what shares their memory are not counted, a storage counts once."""
    t = training(world, folder, values)
    buffers = {b.untyped_storage().data_ptr() for part in t.step.parts for b in part.buffers()}
    live: dict[int, list[int]] = {}
    now = most = 0

    class Kept:
        def __init__(self, tensor: Tensor):
            nonlocal now, most
            self.tensor, storage = tensor, tensor.untyped_storage()
            base = tensor if tensor._base is None else tensor._base
            is_own = isinstance(base, torch.nn.Parameter) or storage.data_ptr() in buffers
            self.place = 0 if is_own else storage.data_ptr()
            if self.place:
                entry = live.setdefault(self.place, [0, storage.nbytes()])
                entry[0] += 1
                now += entry[1] if entry[0] == 1 else 0
                most = max(most, now)

        def __del__(self) -> None:
            nonlocal now
            if self.place:
                entry = live[self.place]
                entry[0] -= 1
                if not entry[0]:
                    now -= live.pop(self.place)[1]

    _, batch = next(zip(range(1), batches(t)))
    sums_of(t, batch)  # finds out what travels
    t.update(0)
    most = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        sums_of(t, batch)
    flight = 1
    if t.layout.pp > 1:
        plan = schedule.orders(
            t.layout.schedule,
            ranks=t.layout.pp,
            stages_per_rank=t.layout.stages_per_rank,
            microbatches=len(batch.parts),
        )
        flight = plan.in_flight(t.layout.place(world.rank).pp)
    return {"bytes": most, "in flight": flight}
