"""A plan from the command to its document: read the data, know the machines, predict, choose, confirm, tell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from fanlight import console, machine
from fanlight.config import Config
from fanlight.data import split
from fanlight.data.checkup import up_to_date
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, FanlightError
from fanlight.models import freeze, recompute, zoo
from fanlight.parallel import layout as layouts
from fanlight.plan import batches, choice, choose, counting, dividing, lock, measure, trace, trial, wording
from fanlight.plan import cluster as clusters
from fanlight.plan.blocks import Block
from fanlight.plan.calibration import Calibration
from fanlight.plan.choose import Candidate, Question
from fanlight.plan.cluster import Cluster
from fanlight.plan.pools import Pools
from fanlight.train import autotune, checks, devices, layouting, precision, resolve

PLAIN: dict[str, object] = {
    "execution.layout": "serial", "execution.ranks": 1, "execution.autotune": False, "execution.compile": False,
    "execution.cache_features": False, "execution.pack": False, **layouting.PLAIN,
}  # fmt: skip
MOST_S = 120.0  # that a plan takes, measuring, and starting and trying the best
TRIAL_S, TRIAL_LEAST_S = 60.0, 20.0  # of it for trying: at most, and where measuring took nearly all
UNSEEN = ("execution.autotune", "execution.pack")  # of PLAIN: not left out, but of no use, or said elsewhere


@dataclass(frozen=True)
class Wanted:
    """What the command was asked beside a config."""

    cluster: str | None = None
    ranks: tuple[int, ...] = ()
    trace: Path | None = None
    anew: bool = False
    confirm: bool = True
    only: bool = False  # those ranks, and not one rank beside them


def plan(config: Config, wanted: Wanted, *, command: str) -> dict[str, Any]:
    """The document that `--json` promises. ConfigError for machines or a config that cannot be, and where nothing fits."""
    _warn_of_unplanned(config)
    about, found = foretold(config, wanted)
    found = [replace(each, reason=wording.of_plan(each.reason)) for each in found]
    best, reason = choice.choose(found, precision_is_open=config.train.precision is None, about=about)
    _say(found, best, reason, about.cluster)
    if wanted.trace is not None:
        title = f"{best.layout} on {best.ranks} rank(s) of {about.cluster.name}, simulated"
        trace.write(wanted.trace, choose.timeline_of(about, best), title=title)
        console.say(f"Trace: {wanted.trace} (chrome://tracing or ui.perfetto.dev)")
    return {
        "machine": _machine(about.cluster, about.calibration), "candidates": [each.document() for each in found],
        "chosen": {**best.document(), "reason": reason}, "command": command,
    }  # fmt: skip


def foretold(config: Config, wanted: Wanted) -> tuple[Question, list[Candidate]]:
    """Every way to train it on the machines that are wanted, the best of them tried where they are here."""
    asked = config.with_values(layouting.PLAIN)
    asked_precision = config.train.precision
    if config.execution.pack is False:
        console.warn(
            "decoding is in no rate here", why="Without a pack every image is decoded in every epoch, and a plan only crops",
            do="Leave --no-pack out (execution.pack), or look at the run's input wait",
        )  # fmt: skip
    other = clusters.read(wanted.cluster) if wanted.cluster is not None else None
    if other is not None:
        clusters.check_ranks(other, wanted.ranks or (other.ranks,))
    elif wanted.ranks:
        check_places(max(wanted.ranks), device=devices.device(config.execution.device))
    if wanted.trace is not None:
        trace.check(wanted.trace)
    device = measured_on(config, other)
    if asked_precision is not None:
        _precisions(asked_precision, other, here=device)  # refused before anything is read
    config, manifest = resolved(config, device=device)
    with contextlib.ExitStack() as held:
        if other is None or other.device.speed is not None:
            held.enter_context(lock.alone())
        pools = held.enter_context(Pools(device))
        return _foretold(config, manifest, wanted, other, asked=asked, pools=pools)


def _foretold(
    config: Config, manifest: Manifest, wanted: Wanted, other: Cluster | None, *, asked: Config, pools: Pools
) -> tuple[Question, list[Candidate]]:
    """As `foretold`, of the resolved `config`; `asked`: as it was before."""
    budget = autotune.Budget(MOST_S)
    device, classes = config.execution.device or "cpu", len(manifest.classes)
    free = float(machine.memory_available())  # before ranks that measure hold, and keep, some of it
    precisions = _precisions(asked.train.precision, other, here=device)
    if other is None and wanted.confirm and device == "cpu":  # they import what they need while the network is counted
        for ranks in (1, measure.places(device)):
            pools.of(ranks, measure.threads_of(config, ranks=ranks, cores=machine.cores_usable()))
    is_short = any(each != "fp32" for each in precisions)
    counted, undivided, unrecomputed = network_of(config, classes=classes, is_short=is_short)
    if config.execution.recompute and unrecomputed:
        raise ConfigError(unrecomputed)
    images, rows, is_open = len(manifest.rows("train")), config.train.batch_size or 1, batches.is_open(asked)
    if is_open:
        config = batches.calibrated(config, counted, images=images)
    calibration = None
    if other is None or other.device.speed is not None:
        calibration = measure.calibrate(
            config, counted, classes=classes, precisions=precisions, ranks=wanted.ranks if other is None else (),
            anew=wanted.anew, pools=pools,
        )  # fmt: skip
    target = other
    if target is None:
        assert calibration is not None
        target = calibration.by_ranks[max(calibration.by_ranks)].cluster("this machine")
        if device == "cpu":
            target = replace(target, device=replace(target.device, memory_bytes=free))
    if asked.train.compress_gradients is not None:  # what is sent is smaller; what was measured sent nothing
        config = config.with_value("train.compress_gradients", asked.train.compress_gradients)
    about = Question(
        config, counted, images, target, calibration, rows=rows,
        is_weak=other is not None and asked.train.batch_size is None and not is_open, undivided=undivided, asked=asked,
        unrecomputed=unrecomputed,
    )  # fmt: skip
    found: list[Candidate] = []
    for ranks in dict.fromkeys((*(() if wanted.only else (1,)), *(wanted.ranks or (target.ranks,)))):
        predict = batches.predicted if is_open else choose.predicted
        found += choose.candidates(about, ranks=ranks, precisions=precisions, predict=predict)
    if other is None and wanted.confirm:
        trying = autotune.Budget(min(TRIAL_S, max(TRIAL_LEAST_S, budget.left_s)))
        found = trial.tried(found, about, classes=classes, most=measure.places(device), pools=pools, budget=trying)
    return about, found


def decided(config: Config) -> Config:
    """`config`, whose layout was left to a plan, with the layout, ranks and what belongs to them that are fastest here."""
    limit_s = config.train.time_limit_s
    if limit_s is not None and limit_s < MOST_S:
        raise ConfigError(
            f"--layout auto beside a --time-limit of {console.seconds_text(limit_s)}: a plan may take two minutes of it; name "
            "a layout, or allow 2m or more"
        )
    if config.execution.compile:
        console.warn(
            "layouts are compared uncompiled, and the one that is chosen is compiled",
            why="Compiling each takes longer than a plan may; compiled steps compute faster and send no less, so ranks gain less "
            "than they are told to",
            do="For a long run, try --compile with --layout serial and with --layout ddp",
        )  # fmt: skip
    if config.model.freeze and config.augment.off and config.execution.cache_features is not False:
        console.warn(
            "layouts are compared with the whole network computed at every look",
            why="A frozen network without augmentation computes each image once and keeps what it says, so steps are of its last "
            "layer alone, far quicker than they are told to be",
            do="Give --layout serial, which needs no plan and is hard to beat at this",
        )  # fmt: skip
    ranks = config.execution.ranks
    about, found = foretold(config, Wanted(ranks=() if ranks is None else (ranks,), only=ranks is not None))
    best, reason = choice.choose(found, precision_is_open=config.train.precision is None, about=about)
    batch = f", batch {best.batch}" if batches.is_open(config) else ""
    console.say(f"Layout {best.layout} on {best.ranks} rank(s) in {best.precision}{batch}: {reason}")
    values: dict[str, object] = {
        "execution.layout": best.layout,
        "execution.ranks": best.ranks,
        "train.precision": best.precision,
    }
    reasons = {"execution.layout": f"planned: {reason}; {choice.compared(best, found)}"}
    if config.execution.ranks is None:
        reasons["execution.ranks"] = "planned with the layout"
    if config.train.precision is None:
        reasons["train.precision"] = "planned with the layout"
    if (
        best.ranks > 1
        and layouts.parse(best.layout, ranks=best.ranks).pp > 1
        and "train.microbatches" not in config.asked
    ):
        values["train.microbatches"] = best.microbatches
        reasons["train.microbatches"] = f"planned: as many as layout {best.layout} is fastest with"
    if batches.is_open(config):
        values["train.batch_size"] = best.batch
        reasons["train.batch_size"] = f"planned, of simulated rates; {best.batch_reason}"
    return replace(config.with_values(values), planned=reasons)


def _warn_of_unplanned(config: Config) -> None:
    """Says which wishes a plan has no use for, rather than to leave them out in silence."""
    asked = {key: attrgetter(key)(config) for key in PLAIN if key in config.asked and key not in UNSEEN}
    left_out = [f"{key} {value}" for key, value in asked.items() if value not in (None, False, PLAIN[key])]
    if left_out:
        console.warn(
            f"{', '.join(left_out)} left out of the plan", why="Every layout is compared, in its plain form",
            do="Say with --ranks how many, and give the rest to `fanlight train`",
        )  # fmt: skip


def measured_on(config: Config, other: Cluster | None) -> str:
    """The device of this machine that is measured: the one that is planned, or of the kind of those that are."""
    if other is None:
        return devices.device(config.execution.device)
    return "cuda" if other.device.kind == "cuda" and devices.gpus_visible() else "cpu"


def check_places(ranks: int, *, device: str) -> None:
    """ConfigError for more ranks than a run here could have."""
    devices.check_ranks(ranks, device=device)
    if device == "cuda" and ranks > measure.places(device):
        raise ConfigError(
            f"--ranks asks for {ranks}, and this machine has {measure.places(device)} GPU(s), one for each rank; ask for "
            "fewer, or say with --cluster which machines have them"
        )


def resolved(config: Config, *, device: str = "cpu") -> tuple[Config, Manifest]:
    """The serial run's config on that device with every choice made, and its images; nothing is packed or decoded for it."""
    checks.check(config if config.train.precision is None else config.with_value("train.precision", "fp32"))
    asked = config.asked
    config = config.with_values(
        {**PLAIN, "train.precision": "fp32", "train.compress_gradients": None, "execution.device": device}
    )
    manifest = up_to_date(config.data.path, decode=False, group_by=config.data.group_by)
    if manifest.is_captioned:
        raise ConfigError(
            f"{config.data.path} has captions, and captioners are not planned: what a step costs depends on how long its "
            "captions are, which nothing here measures; name a --layout, and let `fanlight study` compare several"
        )
    if config.data.limit is not None:
        manifest = split.limit(manifest, config.data.limit, seed=config.train.seed)
    choices = resolve.Choices(config)
    with console.quiet(also_warnings=True):
        resolve.sizes(choices, manifest)
        resolve.order(choices, None)
        d, seed = choices.config.data, config.train.seed
        manifest = split.assign(manifest, val_fraction=d.val_fraction, seed=seed, folds=d.folds, fold=d.fold)
        resolve.whole(choices, manifest)
    return replace(choices.config, asked=asked), manifest


def network_of(config: Config, *, classes: int, is_short: bool = True) -> tuple[list[Block], Callable[[int], str], str]:
    """The network's pieces (`is_short`: as counting.count has it), why so many ranks could not divide its layers, and why its
    blocks cannot be recomputed (empty: they can)."""
    model = zoo.create(config.model.name or "", classes=classes, image_px=config.data.image_px or 0, seed=0).model
    if config.model.freeze:
        freeze.freeze(model)
    try:
        counted = counting.count(model, image_px=config.data.image_px or 0, is_short=is_short)
    except FanlightError:
        raise
    except (RuntimeError, ValueError) as error:  # a forward that looks at numbers, which there are none of here
        raise ConfigError(
            f"{config.model.name} cannot be planned: its pieces cannot be counted without computing "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}); name a --layout, and let `fanlight study` compare "
            "several"
        ) from None
    return counted, dividing.refusals(model.to("meta")), recompute.why_not(model)


def _precisions(asked: str | None, other: Cluster | None, *, here: str) -> list[str]:
    """Number formats that are planned; `here`: the device that is measured."""
    if asked is not None:
        is_told = other is not None and other.device.flop_per_s  # else they are measured, here
        precision.check(asked, other.device.kind if other is not None and is_told else here)
        if other is not None and is_told and asked not in other.device.flop_per_s:
            raise ConfigError(
                f"--precision {asked}: {other.name} does not say what it achieves in it, but in "
                f"{', '.join(sorted(other.device.flop_per_s))}; use one of these, or add {asked} to device.achieved in a file"
            )
        return [asked]
    if other is not None and other.device.flop_per_s:  # what this machine does well says nothing of those
        told = [name for name in sorted(other.device.flop_per_s) if name != "fp16" or other.device.kind == "cuda"]
        if told:
            return told
        raise ConfigError(
            f"{other.name}: device.achieved says fp16 alone, which CPUs do not train in; add fp32 or bf16 to it"
        )
    if here == "cuda":
        return ["fp32", "bf16"]
    gain = precision.cpu_gain()
    if gain < 1:  # emulated: a step of it would take most of the minute that measuring may take
        console.say(f"  bf16 is left out: {precision.gain_words(gain)}; --precision bf16 plans it all the same")
    return ["fp32", "bf16"] if gain >= 1 else ["fp32"]


def _machine(target: Cluster, calibration: Calibration | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": target.name, "nodes": target.nodes, "devices": target.devices, "kind": target.device.kind,
        "device": target.device.name, "latency_s": target.within.latency_s, "bytes_per_s": _finite(target.within.bytes_per_s),
        "between_latency_s": target.between.latency_s, "between_bytes_per_s": _finite(target.between.bytes_per_s),
        "spread": target.spread, "contention": target.contention, "steals": target.steals, "overhead_s": target.overhead_s,
        "source": "measured" if target.is_measured else target.source,
    }  # fmt: skip
    if calibration is not None:
        document |= {"fingerprint": calibration.fingerprint, "measured_s": calibration.took_s}
    return document


def _finite(value: float) -> float | None:
    return value if value < 1e29 else None


def _say(found: Sequence[Candidate], best: Candidate, reason: str, target: Cluster) -> None:
    console.say(f"{best.layout} on {best.ranks} rank(s) of {target.name}, {best.precision}: {reason}")
    line = f"  {'layout':<22}{'ranks':>6}  {'format':<7}{'batch':>7}{'images/s':>10}  {'band':<17}{'a rank':>9}  "
    console.say(line)
    others = [each for each in found if each.fits]
    for each in sorted(others, key=lambda one: (one.ranks, -one.images_per_s)):
        low, high = each.band
        mark = "*" if each == best else " "
        batch = f"batch by {each.batch_reason.partition(':')[0]}" if each.batch_reason else ""
        told = [each.source, "another algorithm" if each.is_other else "", each.reason, batch]
        console.say(
            f"{mark} {each.layout:<22}{each.ranks:>6}  {each.precision:<7}{each.batch:>7}{each.images_per_s:>10.4g}  "
            f"{f'{low:.4g} … {high:.4g}':<17}{console.bytes_text(each.bytes):>9}  {'; '.join(filter(None, told))}"
        )
    refused: dict[tuple[int, str], list[tuple[str, str]]] = {}  # what many share is said once
    for each in found:
        if each.fits:
            continue
        if each.images_per_s:
            rate = f"{each.images_per_s:.4g} images/s {each.source}"
            console.say(f"  {each.layout} on {each.ranks}, {each.precision}: {rate}, but {each.reason}")
        else:
            shared = each.reason.replace(f"layout {each.layout}", "these")
            refused.setdefault((each.ranks, shared), []).append((each.layout, each.reason))
    for (ranks, shared), each_one in refused.items():
        names, reasons = (list(dict.fromkeys(told)) for told in zip(*each_one))
        console.say(f"  {'; '.join(names)} on {ranks}: {shared if len(names) > 1 else reasons[0]}")
