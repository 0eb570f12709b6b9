"""One training step of a network from scratch beside PyTorch's, float32: forward, loss, backward, SGD with momentum.

The reference project's network at batch 128 on 28×28 images of one channel, unless told otherwise. All contestants start from
the same weights and see the same rows; loss and gradient of the first step are compared before a clock runs. Then rounds: each
contestant in turn takes two unmeasured steps, so that the threads of the one before are asleep and its own arrays are near, and
`--steps` measured ones. Ratios draw whole rounds, so what slowed all cancels. Freed memory is kept for the next allocation
(fanlight.machine.keep_freed_memory), for all alike. The loops take minutes: once, with `--loops`.

    python benchmarks/scratch_step.py --n 15
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fanlight import config as configuration
from fanlight import console, machine
from fanlight.models import line, line_net
from fanlight.parallel import comm
from fanlight.scratch.cpu import threads
from fanlight.scratch.step import Mover, ScratchStep
from fanlight.tasks.classify import Classify
from fanlight.train.clock import StepClock
from fanlight.train.step import WholeStep
from fanlight.types import Batch, Position, Rows
from hardware import heading, median_interval, ratio_interval

GRADIENT_MOST = 1e-4  # ‖g − torch's‖ / ‖torch's‖ of the whole gradient in float32
CLASSES = tuple("0123456789")
ASKED = configuration.Optim(name="sgd", lr=0.01, momentum=0.9, weight_decay=0.0)
CPU = torch.device("cpu")


class Given:
    """What a step asks of the project's Sight, with images that are ready."""

    keys = None
    task = Classify(CLASSES)
    device = CPU

    def __init__(self, images: torch.Tensor, targets: torch.Tensor):
        self._images, self._targets = images, targets

    def images(self, rows: Rows) -> torch.Tensor:
        return self._images

    def ready(self, rows: Rows, *, epoch: int) -> None:
        """No dropout."""

    def loss(self, outputs: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self.task.loss_sum(outputs, self._targets)
        sums = (loss.detach(), self.task.hits(outputs, self._targets), torch.tensor(len(self._targets)))
        return loss, torch.stack([each.double() for each in sums])


@dataclass
class Contestant:
    step: Any
    optimizer: torch.optim.Optimizer

    def run(self, batch: Batch) -> float:
        clock = StepClock(CPU)
        clock.begin()
        self.optimizer.zero_grad()
        loss = self.step(batch, loss_scale=1.0, clock=clock)[0].item()
        self.optimizer.step()
        return loss

    def gradient(self) -> np.ndarray:
        return np.concatenate([p.grad.contiguous().numpy().ravel() for p in self.step.parts[0].parameters()])


def contestants(text: line.Line, x: torch.Tensor, targets: torch.Tensor, *, names: list[str]) -> dict[str, Contestant]:
    image = tuple(x.shape[1:])
    torch.manual_seed(0)
    model = line_net.build(text, image=image, classes=len(CLASSES))
    found = {}
    for name in names:
        own = copy.deepcopy(model)
        if name.startswith("torch"):
            last = torch.channels_last if "last" in name else torch.contiguous_format
            own = own.to(memory_format=last)
            if "compiled" in name:
                own.compile()
            sight: Any = Given(x.contiguous(memory_format=last), targets)
            step: Any = WholeStep(own, sight, number_format="fp32")
            optimizer: Any = torch.optim.SGD(
                own.parameters(), lr=ASKED.lr or 0.0, momentum=ASKED.momentum, nesterov=True, fused=True
            )
        else:
            sight = Given(x, targets)
            placed = line.place(text, image=image, classes=len(CLASSES))
            step = ScratchStep(own, placed, sight, comm.alone(), backend=name)
            groups = [{"params": list(own.parameters()), "weight_decay": 0.0}]
            optimizer = Mover(groups, ASKED, backend=name, arrays=step.arrays)
        found[name] = Contestant(step, optimizer)
    return found


def check(found: dict[str, Contestant], batch: Batch) -> dict[str, float]:
    """Errors of the first step's gradient; more than GRADIENT_MOST ends the benchmark."""
    losses = {name: each.run(batch) for name, each in found.items()}
    wanted, errors = found["torch"].gradient().astype(np.float64), {}
    for name, each in found.items():
        own = each.gradient()
        errors[name] = float(np.linalg.norm(own - wanted) / np.linalg.norm(wanted))
        if not errors[name] <= GRADIENT_MOST or abs(losses[name] / losses["torch"] - 1) > 1e-5:
            raise SystemExit(
                f"{name}: loss {losses[name]:.6f} beside {losses['torch']:.6f}, gradient {errors[name]:.1e} off; at most "
                f"{GRADIENT_MOST:.0e} is right"
            )
    return errors


def measure(found: dict[str, Contestant], batch: Batch, *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of one step, by round."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for _ in range(2):
                found[name].run(batch)
            begin = time.perf_counter()
            for _ in range(steps):
                found[name].run(batch)
            seconds[name].append((time.perf_counter() - begin) / steps)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=15, help="rounds")
    parser.add_argument("--steps", type=int, default=10, help="measured in each round")
    parser.add_argument("--net", default="reference", help="a line, or a name")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image", default="1,28,28", help="channels, height, width")
    parser.add_argument("--threads", type=int, default=machine.cores_usable())
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    parser.add_argument("--loops", action="store_true", help="one step of the loops too")
    a = parser.parse_args()
    machine.keep_freed_memory()
    torch.set_num_threads(a.threads)
    threads.set_threads(a.threads)
    draws = np.random.default_rng(0)
    shape = tuple(int(word) for word in a.image.split(","))
    x = torch.from_numpy(draws.standard_normal((a.batch, *shape), np.float32))
    targets = torch.from_numpy(draws.integers(0, len(CLASSES), a.batch))
    batch = Batch(Position(0, 0), (Rows(np.arange(a.batch), x, targets),), float(a.batch), 0.0)
    text = line.of(a.net)
    names = ["numpy", "numba", "torch", "torch, channels last", *["torch, compiled"] * a.compiled]
    found = contestants(text, x, targets, names=names)
    errors = check(found, batch)
    print(heading(f"A training step, {a.threads} threads"))
    print(
        f"`{text}`, {line.parameters(line.place(text, image=shape, classes=len(CLASSES))):,} parameters, batch {a.batch} of "
        f"{'×'.join(map(str, shape))}; n = {a.n} rounds of {a.steps} steps, contestants in turns; medians and their 95 % "
        f"bootstrap intervals. Load before: {os.getloadavg()[0]:.1f}.\n"
    )
    seconds = measure(found, batch, rounds=a.n, steps=a.steps)
    print(
        "| | ms | 95 % | images/s | numba is faster by | 95 % | gradient's error | arrays |\n|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name, values in seconds.items():
        middle, low, high = (1e3 * value for value in median_interval(values))
        ratio, *ends = ratio_interval(values, seconds["numba"])
        step = found[name].step
        kept = console.bytes_text(step.memory.bytes) if isinstance(step, ScratchStep) else "–"
        print(
            f"| {name} | {middle:.2f} | {low:.2f} … {high:.2f} | {1e3 * a.batch / middle:,.0f} | {ratio:.2f} | "
            f"{ends[0]:.2f} … {ends[1]:.2f} | {errors[name]:.0e} | {kept} |"
        )
    if a.loops:
        loops = contestants(text, x, targets, names=["loops"])["loops"]
        begin = time.perf_counter()
        loops.run(batch)
        print(f"\nLoops: {time.perf_counter() - begin:.0f} s, n = 1.")


if __name__ == "__main__":
    main()
