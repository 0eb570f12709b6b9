"""Runs a recipe of a study: its parts in order, each an ordinary study in a folder of its own, then what was reported beside
them. The folder:

    recipe.json     the recipe, what was asked over it, the config of every part
    project.json    the result, as `--json` prints it        report.html, report.md
    parts/<name>/   a study of layouts or of loading, with its own report

A part whose result is there is not measured again, unless more rounds are asked for: a study that was stopped goes on with
the others. A part that fails keeps what it had measured until then.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fanlight import __version__, console, machine
from fanlight import config as configuration
from fanlight.config import Config
from fanlight.data import checkup
from fanlight.errors import ConfigError, FanlightError, RunError, Stopped
from fanlight.models import zoo
from fanlight.study import stopping
from fanlight.study.layouts import folder, grid
from fanlight.study.layouts import study as layouts
from fanlight.study.loading import run as loading
from fanlight.study.projects import beside, headline, recipe, weights
from fanlight.study.projects.recipe import Part, Recipe
from fanlight.train import checks, devices
from fanlight.train import folder as run_folders

PLAN, RESULT = "recipe.json", "project.json"
VERSION = 1  # of recipe.json
FAILS = (FanlightError, OSError, RuntimeError, MemoryError)  # of one part, which the others need not suffer from
MIXED = "mixed"  # precision of a recipe: the short format that this machine trains in
AMPERE = 8  # compute capability from which on GPUs multiply bf16; before it only fp16
Doc = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What the user set over the recipe, for all parts. Empty or None: as the recipe has it."""

    layouts: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    workers: tuple[int, ...] = ()
    engines: tuple[str, ...] = ()
    rounds: int | None = None


class Commands(NamedTuple):
    """What the user typed: to begin, which repeats a part, and now."""

    first: str
    now: str


def study(
    path: Path, data: str, given: Given, *, configured: Callable[[Config], Config], out: Path | None,
    time_limit_s: float | None, command: str,
) -> Doc:  # fmt: skip
    """Begins the recipe in file `path`. `configured` puts the user's flags over a part's config. ConfigError and DataError for
    what cannot be studied at all; a part that fails is a row with its reason."""
    asked = recipe.read(path)
    configs = {part.name: configured(asked.config_of(part)) for part in asked.parts}
    for part in asked.parts:
        _check(part, configs[part.name], given)
    checkup.up_to_date(data, decode=False)  # is there, and is images: else nothing is begun
    place = folder.create(data, out=out, kind=asked.name, inner="parts")
    plan = {
        "version": VERSION, "name": asked.name, "recipe": asked.document, "data": data, "given": asdict(given),
        "configs": {name: [config.document(), sorted(config.asked)] for name, config in configs.items()},
        "command": command, "machine": machine.describe(), "fanlight": __version__, "started": _now(), "sessions": [],
    }  # fmt: skip
    return _parts(place, plan, time_limit_s=time_limit_s, command=command)


def _check(part: Part, config: Config, given: Given) -> None:
    """ConfigError for what a part could not begin with: else the parts before it would be measured for hours first."""
    checks.check(config)
    if part.of == "loading":
        loading.check(workers=given.workers or part.workers, names=given.engines or part.engines)
        return
    grid.points(
        cores=machine.cores_usable(), gpus=0, names=given.layouts or part.layouts, ranks=given.ranks or part.ranks,
        precisions=given.precisions or _formats(part.precisions), threads=config.execution.threads, within=True,
    )  # fmt: skip
    if config.model.name is not None:
        zoo.check_name(config.model.name)


def resume(place: Path, data: str, *, rounds: int | None, time_limit_s: float | None, command: str) -> Doc:
    """Goes on with the study in folder `place`, as it was begun but for `rounds`. RunError where it cannot be read."""
    plan = read_plan(place)
    if data and not run_folders.same_data(data, plan["data"]):
        raise ConfigError(f"--resume {place} is a study of {plan['data']}, not of {data}")
    if rounds:
        plan = plan | {"given": plan["given"] | {"rounds": rounds}}
    return _parts(place, plan, time_limit_s=time_limit_s, command=command)


def read_plan(place: Path) -> Doc:
    """recipe.json."""
    try:
        plan = json.loads((place / PLAN).read_text(encoding="utf-8"))
        version = plan["version"], plan["recipe"], plan["given"], plan["configs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{place} has no readable {PLAN}; begin anew with: fanlight study DATA --recipe NAME") from None
    if version[0] != VERSION:
        raise RunError(
            f"{place / PLAN} has version {version[0]!r}, this Fanlight reads {VERSION}; use the one that wrote it"
        )
    return plan


def _parts(place: Path, plan: Doc, *, time_limit_s: float | None, command: str) -> Doc:
    """Measures what is missing. RunError where another process is at it: it would lose the part that it measures."""
    with run_folders.locked(place), stopping.saying(place):
        return _measured(place, plan, time_limit_s=time_limit_s, command=command)


def _measured(place: Path, plan: Doc, *, time_limit_s: float | None, command: str) -> Doc:
    """What is missing, measured, with `command` kept among the plan's sessions where anything is."""
    asked = recipe.parse(plan["recipe"], name=plan["name"])
    over: Doc = {key: tuple(value) if isinstance(value, list) else value for key, value in plan["given"].items()}
    given = Given(**over)
    plan = plan | {"sessions": sessions(plan)}
    if any(_known(part, place / "parts" / part.name, rounds=given.rounds) is None for part in asked.parts):
        plan["sessions"].append({"started": _now(), "command": command})
        folder.write(place / PLAN, plan)
    end = None if time_limit_s is None else time.monotonic() + time_limit_s
    order = asked.parts  # loading has no limit of its own, and would leave nothing to those that keep one
    if end is not None:
        order = tuple(sorted(order, key=lambda part: part.of == "loading"))
    became: dict[str, Doc] = {}
    for number, part in enumerate(order):
        console.say(f"Part {number + 1} of {len(asked.parts)}: {part.title}")
        left_s = None if end is None else (end - time.monotonic()) / (len(asked.parts) - number)
        config = _config(plan["configs"][part.name])
        commands = Commands(plan["command"], command)
        became[part.name] = _became(part, config, given, place, left_s=left_s, commands=commands)
    document = result(asked, {part.name: became[part.name] for part in asked.parts}, plan, place)
    for line in document["verdict"].splitlines():
        console.say(line)
    _keep(place, document)
    console.say(f"Study: {place}  Report: {_report(place)}")
    if all(part["status"] == "failed" and part["result"] is None for part in became.values()):
        raise RunError(f"no part could be measured; the first: {next(iter(became.values()))['reason']}")
    return document


def sessions(plan: Doc) -> list[Doc]:
    """The starts in which something was measured, [{started, command}]; of a plan that kept none, its first."""
    found = plan.get("sessions")
    return [{key: plan[key] for key in ("started", "command")}] if found is None else list(found)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _keep(place: Path, document: Doc) -> None:
    """Writes project.json. RunError where that cannot be done: nothing that was measured is lost by it."""
    try:
        folder.write(place / RESULT, document)
    except OSError as error:
        raise RunError(
            f"{place / RESULT} cannot be written ({error.strerror or error}); what was measured is in {place / 'parts'}; once "
            f"that is mended: fanlight study --resume {place}"
        ) from None


def _report(place: Path) -> str:
    """Where the report is, or why there is none: figures that were measured for hours are not lost for a page."""
    from fanlight.study.projects import page

    try:
        return str(page.write(place))
    except OSError as error:
        return f"cannot be written ({error.strerror or error}); once that is mended: fanlight report {place}"


def _became(part: Part, config: Config, given: Given, place: Path, *, left_s: float | None, commands: Commands) -> Doc:
    """What became of one part. One that fails is a row with its reason, beside what it had measured before."""
    own, begun = place / "parts" / part.name, time.monotonic()
    made: Doc = {"of": part.of, "title": part.title, "study": f"parts/{part.name}", "status": "measured", "reason": "",
                 "result": None}  # fmt: skip
    try:
        made |= _one(part, config, given, own, left_s=left_s, commands=commands)
    except (Stopped, KeyboardInterrupt):
        raise Stopped(f"stopped; continue with: fanlight study --resume {place}") from None
    except FAILS as error:
        why = str(error) if isinstance(error, FanlightError) else (str(error).splitlines() or [type(error).__name__])[0]
        made |= {"status": "failed", "reason": why, "result": _until_then(part, own)}
        console.warn(f"part {part.name} failed", why=why, do=f"Mend that, then: fanlight study --resume {place}")
    done = made["result"] or {}
    if made["status"] == "measured" and done.get("of") == "layouts" and not _has_figures(done):
        made |= {"status": "not measured", "reason": done["ended"] or "every point says why"}
    # The result tells how long measuring took, also where it was before this command.
    took_s = done.get("measured_s", done.get("wall_s", time.monotonic() - begun))
    return made | {"seconds": took_s, "notes": weights.notes(own)}


def _has_figures(study: Doc) -> bool:
    return any(point["n"] for point in study["points"])


def _until_then(part: Part, own: Path) -> Doc | None:
    """What a study of layouts that failed has of the rounds before."""
    if part.of != "layouts" or (found := _read(own / folder.POINTS)) is None:
        return None
    return found if _has_figures(found) else None


def _config(kept: list[Any]) -> Config:
    document, asked = kept
    return replace(configuration.from_document(document, where=PLAN), asked=frozenset(asked))


def _one(part: Part, config: Config, given: Given, own: Path, *, left_s: float | None, commands: Commands) -> Doc:
    """The result of one part, measured now or before."""
    if (known := _known(part, own, rounds=given.rounds)) is not None:
        return {"result": known}
    if left_s is not None and left_s <= 0:
        return {"status": "not measured", "reason": "the time limit ended the study before it"}
    if part.of == "loading":
        shutil.rmtree(own, ignore_errors=True)
        cores = machine.cores_usable()
        workers = (
            given.workers or tuple(count for count in part.workers if count <= cores) or (cores,) * bool(part.workers)
        )
        return {"result": loading.study(
            config.data.path, workers=workers, names=given.engines or part.engines, image_px=config.data.image_px,
            limit=config.data.limit, rounds=given.rounds, out=own, command=commands.first,
        )}  # fmt: skip
    drawn = own.with_suffix(".safetensors")
    rounds = layouts.Asked(rounds=given.rounds)
    if (own / folder.PLAN).exists():
        weights.again(configuration.read(own / "basis.yaml"), drawn)
        begin = partial(layouts.study, Config(), rounds, out=None, resume=own, command=commands.now)
    else:
        shutil.rmtree(own, ignore_errors=True)
        asked = replace(
            rounds, layouts=given.layouts or part.layouts, ranks=given.ranks or part.ranks,
            precisions=given.precisions or _formats(part.precisions), within=not given.ranks,
            drops_slow_bf16=not given.precisions,
        )  # fmt: skip
        begin = partial(
            layouts.study, weights.stand_in(config, drawn), asked, out=own, resume=None, command=commands.first
        )
    try:
        return {"result": begin(time_limit_s=left_s)}
    finally:
        drawn.unlink(missing_ok=True)  # hundreds of megabytes, which can be drawn again


def _formats(names: Sequence[str]) -> tuple[str, ...]:
    """A recipe's precisions, `mixed` as what this machine's GPUs multiply; of a machine without, bf16."""
    return tuple(dict.fromkeys(_short() if name == MIXED else name for name in names))


def _short() -> str:
    if not devices.gpus_visible():
        return "bf16"
    import torch

    return "bf16" if torch.cuda.get_device_capability(0)[0] >= AMPERE else "fp16"


def _known(part: Part, own: Path, *, rounds: int | None) -> Doc | None:
    """The result of a part that has come to its end, in as many rounds as are asked for."""
    if (found := _read(own / ("study.json" if part.of == "loading" else folder.POINTS))) is None:
        return None
    try:
        is_short = (rounds or 0) > found["rounds"] or (part.of == "layouts" and found["ended"])
    except (KeyError, TypeError):  # it is not whole
        return None
    return None if is_short else found


def _read(path: Path) -> Doc | None:
    try:
        found: Doc = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def result(asked: Recipe, became: dict[str, Doc], plan: Doc, place: Path) -> Doc:
    """The object of project.json and of `--json`."""
    comparisons = beside.compare(asked, became)
    measured = [each["result"] for each in became.values() if each["result"] is not None]
    said = [
        f"{each['title']}: {line}" for each in became.values() if each["result"]
        for line in each["result"]["verdict"].splitlines() if line.startswith("Other programs")
    ]  # fmt: skip
    said += headline.words(comparisons)
    failed = [f"{each['title']}: {each['status']}: {each['reason']}." for each in became.values() if each["reason"]]
    lacking = [f"Lacking: {each['what']}: {each['why']}; it comes from {each['from']}." for each in asked.lacking]
    of_layouts = {name: each["result"] for name, each in became.items() if each["result"] and each["of"] == "layouts"}
    parts = [
        {"name": name, **{key: each[key] for key in ("of", "title", "study", "status", "reason", "notes", "seconds")},
         "verdict": each["result"]["verdict"] if each["result"] else ""}
        for name, each in became.items()
    ]  # fmt: skip
    versions: Doc = {}
    for each in measured:
        versions |= each["versions"]
    return {
        "study": str(place), "version": beside.VERSION, "of": "project", "recipe": asked.name, "title": asked.title,
        "theirs": asked.theirs, "data": plan["data"], "parts": parts, "comparisons": comparisons,
        "lacking": [dict(each) for each in asked.lacking],
        "baselines": {name: each["baselines"] for name, each in of_layouts.items()},
        "points": [{"part": name, **point} for name, each in of_layouts.items() for point in each["points"]],
        "rows": [
            {"part": name, **row}
            for name, each in became.items() if each["result"] and each["of"] == "loading" for row in each["result"]["rows"]
        ],
        "verdict": "\n".join([*said, *failed, *lacking]), "machine": plan["machine"], "fanlight": plan["fanlight"],
        "images": max((each["images"] for each in measured), default=None),
        "versions": versions, "command": plan["command"], "started": plan["started"], "sessions": plan["sessions"],
        "measured_s": sum(each["seconds"] for each in became.values()),
    }  # fmt: skip
