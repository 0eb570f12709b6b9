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
    workers: Annotated[str, typer.Option(help="Numbers of workers, with commas: 1,2,4. Default: to the usable cores.")] = "",
    engines: Annotated[str, typer.Option(help="Some engines, with commas. Default: serial,threads,processes,dask.")] = "",
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
    counts = [word.strip() for word in workers.split(",") if word.strip()]
    if bad := [word for word in counts if not word.isdecimal()]:
        raise ConfigError(f"--workers {bad[0]!r}: numbers from 1 on, with commas between, such as 1,2,4")
    from fanlight.study.loading import run

    document = run.study(
        data, workers=[int(word) for word in counts], names=[word.strip() for word in engines.split(",") if word.strip()],
        image_px=image_size, limit=limit, rounds=rounds, out=out, command=shlex.join(["fanlight", *sys.argv[1:]]),
    )  # fmt: skip
    console.result(document)
