"""The command that studies what parallelism buys. `cli` registers it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from fanlight import console
from fanlight.cli_data import JsonOption
from fanlight.cli_typed import command
from fanlight.errors import ConfigError, shown

SUBJECTS = ("layouts", "loading")
ONLY = {  # options that one subject has and the other does not
    "loading": ("workers", "engines"),
    "layouts": (
        "model", "epochs", "batch_size", "layouts", "ranks", "precisions", "weak", "to_accuracy", "seeds", "device",
        "threads", "time_limit", "resume", "values", "recipe", "price",
    ),
}  # fmt: skip
COUNT_MOST = 10**9  # more is a slip of the pen
DIGITS_MOST = 18  # of a number; Python itself refuses to read thousands of them
OF_ONE = ("weak", "to_accuracy", "seeds", "price")  # options of one study of layouts, not of a recipe's parts
KEYS = {
    "model.name": "model", "train.epochs": "epochs", "train.batch_size": "batch_size", "data.image_px": "image_size",
    "execution.threads": "threads", "execution.device": "device", "data.limit": "limit",
}  # fmt: skip


def study(
    data: Annotated[str, typer.Argument(help="Class folders, an archive of them, a list file, or the built-in `digits`.")] = "",
    of: Annotated[str, typer.Option(help="What is studied: layouts (which parallelization pays) or loading.")] = "layouts",
    recipe: Annotated[
        str | None, typer.Option(help="All that a reference project compared: weather, sign-language, …; or one of `train`.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="timm, torchvision or own name. Default: as `train` has it.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each run. Default: enough steps for steady times.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, global; with --weak, per core.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model will see.")] = None,
    layouts: Annotated[str | None, typer.Option(help="With commas: ddp,fsdp,pipeline,… Default: all but diloco.")] = None,
    ranks: Annotated[str | None, typer.Option(help="With commas: 1,2,4. Default: powers of two up to the cores.")] = None,
    precisions: Annotated[str | None, typer.Option(help="With commas. Default: fp32,bf16.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Compute threads per rank. Default: cores over ranks; ddp with one, too.")
    ] = None,
    weak: Annotated[bool, typer.Option("--weak", help="The batch grows with the cores.")] = False,
    to_accuracy: Annotated[float | None, typer.Option(help="Seconds until this share of right answers, over seeds.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Of --to-accuracy, at least 3: as --rounds.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Turns of every point. Default: until intervals are narrow.")] = None,
    time_limit: Annotated[str | None, typer.Option(help="No run goes on for longer: 90s, 10m, 1.5h.")] = None,
    price: Annotated[float | None, typer.Option(help="Of this machine per hour, any currency: what an epoch costs.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: both, where there is a GPU.")] = None,
    workers: Annotated[str | None, typer.Option(help="Of loading, with commas: 1,2,4. Default: up to the cores.")] = None,
    engines: Annotated[str | None, typer.Option(help="Of loading. Default: serial,threads,processes,dask.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use this many images.")] = None,
    values: Annotated[list[str] | None, typer.Option("--set", help="Any key that is left open: --set optim.name=sgd")] = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder. Default: runs/<data>-study-<n>.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the study in this folder, as it was begun.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure which parallelization pays on these images and this machine, how far, and what eats the rest."""
    given = locals()
    console.set_json(as_json)
    for name in ("threads", "seeds", "rounds", "limit"):
        if given[name] is not None and not 1 <= given[name] <= COUNT_MOST:
            raise ConfigError(
                f"--{name} {shown(str(given[name]))}: a whole number from 1 to {COUNT_MOST:,}, or leave it out"
            )
    if of not in SUBJECTS:
        raise ConfigError(f"--of {of!r}: say what to study: {', '.join(SUBJECTS)}")
    if _is_project(given):
        _project(given)
        return
    for subject, names in ONLY.items():
        if subject != of and (asked := _options(given, names)):
            raise ConfigError(f"--{asked[0]} is of another study: use it with --of {subject}, or leave it out")
    if not data and resume is None:
        raise ConfigError("say which images: fanlight study photos/ (or `digits`), or --resume STUDY to continue one")
    if of == "loading":
        _loading(given)
    else:
        _layouts(given)


def _loading(given: dict[str, Any]) -> None:
    counts, names = _words(given["workers"], "--workers"), _words(given["engines"], "--engines")
    from fanlight.study.loading import run

    document = run.study(
        given["data"], workers=_numbers(counts, "--workers"), names=names, image_px=given["image_size"],
        limit=given["limit"], rounds=given["rounds"], out=given["out"], command=command(),
    )  # fmt: skip
    console.result(document)


def _layouts(given: dict[str, Any]) -> None:
    if given["rounds"] and given["seeds"] and given["rounds"] != given["seeds"]:
        raise ConfigError(
            f"--rounds {given['rounds']} and --seeds {given['seeds']} are the same thing; give one of them"
        )
    _check_resumed(given)
    from fanlight.recipes import assemble
    from fanlight.study.layouts import recipe
    from fanlight.study.layouts import study as subject

    recipe.check_set(_keys(given["values"]))
    flags = {key: given[name] for key, name in KEYS.items()}
    config = assemble(given["data"], recipe=given["recipe"], config=None, flags=flags, values=given["values"] or [])
    asked_for = subject.Asked(
        layouts=_products(_words(given["layouts"], "--layouts")),
        ranks=_numbers(_words(given["ranks"], "--ranks"), "--ranks"),
        precisions=_words(given["precisions"], "--precisions"),
        rounds=given["rounds"] or given["seeds"], weak=given["weak"], to_accuracy=given["to_accuracy"],
        price=given["price"],
    )  # fmt: skip
    limit_s = _seconds(given["time_limit"])
    document = subject.study(
        config, asked_for, out=given["out"], resume=given["resume"], time_limit_s=limit_s, command=command()
    )
    console.result(document)


def _is_project(given: dict[str, Any]) -> bool:
    """Whether a recipe of a whole study is asked for, or one is continued."""
    if given["recipe"] is not None:
        from fanlight.recipes import find_study

        return find_study(given["recipe"])[1]
    if given["resume"] is None:
        return False
    return os.path.exists(given["resume"] / "recipe.json")  # False also of a name that is too long


def _project(given: dict[str, Any]) -> None:
    """Every part of a recipe, or what is missing of them."""
    if given["of"] != SUBJECTS[0]:
        raise ConfigError(f"--of {given['of']}: a recipe says itself what is studied; leave --of out")
    if asked := _options(given, OF_ONE):
        raise ConfigError(f"--{asked[0]} is of one study, and a recipe has parts; leave one of them out")
    _check_resumed(given)
    limit_s = _seconds(given["time_limit"])
    from fanlight.study.projects import run

    if given["resume"] is not None:
        again = run.resume(
            given["resume"], given["data"], rounds=given["rounds"], time_limit_s=limit_s, command=command()
        )
        console.result(again)
        return
    if not given["data"]:
        raise ConfigError(f"say which images: fanlight study photos/ --recipe {given['recipe']}")
    from fanlight.recipes import assemble, find_study
    from fanlight.study.layouts import recipe

    recipe.check_set(_keys(given["values"]))
    over = run.Given(
        layouts=tuple(_products(_words(given["layouts"], "--layouts"))),
        ranks=tuple(_numbers(_words(given["ranks"], "--ranks"), "--ranks")),
        precisions=tuple(_words(given["precisions"], "--precisions")),
        workers=tuple(_numbers(_words(given["workers"], "--workers"), "--workers")),
        engines=tuple(_words(given["engines"], "--engines")), rounds=given["rounds"],
    )  # fmt: skip
    flags = {key: given[name] for key, name in KEYS.items()}
    values = given["values"] or []

    def configured(under: Any) -> Any:
        return assemble(given["data"], recipe=None, config=None, flags=flags, values=values, under=under)

    path, _ = find_study(given["recipe"])
    console.result(run.study(
        path, given["data"], over, configured=configured, out=given["out"], time_limit_s=limit_s, command=command()
    ))  # fmt: skip


def _check_resumed(given: dict[str, Any]) -> None:
    """ConfigError for what a study that goes on cannot be given anew."""
    if given["resume"] is None:
        return
    names = (*ONLY["layouts"], *ONLY["loading"], "image_size", "limit", "out")
    begun = [name for name in names if name not in ("resume", "time_limit", "seeds", "price")]
    if asked := _options(given, begun):
        raise ConfigError(
            f"--{asked[0]} beside --resume: a study goes on as it was begun; leave it out (--rounds, --time-limit and --price "
            "may be given anew), or begin another with --out"
        )


def _options(given: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Which of them were given, as the user writes them: 0 and an empty text are given, too."""
    asked = [name for name in names if given[name] is not None and given[name] is not False and given[name] != []]
    return ["set" if name == "values" else name.replace("_", "-") for name in asked]


def _keys(values: list[str] | None) -> list[str]:
    """Which config keys `--set` names."""
    return [text.partition("=")[0].strip() for text in values or []]


def _words(text: str | None, option: str) -> list[str]:
    """What stands between commas; none where the option was left out."""
    if text is None:
        return []
    if not (words := [word.strip() for word in text.split(",") if word.strip()]):
        raise ConfigError(f"{option} is empty; name some, with commas between, or leave it out")
    return words


def _numbers(words: list[str], option: str) -> list[int]:
    if bad := [word for word in words if not word.isdecimal() or len(word) > DIGITS_MOST]:
        raise ConfigError(f"{option} {shown(bad[0])!r}: numbers from 1 on, with commas between, such as 1,2,4")
    return [int(word) for word in words]


def _products(words: list[str]) -> list[str]:
    """Neighbours such as replicate=2 and pipe=2 are one layout; a word that comes again begins the next."""
    found: list[str] = []
    for word in words:
        name = word.partition("=")[0].strip()
        before = [part.partition("=")[0].strip() for part in found[-1].split(",")] if found and "=" in found[-1] else []
        if "=" in word and before and name not in before:
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def _seconds(text: str | None) -> float | None:
    """A time limit; a bare number is minutes, as `train` has it."""
    if text is None:
        return None
    from fanlight.config import Config

    value = f"{text}m" if text[-1:].isdigit() else text
    try:
        limit_s = Config().with_value("train.time_limit_s", value).train.time_limit_s
    except ConfigError:
        limit_s = None
    if limit_s is None or not 0 < limit_s < math.inf:
        raise ConfigError(f"--time-limit {text!r} should be a time such as 90s, 10m or 1.5h")
    return limit_s
