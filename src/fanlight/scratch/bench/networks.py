"""A training step of a network, and an epoch: forward, loss, backward, SGD with momentum, from the same weights on the same rows.

A step's gradient is compared with that of NumPy in float64, an epoch's losses with NumPy's. PyTorch's step is what a user
writes by hand: modules, `backward`, the fused optimizer. N images of a batch.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight import config as configuration
from fanlight import console
from fanlight.models import line, line_net
from fanlight.parallel import comm
from fanlight.scratch.bench import clock, contestants
from fanlight.scratch.bench.contestants import LAYOUTS, Contestant, Field, captured, forget_compiled, without_triton
from fanlight.scratch.step import Mover, ScratchStep
from fanlight.tasks.classify import Classify
from fanlight.train.clock import StepClock
from fanlight.types import Batch, Position, Rows

NET, IMAGE, CLASSES = "reference", (1, 28, 28), tuple("0123456789")
BATCH, BATCHES = 128, (1, 8, 32, 128, 512)
GRADIENT_MOST = (
    1e-4  # ‖g − wanted‖ / ‖wanted‖ of the whole gradient in float32; sums run in other orders, 4e-7 is usual
)
LOSS_MOST = 1e-2  # of an epoch's mean loss: roundings of hundreds of steps add up
ASKED = configuration.Optim(name="sgd", lr=0.01, momentum=0.9, weight_decay=0.0)
EPOCHS = 3  # of a run: the steady ones are timed


@dataclass(frozen=True)
class StepSubject:
    """A step on a batch of N images."""

    op: str
    batch: int
    direction: str = "step"

    @property
    def shape(self) -> str:
        return f"{self.batch}×{'×'.join(map(str, IMAGE))}"

    @property
    def flop(self) -> float:
        return 3.0 * self.batch * forward_flop()  # each layer's two gradients cost what its forward does, nearly


class _Given:
    """What a step asks of the project's Sight, with images that are ready."""

    keys = None
    task = Classify(CLASSES)

    def __init__(self, images: torch.Tensor):
        self._images = images

    def images(self, rows: Rows) -> torch.Tensor:
        return self._images

    def ready(self, rows: Rows, *, epoch: int) -> None:
        """No dropout."""


class Step:
    """Steps by a table of operators on rows of noise."""

    def __init__(self, backend: str, model: nn.Module, x: torch.Tensor, targets: torch.Tensor):
        device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
        model, x = copy.deepcopy(model).to(device), x.to(device)
        placed = line.place(line.of(NET), image=IMAGE, classes=len(CLASSES))
        self._step = ScratchStep(model, placed, _Given(x), comm.alone(device), backend=backend)  # type: ignore[arg-type]
        groups = [{"params": list(model.parameters()), "weight_decay": 0.0}]
        self._optimizer = Mover(groups, ASKED, backend=backend, arrays=self._step.arrays)
        rows = Rows(np.arange(len(x)), x, targets)
        self._batch, self._device = Batch(Position(0, 0), (rows,), float(len(x)), 0.0), torch.device(device)

    def __call__(self) -> None:
        clock = StepClock(self._device)
        clock.begin()
        self._step(self._batch, loss_scale=1.0, clock=clock)
        self._optimizer.step()

    def gradient(self) -> list[np.ndarray]:
        return _flat(self._step.parts[0])


class TorchStep:
    """The same by PyTorch's modules."""

    def __init__(
        self, model: nn.Module, x: torch.Tensor, targets: torch.Tensor, *, device: str, layout: str, mode: str
    ):
        form: Any = LAYOUTS[layout]
        self._model = copy.deepcopy(model).to(device).to(memory_format=form)
        self._x, self._targets = x.to(device).contiguous(memory_format=form), targets.to(device)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=ASKED.lr or 0.0, momentum=ASKED.momentum, nesterov=True, fused=True
        )
        if mode == "torch-compiled":
            self._model.compile(dynamic=False)
        self._captured = captured(self._eager) if mode == "torch-graph" else self._eager

    def __call__(self) -> None:
        self._captured()

    def _eager(self) -> None:
        self._optimizer.zero_grad()
        nn.functional.cross_entropy(self._model(self._x), self._targets).backward()
        self._optimizer.step()

    def gradient(self) -> list[np.ndarray]:
        return _flat(self._model)


def _flat(model: nn.Module) -> list[np.ndarray]:
    found = [
        p.grad.detach().cpu().contiguous().double().numpy().ravel() for p in model.parameters() if p.grad is not None
    ]
    return [np.concatenate(found)]


def made(batch: int, *, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, images and classes, the same in each call."""
    draws = np.random.default_rng(0)
    x = torch.from_numpy(draws.standard_normal((batch, *IMAGE), np.float32)).to(dtype)
    targets = torch.from_numpy(draws.integers(0, len(CLASSES), batch))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = line_net.build(line.of(NET), image=IMAGE, classes=len(CLASSES)).to(dtype)
    return model, x, targets


def forward_flop() -> float:
    """Of one image: multiplications and additions of convolutions and dense layers."""
    total = 0.0
    for each in line.walk(line.place(line.of(NET), image=IMAGE, classes=len(CLASSES))):
        for name, shape in line.weights(each).items():
            if name.endswith("weight") and len(shape) > 1:
                total += 2.0 * math.prod(shape) * (math.prod(each.y[1:]) if len(shape) == 4 else 1)
    return total


def wanted(batch: int) -> list[np.ndarray]:
    """The first step's gradient by NumPy in float64."""
    step = Step("numpy", *made(batch, dtype=torch.float64))
    step()
    return step.gradient()


@dataclass(frozen=True)
class Way:
    """A contestant, how its gradient is read after its first step, and of how many images that is."""

    contestant: Contestant
    gradient: Callable[[], list[np.ndarray]]
    batch: int


def steps(subject: StepSubject, asked: Field) -> Iterator[Way]:
    """All contestants of a step."""
    given = made(subject.batch)
    forget_compiled(asked)
    for backend in asked.backends:
        if asked.number_format != "fp32":
            continue
        if backend == "loops":
            if subject.op == "step":
                yield _loops(subject.batch)
        elif backend in ("numpy", "numba"):
            # Where only the batch is in question, one number of threads answers.
            counts = asked.thread_counts if backend == "numba" and subject.op == "step" else [asked.threads]
            for count in counts:
                step = Step(backend, *given)
                yield Way(Contestant(backend, step, count), step.gradient, subject.batch)
        elif backend == "triton":
            if (why := without_triton()) is not None:
                yield Way(Contestant(backend, None, device="cuda", reason=why), list, subject.batch)
                continue
            step = Step(backend, *given)
            yield Way(Contestant(backend, step, device="cuda"), step.gradient, subject.batch)
        else:
            yield from _torch(subject, given, backend, asked)


def _torch(subject: StepSubject, given: Any, backend: str, asked: Field) -> Iterator[Way]:
    if not asked.has_gpu and backend != "torch-compiled":
        yield Way(Contestant(backend, None, device="cuda", reason="torch sees no GPU"), list, subject.batch)
    for device in ["cpu"] * (backend != "torch-graph") + ["cuda"] * asked.has_gpu:
        for layout in LAYOUTS:
            found = TorchStep(*given, device=device, layout=layout, mode=backend)
            threads = asked.threads if device == "cpu" else None
            yield Way(Contestant(backend, found, threads, device, layout), found.gradient, subject.batch)


def _loops(batch: int) -> Way:
    """Loops take the same time for every image, and one for the update: steps on one image and on two tell both."""
    one, two = (Step("loops", *made(count)) for count in (1, 2))

    def timed() -> float:
        of_one, of_two = (clock.seconds(step, repeats=1, device="cpu") for step in (one, two))
        return of_one + (batch - 1) * max(of_two - of_one, 0.0)

    return Way(Contestant("loops", two, 1, timed=timed), two.gradient, 2)


def epochs(asked: Field, *, rounds: int) -> Iterator[tuple[Contestant, list[float], float | None]]:
    """Contestants with the seconds of a steady epoch of `digits` by round, and how far their losses are off NumPy's."""
    kinds = [name for name in asked.backends if name in ("loops", "numpy", "numba", "triton", "torch")]
    first: list[float] | None = None
    for backend in sorted(kinds, key=lambda name: name != "numpy"):
        why = without_triton() if backend == "triton" else None
        if backend == "loops":
            why = "an epoch of loops takes hours; a step of them is above"
        device = "cuda" if backend == "triton" else "cpu"
        if why is not None:
            yield Contestant(backend, None, device=device, reason=why), [], None
            continue
        for count in asked.thread_counts if backend == "numba" else [asked.threads]:
            seconds, losses = [], [0.0]
            try:
                for _ in range(rounds):
                    with clock.threads(count, backend=backend):
                        found_s, losses = _epoch(backend, device, count)
                    seconds.append(found_s)
            except Exception as error:  # of any kind: a row with its words, and what was measured before is kept
                yield Contestant(backend, None, count, device, reason=contestants.reason_of(error)), [], None
                continue
            first = losses if backend == "numpy" else first
            off = None if first is None else float(np.max(np.abs(np.divide(losses, first) - 1)))  # NaN stays NaN
            yield Contestant(backend, lambda: None, count, device), seconds, off


def _epoch(backend: str, device: str, threads: int) -> tuple[float, list[float]]:
    """Seconds of a steady epoch, and every epoch's loss, of a run of its own."""
    from fanlight.scratch import train

    asked = {
        "data.path": "digits", "train.epochs": EPOCHS, "train.seed": 0, "augment.off": True, "execution.threads": threads,
        "execution.device": device, "execution.report": False,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place, console.quiet(also_warnings=True):
        config = train.of(configuration.Config().with_values(asked), net=NET, backend=backend)
        out = Path(place) / "run"
        summary = train.train(config, out=out, resume=None, command="", entered=0.0, report=lambda run: run)
        records = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in records if row["kind"] == "train"]
    images = summary["steps"] / summary["epochs"] * summary["batch_size"]
    return images / summary["images_per_s"], losses
