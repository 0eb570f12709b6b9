"""What a study means, in words: every figure is the study's own, causes in the order of their shares, a slow-down is called
one. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.console import bytes_text, count_text, seconds_text
from fanlight.study.layouts import crosscheck, intervals

WORTH = 0.03  # of a step's time: smaller causes are not named
MORE_WORK = 1.1  # of one core's
QUEUED_MOST = 0.1  # of a step, in which other programs had the core
BUSY_MOST = 0.15  # of all cores, used by others before a run
DRIFT_MOST = 0.1  # by which the machine's speed may change between a run and its probe without a word
Doc = Mapping[str, Any]


def words(study: Doc) -> list[str]:
    """The verdict, a line per thought: which pays, then every point with its causes, then what to be careful about."""
    measured = [point for point in study["points"] if point["status"] == "measured"]
    why_not = [
        f"{', '.join(names)}: {status}: {reason}." for names, status, reason in absent(study["points"]) if reason
    ]
    if not measured:
        return ["Nothing was measured.", *why_not]
    said = [_disturbed(measured)]
    formats = dict.fromkeys(point["precision"] for point in measured)
    said += [_best(study, precision) for precision in formats] + [_best_gpu(study, precision) for precision in formats]
    said += [explain(point) for point in measured if not _is_baseline(point)]
    return [line for line in [*said, *why_not, *_care(study, measured)] if line]


def absent(points: Sequence[Doc]) -> list[tuple[list[str], str, str]]:
    """Points that were not measured: the names of those of which the same is said, their status, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for point in points:
        if point["status"] != "measured":
            found.setdefault((point["status"], point["reason"] or ""), []).append(point["name"])
    return [(names, status, reason) for (status, reason), names in found.items()]


def explain(point: Doc) -> str:
    """A point's sentence: its speed over its baselines, and what eats the rest."""
    over = point["over"].get("all_cores") or point["over"].get("one_device")
    if over is None:
        return f"{point['name']}: {point['images_per_s']:,.1f} images/s; its baseline was not measured."
    who = f"one process on {_all(over['cores'])}" if point["device"] == "cpu" else "one GPU"
    value = over["value"]
    head = f"{point['name']}: {value:.2f}× of {who}"
    standing = intervals.standing(value, over["interval"])
    if is_part(point, over):  # a point of a curve: fewer cores are no slow-down
        head = f"{point['name']}: {point['speedup']:.2f}× of one core, on {point['cores']} of {over['cores']} cores"
    elif standing == "slow-down":
        head += f", a slow-down: {1 / value - 1:.0%} more time"
    elif standing == "no gain":
        head += ", no gain"
    elif standing == "not told apart":
        low, high = over["interval"]
        head += f", not told apart from it ({low:.2f} … {high:.2f})"
    named = [f"{name} {share:.0%}" for name, share in _lost(point)]
    causes = f" Of a step: {', '.join(named)}." if named else f" Nothing takes {WORTH:.0%} of a step but computing."
    return f"{head}.{causes}{_first(point)}{_work(point)}"


def _all(cores: int) -> str:
    return {1: "one core", 2: "both cores"}.get(cores, f"all {cores} cores")


def is_part(point: Doc, over: Doc) -> bool:
    """Whether a point has fewer cores than the baseline that it is `over`, and is told by its speedup over one core."""
    return point["device"] == "cpu" and point["cores"] < over["cores"] and point["speedup"] is not None


def ranked(point: Doc) -> list[tuple[str, float]]:
    """Causes of lost time and their shares, the largest first; the work itself is none."""
    found = [(cause, share) for cause, share in point["shares"].items() if cause != "compute"]
    if point["unexplained"] is not None:
        found.append(("unexplained", point["unexplained"]))
    return sorted(found, key=lambda each: -each[1])


def _lost(point: Doc) -> list[tuple[str, float]]:
    return [(NAMES.get(name, name), share) for name, share in ranked(point) if share >= WORTH]


NAMES = {
    "input": "waiting for images and preparing them", "contention": "sharing the machine with other ranks",
    "communication": "exchanging between ranks", "straggler": "waiting for the slowest rank",
    "bubble": "idle places of the pipeline", "launch": "what a step costs whatever its rows", "rest": "the loop around the step",
}  # fmt: skip


def _first(point: Doc) -> str:
    """The leading cause, with what it does to a step."""
    name, share = next(iter(ranked(point)), ("", 0.0))
    if share < WORTH:
        return ""
    seconds, wall_s = point["seconds"], point["step_s"]
    if name == "contention":
        own = sum(seconds[cause] for cause in ("compute", "launch", "optimizer", "rest"))
        slower = seconds["contention"] / own
        return f" Shared memory, caches or clocks: each step is {slower:.0%} slower when all ranks compute."
    if name == "communication":
        sent = f"{bytes_text(point['sent_per_step'])} a step and rank" if point["sent_per_step"] else "little"
        return (
            f" Exchange: {_ms(seconds['communication'])} of a step's {_ms(wall_s)} have nothing else to do, for {sent}."
        )
    if name == "straggler":
        layers = point["layout"] in ("pipeline", "model-parallel") or "pipe=" in point["layout"]
        why = "The layers are cut unevenly" if layers else "One rank is slower than the others"
        return f" {why}: {_ms(seconds['straggler'])} of a step are spent waiting for it."
    if name == "bubble":
        more = (
            "; more --microbatches fill it" if point["layout"] != "model-parallel" else ", as one rank works at a time"
        )
        return f" The pipeline idles {_ms(seconds['bubble'])} of a step{more}."
    if name == "input":
        waited = point["timers"]["input"] * wall_s
        said = f"{_ms(waited)} are waiting for them, the rest is what preparing takes from computing"
        return f" Images: {_ms(seconds['input'])} of a step; {said}."
    if name == "launch":
        rows = point["batch_size"] // max(1, point["microbatches"])
        return f" Too little work at a time: {_ms(seconds['launch'])} of a step would stay with fewer rows than its {rows}."
    return ""


def _work(point: Doc) -> str:
    if point["work"] is not None and point["work"] > MORE_WORK:
        return f" All ranks together compute {point['work']:.2f} times what one core computes for the same images."
    return ""


def _best(study: Doc, precision: str) -> str:
    """Which configuration of a precision pays, over one process on all cores."""
    mine = [p for p in study["points"] if p["status"] == "measured" and p["precision"] == precision]
    base = study["baselines"]["all_cores"].get(precision)
    one = study["baselines"]["one_core"].get(precision)
    if base is None:
        return ""
    head = f"{precision}: one process on {count_text(base['cores'], 'core')} does {base['images_per_s']:,.1f} images/s"
    if one is not None and one["point"] != base["point"]:
        own = next(point for point in study["points"] if point["name"] == base["point"])
        head += f", {own['speedup']:.2f}× of one core" if own["speedup"] else ""
    return f"{head}.{_fastest([p for p in mine if p['device'] == 'cpu'], over='all_cores')}"


def _best_gpu(study: Doc, precision: str) -> str:
    """What one GPU does, what it gains over all cores of its machine, and which layout pays over one GPU."""
    base = study["baselines"]["one_device"].get(precision)
    if base is None:
        return ""
    one = next(point for point in study["points"] if point["name"] == base["point"])
    head = f"{precision}: one GPU does {base['images_per_s']:,.1f} images/s"
    if one["device_gain"] is not None:
        cores = study["baselines"]["all_cores"].get(precision)
        beside = _all(cores["cores"]) if cores and cores["cores"] > 1 else "the processor"
        head += f", a gain of {one['device_gain']:.1f}× from {beside} of the same machine to the GPU"
        other = next((point for point in study["points"] if cores and point["name"] == cores["point"]), one)
        if other["batch_size"] != one["batch_size"]:  # with --weak: a batch for each core, and one for the GPU
            head += f", in images/s, by batches of {other['batch_size']} and {one['batch_size']}"
    mine = [p for p in study["points"] if p["status"] == "measured" and p["precision"] == precision]
    return f"{head}.{_fastest([p for p in mine if p['device'] != 'cpu'], over='one_device')}"


def best(points: Sequence[Doc], *, over: str) -> Doc | None:
    """Of the parallel points that were held against that baseline, the fastest."""
    parallel = [point for point in points if not _is_baseline(point) and (point.get("over") or {}).get(over)]
    return max(parallel, key=lambda point: point["over"][over]["value"], default=None)


def _fastest(points: Sequence[Doc], *, over: str) -> str:
    """The parallel layout that pays over a baseline, or that none does. Empty where there is none."""
    found = best(points, over=over)
    if found is None:
        return ""
    value, ends = found["over"][over]["value"], found["over"][over]["interval"]
    if ends is None:
        return f" Best of a single round: {found['name']}, {value:.2f}× of that."
    if ends[0] > 1 and value > intervals.FASTER:
        other = " (another algorithm)" if "other algorithm" in found["flags"] else ""
        return f" Fastest: {found['name']}{other}, {value:.2f}× of that."
    return f" No parallel layout is faster beyond its interval; the best, {found['name']}, is {value:.2f}× of that."


def _disturbed(measured: list[Doc]) -> str:
    """Whether other programs computed as well, which makes the figures theirs, too."""
    beside = [p for p in measured if "oversubscribed" not in p["flags"]]
    queued = [p for p in beside if (p["queued"] or 0) > QUEUED_MOST]
    busy = [p for p in measured if (p["busy_before"] or 0) > BUSY_MOST]
    if queued:
        worst = max(queued, key=lambda p: p["queued"])
        said = f"Other programs had the cores for up to {worst['queued']:.0%} of a step ({worst['name']})"
    elif busy:
        worst = max(busy, key=lambda p: p["busy_before"])
        said = f"Other programs used up to {worst['busy_before']:.0%} of the cores before runs ({worst['name']})"
    else:
        return ""
    return f"{said}: take every figure as preliminary, and measure again on a quiet machine."


def _drifted(measured: list[Doc]) -> str:
    """Whether the machine itself changed its speed, as a shared one does."""
    far = [(max(abs(end - 1) for end in p["drift_interval"]), p["name"]) for p in measured if p["drift_interval"]]
    change, name = max(far, default=(0.0, ""))
    if change <= DRIFT_MOST:
        return ""
    return (
        f"The machine's speed changed by up to {change:.0%} between a run and the probe after it ({name}), as where others use "
        "it too: shares are corrected for it; speedups are of runs a round apart, and their intervals have it in them."
    )


def _care(study: Doc, measured: list[Doc]) -> list[str]:
    said = [_drifted(measured)] if not _disturbed(measured) else []
    for flag in ("failed later", "accuracy differs", "unexplained", "wide", "oversubscribed"):
        if names := [p["name"] for p in measured if flag in p["flags"]]:
            said.append(f"{flag.capitalize()}: {', '.join(names)} ({study['flags'][flag]}).")
    if apart := crosscheck.words(measured):
        said.append(apart)
    other = sorted({key for p in measured for key in p["differs"] or {} if not key.startswith("execution.")})
    said.append(
        "Equal for all points: data, model, seeds, epochs, optimizer and augmentation. What differs: layout, ranks, threads"
        + (f"; and {', '.join(other)} where a point says so." if other else ".")
    )
    if study["ended"]:
        said.append(f"Not complete: {study['ended']}.")
    return said


def time_to(point: Doc) -> str:
    """Seconds to the target accuracy, in words."""
    found = point["to_accuracy"]
    if found["median_s"] is None:
        return f"{found['reached']} of {count_text(found['of'], 'seed')} reached {found['target']:g}"
    return f"{seconds_text(found['median_s'])} to {found['target']:g}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.{0 if seconds >= 0.01 else 1}f} ms"


def _is_baseline(point: Doc) -> bool:
    return point["layout"] == "serial"
