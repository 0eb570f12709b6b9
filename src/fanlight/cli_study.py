"""The command that studies what parallelism buys. `cli` registers it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fanlight import console
from fanlight.cli_data import DataArgument, JsonOption
from fanlight.errors import ConfigError

SUBJECTS = ("loading",)


def study(
    data: DataArgument,
    of: Annotated[str, typer.Option(help="What is studied: loading.")] = "",
    workers: Annotated[str | None, typer.Option(help="With commas: 1,2,4. Default: up to the usable cores.")] = None,
    engines: Annotated[str | None, typer.Option(help="With commas. Default: serial,threads,processes,dask.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model will see.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on this many images. Default: a second of decoding.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every variant.")] = 5,
    out: Annotated[Path | None, typer.Option(help="The study's folder. Default: runs/<data>-loading-<n>.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure which parallel technique pays on these images and this machine, and why: --of loading."""
    console.set_json(as_json)
    if of not in SUBJECTS:
        raise ConfigError(f"--of {of!r}: say what to study: {', '.join(SUBJECTS)}")
    counts, names = _words(workers, "--workers"), _words(engines, "--engines")
    if bad := [word for word in counts if not word.isdecimal()]:
        raise ConfigError(f"--workers {bad[0]!r}: numbers from 1 on, with commas between, such as 1,2,4")
    from fanlight.study.loading import run

    document = run.study(
        data, workers=[int(word) for word in counts], names=names,
        image_px=image_size, limit=limit, rounds=rounds, out=out, command=shlex.join(["fanlight", *sys.argv[1:]]),
    )  # fmt: skip
    console.result(document)


def _words(text: str | None, option: str) -> list[str]:
    """What stands between commas; none where the option was left out."""
    if text is None:
        return []
    if not (words := [word.strip() for word in text.split(",") if word.strip()]):
        raise ConfigError(f"{option} is empty; name some, with commas between, or leave it out")
    return words
