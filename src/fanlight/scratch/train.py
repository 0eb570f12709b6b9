"""Trains a network of one line with operators from scratch, in a run folder like any other: what differs from
`fanlight train` is who computes the steps. A run may be continued with another backend."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fanlight import console, machine
from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.models import line
from fanlight.parallel.comm import World
from fanlight.scratch import backends
from fanlight.scratch.step import Mover, ScratchStep
from fanlight.train import finish, folder, job, state
from fanlight.train.optim import MOMENTS
from fanlight.train.step import Normalise, Sight
from fanlight.train.training import Training

KEYS = ("backend", "parameters", "planned_bytes")  # of run.json, beside those of any run
FIXED = {  # what a run from scratch does where nothing else is asked
    "train.precision": "fp32", "optim.label_smoothing": 0.0, "execution.autotune": False, "execution.compile": False,
    "execution.bucket_mb": 25.0,  # unused: all gradients are one flat array
}  # fmt: skip
DOES_NOT = {  # config key → whether a value asks for it, and what to do
    "train.precision": (lambda value: value not in (None, "fp32"), "operators take float32; use --precision fp32"),
    "train.compress_gradients": (lambda value: value is not None, "leave it out"),
    "optim.label_smoothing": (bool, "the loss is plain cross-entropy; use 0"),
    "data.image_px_start": (lambda value: value is not None, "arrays are made once, of one size; leave it out"),
    "augment.mixup": (bool, "the loss is of one class per image; leave it out"),
    "augment.cutmix": (bool, "the loss is of one class per image; leave it out"),
    "model.freeze": (bool, "every layer trains; leave it out"),
    "model.freeze_epochs": (bool, "every layer trains; leave it out"),
    "model.pretrained": (bool, "a line has no published weights; leave it out"),
    "execution.compile": (bool, "the backend is what compiles; leave it out"),
    "execution.recompute": (bool, "leave it out"),
    "execution.cache_features": (bool, "leave it out"),
    "execution.layout": (lambda value: value not in (None, "serial", "ddp"), "use serial, or --ranks N for ddp"),
}


class ScratchTraining(Training):
    """What one rank trains with, its steps and its optimizer by the operators of `execution.backend`."""

    def __post_init__(self) -> None:
        check(self.config)
        self._check_room()
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = tensor.data.contiguous()  # operators take NCHW, whatever format the config has
        if self._backend in backends.ON_CPU:
            # It only prepares rows: more of its threads would wait on the cores that operators use.
            torch.set_num_threads(1)
        super().__post_init__()

    def enter(self, epoch: int) -> None:
        super().enter(epoch)
        if not isinstance(self.optimizer.torch, Mover):
            assert isinstance(self.step, ScratchStep)
            groups = self.optimizer.torch.param_groups
            self.optimizer.torch = Mover(groups, self.config.optim, backend=self._backend, arrays=self.step.arrays)

    def _check_room(self) -> None:
        """ConfigError where memory cannot hold what training keeps beside the weights; images and results come on top."""
        count, optimizer = sum(p.numel() for p in self.model.parameters()), self.config.optim.name
        needed, free = 4 * count * (1 + MOMENTS[optimizer]), machine.memory_available()
        if self.world.device.type == "cpu" and needed > free:
            raise ConfigError(
                f"model.name is '{self.config.model.name}': gradients and {optimizer}'s state of its {count:,} weights take "
                f"{console.bytes_text(needed)}, and this machine has {console.bytes_text(free)} free; give a smaller --net"
            )

    @property
    def _backend(self) -> str:
        assert self.config.execution.backend is not None
        return self.config.execution.backend

    def _normalise(self) -> Normalise:
        a = self.config.augment
        return Normalise(a.mean, a.std, like=next(self.model.parameters()), channels_last=False)

    def _step_of(self, computed: torch.nn.Module, sight: Sight, *, whole: Any = None) -> Any:
        name, px = self.config.model.name or "", self.cutting.image_px
        placed = line.place(line.parse(name), image=(3, px, px), classes=len(self.task.classes))
        self.held = {}
        return ScratchStep(
            computed, placed, sight, self.world, backend=self._backend,
            class_weights=getattr(self.task, "class_weights", None),
        )  # fmt: skip


def check(config: Config) -> None:
    """ConfigError where a config asks for what operators from scratch do not do. Those of torch do everything."""
    if config.execution.backend == "torch":
        return
    name = config.model.name
    if name is not None and not line.is_text(name):
        raise ConfigError(
            f"model.name is {name}, and --backend {config.execution.backend} computes networks of one line of text, such as "
            f"'{line.NAMED['reference']}'; leave execution.backend out, or give a line"
        )
    for key, (is_asked, way) in DOES_NOT.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if is_asked(value):
            raise ConfigError(f"{key} is {value}, and --backend {config.execution.backend} does not do that: {way}")


def rank_main(world: World, *, run: str, entered: float, wall_before_s: float = 0.0) -> dict[str, Any] | None:
    """As train.job.rank_main, its steps by the run's backend."""
    path = Path(run)
    config = folder.read_config(path)
    backend = config.execution.backend or "torch"
    _check_place(config, path)
    made: list[Training] = []

    def keep(*parts: Any) -> Training:
        made.append((Training if backend == "torch" else ScratchTraining)(*parts))
        return made[-1]

    if backend == "numba" and world.is_first and not backends.is_compiled():
        console.say("  Numba compiles its operators, half a minute once; later runs find them in Fanlight's cache")
    # Numbers that overflow are seen by the trainer in the loss, which names the step; NumPy would tell of every array.
    with backends.threads(backend, config.execution.threads or 1), np.errstate(all="ignore"):
        summary = job.rank_main(world, run=run, entered=entered, wall_before_s=wall_before_s, kind=keep)
    parameters = sum(p.numel() for p in made[-1].model.parameters())
    step: Any = made[-1].step
    planned = None
    if isinstance(step, ScratchStep):
        planned = int(world.sum_host(np.array([step.memory.bytes]))[0])
    if summary is None:
        return None
    if planned is not None:
        over = f" over {world.ranks} ranks" if world.ranks > 1 else ""
        console.say(
            f"Backend {backend}: {console.bytes_text(planned)} of arrays{over}, made once and used at every step"
        )
    return folder.update_summary(path, backend=backend, parameters=parameters, planned_bytes=planned)


def _check_place(config: Config, run: Path) -> None:
    """ConfigError for a backend that there is not, or not on this machine or device."""
    backend, device = config.execution.backend or "torch", config.execution.device
    why = backends.without_gpu() if backend == "triton" else None
    if why is None:
        with console.quiet(also_warnings=True):
            if backends.chosen(backend, device=device)[0] == backend:
                return
        why = f"execution.device is {device}"
    other = backends.INSTEAD
    if state.whole(run / "checkpoints"):
        way = f"continue with another: fanlight scratch train --resume {shlex.quote(str(run))} --backend {other} --device cpu"
    else:
        way = f"use another, such as --set execution.backend={other}"
    raise ConfigError(f"execution.backend is {backend}, which computes on GPUs. {why}; {way}")


def train(
    config: Config, *, out: Path | None, resume: str | None, command: str, entered: float,
    report: Callable[[Path], Path],
) -> dict[str, Any]:  # fmt: skip
    """As finish.train, of a config that `of` has made; the JSON object of `scratch train --json`."""
    document = finish.train(
        config, out=out, resume=resume, command=command, entered=entered, dry_run=False, report=report
    )
    if not document:  # a rank that is not the first, under a launcher
        return {}
    run = Path(document["run"])
    summary = folder.read_summary(run)
    return {**document, "net": summary["model"], **{key: summary[key] for key in KEYS}}


def of(config: Config, *, net: str, backend: str) -> Config:
    """`config` for a run of `net`, a line or a name, on `backend`: what cannot run is replaced, and said, or refused."""
    text = line.of(net)
    given = {key: value for key, value in FIXED.items() if key not in config.asked}
    return on(config.with_values({**given, "model.name": text.text}), backend=backend)


def resumed(config: Config, *, run: str, backend: str | None) -> Config:
    """`config`, what is asked anew, for a run that goes on, with another backend where one is given."""
    if backend is not None:  # what the run itself asks for is looked at when it goes on
        return _placed(config, backend)
    path = Path(run)
    if (path / "resolved.yaml").exists() and folder.read_config(path).execution.backend is None:
        raise ConfigError(
            f"--resume {run} was trained by `fanlight train`; continue it with: fanlight train --resume {shlex.quote(run)}, or "
            "give a --backend to continue with"
        )
    return config


def on(config: Config, *, backend: str) -> Config:
    """`config` on a backend and its device; ConfigError where it asks for what that does not do."""
    config = _placed(config, backend)
    check(config)
    return config


def _placed(config: Config, backend: str) -> Config:
    backend, device = backends.chosen(backend, device=config.execution.device)
    config = config.with_value("execution.backend", backend)
    return config if device is None else config.with_value("execution.device", device)
