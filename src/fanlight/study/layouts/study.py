"""`fanlight study DATA`: begins or continues a study, and tells its result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fanlight import config as configuration
from fanlight import console, machine
from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.study import stopping
from fanlight.study.layouts import (
    costs,
    estimate,
    folder,
    grid,
    network,
    recipe,
    result,
    room,
    sessions,
    simulated,
    table,
)
from fanlight.study.layouts.grid import Point
from fanlight.study.layouts.recipe import Basis
from fanlight.study.layouts.runner import Runner
from fanlight.train import devices, precision
from fanlight.train import folder as run_folders

BLOCK_S, REPEATS = 1.0, 1  # of a probe: seconds of a block, and how often every kind has its turn in a round
SEEDS_LEAST = 3  # of --to-accuracy


@dataclass(frozen=True)
class Asked:
    """What is studied. Empty or None: as grid.py and intervals.py choose."""

    layouts: Sequence[str] = ()
    ranks: Sequence[int] = ()
    precisions: Sequence[str] = ()
    rounds: int | None = None
    weak: bool = False
    to_accuracy: float | None = None
    within: bool = False  # more ranks than cores are rows that say so
    price: float | None = None  # of this machine per hour; beside a study that goes on, in place of its own
    drops_slow_bf16: bool = False  # also where `precisions` name it: a row says so


def study(
    config: Config, asked: Asked, *, out: Path | None, resume: Path | None, time_limit_s: float | None, command: str
) -> dict[str, Any]:  # fmt: skip
    """The object of `--json`, after its folder is written. ConfigError and DataError for what cannot be studied; a point that
    fails is a row with its reason."""
    begun = time.monotonic()
    costs.check_price(asked.price)
    with contextlib.ExitStack() as held:
        if resume is not None:
            place, plan, about = _continued(config, resume, command=command)
            rounds = asked.rounds or plan["rounds"]
            held.enter_context(run_folders.locked(place))
        else:
            place, plan, about = _begun(config, asked, out=out, command=command, held=held)
            rounds = plan["rounds"]
        held.enter_context(stopping.saying(place))
        points = folder.points(plan)
        probing = {"block_s": plan["block_s"], "repeats": plan["repeats"]}
        if asked.price is not None:
            plan["price"] = asked.price
        guess = estimate.seconds(points, about, **probing)
        console.say(estimate.words(points, guess, rounds=rounds, limit_s=time_limit_s))
        folder.write(place / folder.PLAN, plan)  # with this start and its price
        runner = Runner(
            place, about, points, **probing, begun=begun, time_limit_s=time_limit_s,
            guess_s={name: sum(each) for name, each in guess.items()},
            finished=lambda number: result.write(place, ended=f"it was stopped after {console.count_text(number, 'round')}"),
        )  # fmt: skip
        runner.mend()
        with runner.open():
            ended = runner.rounds(rounds)
        document = result.write(place, ended=ended)
    for line in [*table.lines(document), *costs.words(document)]:
        console.say(line)
    console.say()
    console.say(document["verdict"])
    console.say(simulated.words(document["simulated"]))
    console.say(f"Study: {place}  Report: {_report(place)}")
    return document


def _report(place: Path) -> str:
    """Where the report is, or why there is none: figures that were measured for hours are not lost for a page."""
    from fanlight.study.layouts import page

    try:
        return str(page.write(place))
    except OSError as error:
        return f"cannot be written ({error.strerror or error}); once that is mended: fanlight report {place}"


def _begun(
    config: Config, asked: Asked, *, out: Path | None, command: str, held: contextlib.ExitStack
) -> tuple[Path, dict[str, Any], Basis]:  # fmt: skip
    """A new folder with everything decided, locked until `held` ends."""
    folder.check_free(out)
    target = asked.to_accuracy
    if target is not None and not 0 < target < 1:
        raise ConfigError(f"--to-accuracy is {target}; it is a share of right answers, such as 0.9")
    rounds = asked.rounds
    if target is not None:
        rounds = rounds or SEEDS_LEAST
        if rounds < SEEDS_LEAST:
            raise ConfigError(
                f"--seeds {rounds} with --to-accuracy: a time from fewer than {SEEDS_LEAST} seeds is chance; use more"
            )
    device = config.execution.device
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"--device {device}: use cpu or cuda, or leave it out for both")
    gpus = devices.gpus_visible()
    points = grid.points(
        cores=machine.cores_usable(), gpus=gpus, names=asked.layouts, ranks=asked.ranks, precisions=asked.precisions,
        device=device, threads=config.execution.threads, within=asked.within,
    )  # fmt: skip
    if (asked.drops_slow_bf16 or not asked.precisions) and device != "cuda":
        points = _without_slow_bf16(points)
    most = max((point.cores for point in points if not point.reason), default=1)
    about = recipe.basis(config, command=command, weak=asked.weak, to_accuracy=target, cores_most=most)
    points = room.checked(points, about)
    place = folder.create(config.data.path, out=out)
    held.enter_context(run_folders.locked(place))
    folder.check_free(place)  # who began there meanwhile keeps it
    configuration.write(place / "basis.yaml", about.config)
    about.manifest.save(place / "manifest.parquet")
    start = sessions.now(command=command, gpus=gpus)
    plan = {
        "version": folder.VERSION, "points": [point.document() for point in points], "data": config.data.path,
        "asked": sorted(about.asked), "rounds": rounds, "scaling": "weak" if asked.weak else "strong", "target": target,
        "block_s": BLOCK_S, "repeats": REPEATS, "equal": _equal(about.config), "images": len(about.manifest.rows()),
        "network": network.counted(about), **start, "sessions": [start],
    }  # fmt: skip
    folder.write(place / folder.PLAN, plan)
    return place, plan, about


def _without_slow_bf16(points: Sequence[Point]) -> list[Point]:
    """Nobody trains in bf16 on processors without its instructions: where it was left open, its points would take most of
    the time to say what one convolution says."""
    gain = precision.cpu_gain()
    if gain >= 1:
        return list(points)
    why = f"bf16 is slower than fp32 on this CPU ({precision.gain_words(gain)}); --precisions fp32,bf16 runs it all the same"
    return [
        replace(p, reason=p.reason or why) if (p.device, p.precision) == ("cpu", "bf16") else p for p in points
    ]  # fmt: skip


def _continued(config: Config, resume: Path, *, command: str) -> tuple[Path, dict[str, Any], Basis]:
    """The study in folder `resume`, as it was begun, with this start. ConfigError on another machine or with another torch."""
    plan = folder.read_plan(resume)
    if config.data.path and not run_folders.same_data(config.data.path, plan["data"]):
        raise ConfigError(f"--resume {resume} is a study of {plan['data']}, not of {config.data.path}")
    start = sessions.now(command=command, gpus=devices.gpus_visible())
    sessions.check(plan, start, study=resume)
    plan["sessions"] = [*sessions.of(plan), start]
    shared, manifest = _shared(resume), run_folders.read_manifest(resume)
    # Else every point would fail, and be written down as one that cannot run.
    run_folders.check_unchanged(resume, manifest)
    weak = plan["scaling"] == "weak"
    return resume, plan, Basis(plan["data"], shared, frozenset(plan["asked"]), manifest, plan["command"], weak)


def _shared(study: Path) -> Config:
    """The config that all points have in common. ConfigError where it cannot be read."""
    try:
        return configuration.read(study / "basis.yaml")
    except ConfigError as error:
        raise ConfigError(f"{error}; put the file back, or begin another study with --out") from None


def _equal(config: Config) -> dict[str, Any]:
    """What every point has in common, in the words of the config."""
    names = (
        "model.name", "data.image_px", "train.epochs", "train.batch_size", "optim.name", "optim.lr", "optim.schedule",
        "augment.crop_share", "augment.flip", "execution.channels_last",
    )  # fmt: skip
    return {name: getattr(getattr(config, name.split(".")[0]), name.split(".")[1]) for name in names}
