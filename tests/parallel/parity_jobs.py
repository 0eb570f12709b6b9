"""Functions that tests of norms, replication, steps and checkpoints run on ranks. They return numbers, tests judge them.

A `folder` is what `data_folder` of test_parity.py leaves: images, `manifest.parquet`, `pack/`.
"""

import contextlib
import copy
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from fanlight.config import Config
from fanlight.data import manifest as manifests
from fanlight.data import order
from fanlight.data.loader import train_batches
from fanlight.errors import FanlightError, TrainingError
from fanlight.models import small
from fanlight.parallel import comm, compiled
from fanlight.parallel.comm import World
from fanlight.parallel.layout import Layout
from fanlight.parallel.norm import synchronise
from fanlight.parallel.parallelize import place, reduced_over_ranks
from fanlight.parallel.replicate import Replicated
from fanlight.train import build, compiling, evaluate, parts, state
from fanlight.train.clock import StepClock
from fanlight.train.ledger import Ledger
from fanlight.train.training import Training
from fanlight.types import Batch, Position, Rows

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
BASE = {
    "data.image_px": 16, "data.canvas_px": 20, "data.order": "random", "model.name": "small-resnet",
    "augment.crop_share": [0.5, 1.0], "augment.eval_share": 1.0, "augment.flip": True, "optim.lr": 0.05,
    "optim.weight_decay": 5e-4, "train.epochs": 8, "train.batch_size": 13, "train.precision": "fp32",
    "execution.threads": 1, "execution.workers": 1, "execution.channels_last": True, "execution.pack": True,
}  # fmt: skip


class DropNet(nn.Module):
    """Everything that a microbatch's cut could change, in little: norms of both kinds, element and channel dropout."""

    def __init__(self, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2),
            nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(16 * 6 * 6, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3),
        )  # fmt: skip
        self.fc = nn.Linear(24, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x_BCHW))


class DropBlock(nn.Module):
    """A residual branch with what recomputing could change: statistics and dropout."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.branch(x_BCHW)


class DropBlocks(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(DropBlock(), DropBlock())
        self.fc = nn.Linear(8, classes)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.stem(x_BCHW)).mean((2, 3)))


small.NAMES["drop-blocks"] = lambda classes, image_px: DropBlocks(classes)
small.NAMES["drop-net"] = lambda classes, image_px: DropNet(classes)


@contextlib.contextmanager
def strictly() -> Iterator[None]:
    """Warnings are errors on ranks, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def training(world: World, folder: str, values: dict[str, Any], *, dtype: str = "fp32") -> Training:
    layout = {"execution.layout": "ddp" if world.ranks > 1 else "serial", "execution.pack_dir": f"{folder}/pack"}
    config = Config().with_values({**BASE, **values, **layout})
    manifest = manifests.load(Path(folder, "manifest.parquet"))
    os.environ["FANLIGHT_CACHE"] = f"{folder}/cache-{world.ranks}"  # of features, which each number of ranks computes
    with strictly():
        t = build.build(config, manifest, world, dtype=DTYPES[dtype])
        t.feed()
        return t


def batches(t: Training, *, done: int = 0) -> Iterator[Batch]:
    start = Position(*divmod(done, t.steps_per_epoch))
    while start.epoch < (t.config.train.epochs or 0):
        with strictly():
            t.enter(start.epoch)
            t.feed()
        yield from train_batches(t.samples["train"], t.cutting, start=start, epochs=t.phase.end, workers=1)
        start = Position(t.phase.end, 0)


def gradient(t: Training) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in t.optimizer.named.values() if p.grad is not None]).double()


def whole(t: Training) -> dict[str, torch.Tensor]:
    """Each kind of state as one vector: some single tensors are 0 but for rounding."""
    tensors = {**t.step.parts[0].state_dict()}
    kinds: dict[str, list[torch.Tensor]] = {"weights": [tensors.pop(name) for name in t.optimizer.named]}
    for name, value in tensors.items():
        kinds.setdefault(name.rpartition(".")[2], []).append(value)
    if t.average is not None:
        kinds["averaged weights"] = [t.average.tensors()[f"ema.{name}"] for name in t.optimizer.named]
    return {kind: torch.cat([value.flatten() for value in values]) for kind, values in kinds.items()}


def sums_of(t: Training, batch: Batch) -> np.ndarray:
    """One step's gradients are left in the model; its sums over all ranks."""
    clock = StepClock(t.world.device)
    clock.begin()
    clock.arrived()
    with strictly():
        return t.world.sum_host(t.step(batch, loss_scale=t.optimizer.loss_scale, clock=clock).numpy())


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Names, dtypes and bits."""
    found = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        raw = value.detach().contiguous().view(-1).view(torch.uint8).numpy()
        found.update(f"{key} {value.dtype} {list(value.shape)}".encode() + raw.tobytes())
    return found.hexdigest()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, or the plain difference where nothing but 0 is expected."""
    expected = expected.double()
    return float((found.double() - expected).norm() / (expected.norm() or 1.0))


# Norms


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


# The parity contract


def built_state(world: World, *, folder: str, values: dict[str, Any]) -> dict[str, Any]:
    t = training(world, folder, values)
    left = [name for name, p in t.step.parts[0].named_parameters() if p.grad is not None]
    return {"digest": digest(t.tensors()), "gradients": left, "keys": sorted(t.tensors())}


def exchanged(batch: Batch, how: str) -> Batch:
    """The batch with samples in other places, each in its own microbatch."""
    parts = []
    for rows in batch.parts:
        places = np.arange(len(rows.samples))
        places = places[::-1].copy() if how == "reversed" else np.roll(places, len(places) // 2)
        assert rows.images is not None and rows.targets is not None
        keys = None if rows.keys is None else rows.keys[places]
        parts.append(Rows(rows.samples[places], rows.images[places], rows.targets[places], keys=keys))
    return Batch(batch.position, tuple(parts), batch.denominator, batch.seconds)


def still_to_do(rows: Rows) -> list[np.ndarray]:
    """What the device is still to do to the pixels, by row."""
    changes = [] if rows.changes is None else [rows.changes.op, rows.changes.amount, rows.changes.erase]
    return changes + ([] if rows.mix is None else [rows.mix.share.numpy(), rows.mix.box.numpy()])


def batch_hashes(world: World, *, folder: str, values: dict[str, Any], steps: int, done: int = 0) -> list | None:
    """By step: the denominator, and by microbatch the samples and a hash of pixels and targets, all ranks' together."""
    t = training(world, folder, values)
    told = []
    for _, batch in zip(range(steps), batches(t, done=done)):
        microbatches = []
        for rows in batch.parts:
            samples, images, targets = (
                world.gather(np.asarray(part)) for part in (rows.samples, rows.images, rows.targets)
            )
            undone = b"".join(b"" if part is None else part.tobytes() for part in map(world.gather, still_to_do(rows)))
            if samples is not None:
                microbatches.append(
                    [samples.tolist(), hashlib.sha256(images.tobytes() + targets.tobytes() + undone).hexdigest()]
                )
        told.append([list(batch.position), batch.denominator, microbatches])
    return told if world.is_first else None


def lockstep(world: World, *, folder: str, values: dict[str, Any], dtype: str, steps: int) -> dict[str, float] | None:
    """Steps of the serial run, each taken by this layout too, from the serial state: the worst relative differences.

    Raises TrainingError when gradients differ between ranks in any bit."""
    t = training(world, folder, values, dtype=dtype)
    serial = training(comm.alone(), folder, values, dtype=dtype) if world.is_first else None
    serial_batches = batches(serial) if serial else iter([])
    shared = Path(folder, f"lockstep-{world.ranks}.safetensors")
    worst = dict.fromkeys(("loss", "gradient", *whole(t)), 0.0)
    for step, batch in zip(range(steps), batches(t)):
        if serial:
            save_file({key: value.contiguous() for key, value in serial.tensors().items()}, shared)
        world.barrier()
        t.restore(load_file(shared))
        world.barrier()
        sums = sums_of(t, batch)
        check_equal({"gradient": gradient(t)}, world)
        errors = {}
        if serial:
            expected = sums_of(serial, next(serial_batches))
            assert sums[1:].tolist() == expected[1:].tolist(), "hits or rows"
            errors["loss"] = abs(sums[0] - expected[0]) / abs(expected[0])
            errors["gradient"] = error(gradient(t), gradient(serial))
            serial.update(step)
        t.update(step)
        if serial:
            errors |= {kind: error(found, whole(serial)[kind]) for kind, found in whole(t).items()}
            worst = {kind: max(value, errors.get(kind, 0.0)) for kind, value in worst.items()}  # frozen kinds end
    return worst if world.is_first else None


def losses(
    world: World, *, folder: str, values: dict[str, Any], dtype: str, steps: int, exchange: str = ""
) -> list[float]:
    """Mean loss of each step of a run that is left alone."""
    t = training(world, folder, values, dtype=dtype)
    found = []
    for step, batch in zip(range(steps), batches(t)):
        sums = sums_of(t, exchanged(batch, exchange) if exchange else batch)
        t.update(step)
        found.append(float(sums[0] / sums[2]))
    return found


def scored_rows(
    world: World, *, folder: str, values: dict[str, Any], checkpoint: str, parts: list[list[Any]], threads: int = 1
) -> list | None:
    """Evaluation rows from a checkpoint's weights: of each [split, rows of a batch, views] in `parts`."""
    t = training(world, folder, values)
    t.restore(state.load(Path(checkpoint))[0])
    before, modes = digest(t.tensors()), [module.training for module in t.model.modules()]
    torch.set_num_threads(threads)
    try:
        with strictly(), t.averaged():
            found = [
                evaluate.outputs(
                    t.step, t.task, t.samples[split], t.cutting, world, batch=batch, workers=1, views=views
                )
                for split, batch, views in parts
            ]
    finally:
        torch.set_num_threads(1)
    assert digest(t.tensors()) == before and [module.training for module in t.model.modules()] == modes
    return [None if rows is None else rows.tolist() for rows in found]


def train_on(
    world: World, *, folder: str, values: dict[str, Any], checkpoints: str, to: int, save_at: int = 0, start: str = "",
    settled: bool = True, dtype: str = "fp32",
) -> dict[str, Any]:  # fmt: skip
    """Trains to step `to`, from the checkpoint `start` or the seed, and saves after step `save_at`. What it ended with,
    and by step the loss and the samples of this rank."""
    with unsettled() if not settled else contextlib.nullcontext():
        t = training(world, folder, values, dtype=dtype)
    done = 0
    if start:
        tensors, document = state.load(Path(start))
        t.enter(document["step"] // t.steps_per_epoch)
        t.restore(tensors)
        t.optimizer.restore_scalars(document)
        done = document["step"]
    found, samples = [], []
    for step, batch in zip(range(done, to), batches(t, done=done)):
        sums = sums_of(t, batch)
        t.update(step)
        found.append(float(sums[0] / sums[2]))
        samples.append([rows.samples.tolist() for rows in batch.parts])
        if step + 1 == save_at:
            document = {"step": step + 1, **t.optimizer.scalars()}
            state.save(Path(checkpoints), tensors=t.tensors(), document=document, world=world, keep=2)
    return {"digest": digest(t.tensors()), "keys": sorted(t.tensors()), "losses": found, "samples": samples}


@contextlib.contextmanager
def unsettled() -> Iterator[None]:
    settle: Callable[..., None] = Replicated.settle
    Replicated.settle = lambda self, example: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Replicated.settle = settle  # type: ignore[method-assign]


def compiled_gradients(world: World, *, folder: str, values: dict[str, Any], backend: str) -> dict[str, Any]:
    """The first step's gradient, compiled and not; what `prove` says and leaves behind."""
    compiled.BACKEND = backend
    try:
        t = training(world, folder, {**values, "execution.compile": True})
        before = digest(t.tensors())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = next(batches(t))
            plain_sums = sums_of(t, batch)
            plain = gradient(t)
            t.step.parts[0].zero_grad(set_to_none=True)
        t = training(world, folder, {**values, "execution.compile": True})
        verdict = compiling.prove(t, steps=10)
        same = digest(t.tensors()) == before
        sums = sums_of(t, batch)
        with t.step.evaluating():
            rests = all(part._compiled_call_impl is None for part in t.step.compiled.parts)
        works = all(part._compiled_call_impl is not None for part in t.step.compiled.parts)
    finally:
        compiled.BACKEND = "inductor"
    return {
        "error": error(gradient(t), plain), "loss error": abs(sums[0] - plain_sums[0]) / abs(plain_sums[0]),
        "verdict": verdict is not None and verdict.document(), "same state": same, "rests": rests, "works": works,
        "keys": sorted(t.tensors()),
    }  # fmt: skip


def feature_table(world: World, *, folder: str, values: dict[str, Any], dtype: str) -> list[Any]:
    """A hash of all features in the manifest's order, and where they lie."""
    t = training(world, folder, values, dtype=dtype)
    found = t.samples["train"].features
    assert found is not None and all(t.samples[split].features.table is not None for split in t.samples)
    kept = [str(path.relative_to(folder)) for path in sorted(Path(os.environ["FANLIGHT_CACHE"]).rglob("*.*"))]
    return [list(found.table.shape), hashlib.sha256(found.table.tobytes()).hexdigest(), kept]


# Replication, ledger, checkpoints


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


def check_equal(tensors: dict[str, torch.Tensor], world: World) -> None:
    """TrainingError when a tensor differs between ranks in any bit."""
    parts.plan(tensors, parts.whole_tensors, world)


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
