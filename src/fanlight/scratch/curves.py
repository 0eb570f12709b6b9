"""`fanlight scratch curves`: the losses of every backend from one start, step after step on the same rows; to a folder:

curves.json   the result, as `--json` prints it        curves.md, curves.svg   its table and figure (study.scratch_curves)

All are compared with NumPy in float64. The network is tiny, since loops and interpreted kernels take thousands of times as long.
Without a GPU, Triton's kernels are interpreted, in a process of their own. N images of a batch, K classes.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight import config as configuration
from fanlight import console, machine
from fanlight.errors import ConfigError, near, unwritable
from fanlight.models import line, line_net
from fanlight.parallel import comm
from fanlight.scratch import backends, operators
from fanlight.scratch.step import Mover, ScratchStep
from fanlight.tasks.classify import Classify
from fanlight.train import folder
from fanlight.train.clock import StepClock
from fanlight.types import Batch, Position, Rows

RESULT, VERSION = "curves.json", 1
NET = "conv4k3 bn relu pool2 dense16 tanh dense"
IMAGE, CLASSES = (1, 8, 8), tuple("0123456789")
STEPS, BATCH = 50, 16
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-3
ASKED = configuration.Optim(name="sgd", lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
TOLERANCE = 1e-4  # of a loss, relatively; 4e-7 at worst over fifty steps: in float32 sums run in other orders
ALONE_S = 1800  # that the interpreter may take
Doc = dict[str, Any]


def curves(names: Sequence[str], *, net: str = NET, steps: int = STEPS, out: Path | None, command: str) -> Doc:
    """Trains with each backend, writes curves.json and returns it. ConfigError for what cannot be asked."""
    for name in names:
        if name not in backends.NAMES:
            known = ", ".join(backends.NAMES)
            raise ConfigError(f"--backends {name!r} does not exist; use some of {known}.{near(name, backends.NAMES)}")
    if not 1 <= steps <= 10_000:
        raise ConfigError(f"--steps {steps} should be a whole number from 1 to 10,000")
    text = str(line.of(net))
    line.place(line.parse(text), image=IMAGE, classes=len(CLASSES))
    if "dropout" in text:
        raise ConfigError(f"--net '{text}' drops numbers at random, whose keys a trainer gives; leave dropout out here")
    try:
        folder.check_out(out)
    except ConfigError:  # its words are of runs, which may be continued
        raise ConfigError(f"--out {out} is there already, or cannot be looked into; name a new folder") from None
    exact = losses("numpy", net=text, steps=steps, dtype=torch.float64)
    _check_exact(exact, net=text)
    place = folder.create("digits", "curves", out=out)
    rows = [_row(name, exact, net=text, steps=steps) for name in names or backends.NAMES]
    document: Doc = {
        "version": VERSION, "curves": str(place), "command": command, "machine": machine.describe(), "net": text, "steps": steps,
        "batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "tolerance": TOLERANCE, "exact": exact, "rows": rows,
        "started": datetime.now(UTC).isoformat(timespec="seconds"), "passed": all(row["passed"] is not False for row in rows),
    }  # fmt: skip
    path = place / RESULT
    try:
        path.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise unwritable(error, str(path), otherwise="name another folder by --out") from None
    return document


def _check_exact(exact: Sequence[float], *, net: str) -> None:
    """ConfigError where nothing can be compared with a loss, as a network without norms may give: no number, or 0."""
    for step, loss in enumerate(exact):
        if not (np.isfinite(loss) and loss > 0):
            way = f"use --steps {step} or fewer, or " if step else ""
            raise ConfigError(
                f"--net '{net}' has a loss of {loss:g} at step {step}, in float64 too, with which no other can be compared; "
                f"{way}give another --net, such as one with bn"
            )


def _row(name: str, exact: list[float], *, net: str, steps: int) -> Doc:
    """Of a backend; one that cannot run here has its reason."""
    row: Doc = {"backend": name, "losses": [], "error": None, "passed": None, "reason": None}
    try:
        if name == "triton" and operators.without_triton() is not None:
            row["backend"] = "triton, interpreted"
            found = _interpreted(net=net, steps=steps)
        else:
            found = losses(name, net=net, steps=steps)
    except Exception as error:  # a library's own refusal, of any kind: a row with its words, and the others go on
        row["reason"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
        row["passed"] = None if isinstance(error, ImportError) else False
        console.say(f"  {row['backend']}: {row['reason']}")
        return row
    if not np.isfinite(found).all():
        return row | {"passed": False, "reason": f"the loss of step {int(np.argmin(np.isfinite(found)))} is no number"}
    off = distances(found, exact)
    row |= {"losses": found, "error": max(off), "passed": max(off) <= TOLERANCE}
    console.say(f"  {row['backend']}: {found[0]:.4f} … {found[-1]:.4f}, at most {row['error']:.1e} off")
    return row


def distances(found: Sequence[float], exact: Sequence[float]) -> list[float]:
    """|loss − exact| / |exact| of each step."""
    return [abs(one - other) / abs(other) for one, other in zip(found, exact, strict=True)]


def losses(backend: str, *, net: str, steps: int, dtype: torch.dtype = torch.float32) -> list[float]:
    """The mean loss of each step in this process."""
    draws = [rows(number, dtype=dtype) for number in range(steps)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = line_net.build(line.parse(net), image=IMAGE, classes=len(CLASSES)).to(dtype)
    return _of_torch(model, draws) if backend == "torch" else _of_table(backend, model, net, draws)


def rows(number: int, *, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 1, 8, 8] and classes [N] of step `number`: scikit-learn's digits in their own order, again and again."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    taken = np.arange(number * BATCH, (number + 1) * BATCH) % len(digits.target)
    images = torch.from_numpy(digits.images[taken, None] / 8 - 1)
    return images.to(dtype), torch.from_numpy(digits.target[taken]).long()


class _Ready:
    """What a step asks of the project's Sight, where images are ready."""

    keys = None
    task = Classify(CLASSES)

    def images(self, rows: Rows) -> torch.Tensor:
        assert rows.images is not None
        return rows.images

    def ready(self, rows: Rows, *, epoch: int) -> None:
        """No dropout."""


def _of_table(
    backend: str, model: nn.Module, net: str, draws: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[float]:
    device = torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")
    model = copy.deepcopy(model).to(device)
    placed = line.place(line.parse(net), image=IMAGE, classes=len(CLASSES))
    step = ScratchStep(model, placed, _Ready(), comm.alone(str(device)), backend=backend)  # type: ignore[arg-type]
    groups = [{"params": list(model.parameters()), "weight_decay": DECAY}]
    optimizer, found = Mover(groups, ASKED, backend=backend, arrays=step.arrays), []
    for number, (x, targets) in enumerate(draws):
        clock = StepClock(device)
        clock.begin()
        part = Rows(np.arange(len(x)), x.to(device), targets)
        sums = step(Batch(Position(number, 0), (part,), float(len(x)), 0.0), loss_scale=1.0, clock=clock)
        optimizer.step()
        found.append(sums[0].item() / len(x))
    return found


def _of_torch(model: nn.Module, draws: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    found = []
    for x, targets in draws:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), targets)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def _interpreted(*, net: str, steps: int) -> list[float]:
    """Triton's kernels line by line on a CPU: a process decides at its start whether it compiles them."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fanlight.scratch.curves", json.dumps({"net": net, "steps": steps})], capture_output=True,
        text=True, timeout=ALONE_S, env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        kind = ImportError if "ModuleNotFoundError: No module named 'triton'" in done.stderr else RuntimeError
        raise kind(f"the interpreter's process ended with exit code {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(losses("triton", **json.loads(sys.argv[1]))))
