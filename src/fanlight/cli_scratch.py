"""`fanlight scratch`: networks by one line of text, trained by operators from scratch. `cli` registers it."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from fanlight import console
from fanlight.cli_data import JsonOption, PackDirOption
from fanlight.errors import ConfigError, unwritable

app = typer.Typer(
    help="The CNN from scratch: loops, NumPy, all cores, GPU kernels of our own, beside PyTorch.", no_args_is_help=True
)
KEYS = {  # option → config key
    "epochs": "train.epochs", "batch_size": "train.batch_size", "microbatches": "train.microbatches", "lr": "optim.lr",
    "optimizer": "optim.name", "schedule": "optim.schedule", "threads": "execution.threads", "ranks": "execution.ranks",
    "device": "execution.device", "image_size": "data.image_px", "limit": "data.limit",
    "val_fraction": "data.val_fraction", "seed": "train.seed", "flip": "augment.flip", "no_augment": "augment.off",
    "ema": "train.ema", "pack_dir": "execution.pack_dir", "report": "execution.report",
}  # fmt: skip
SWEEP_KERNELS, SWEEP_LAYERS = "3,5", "1,2,3"


@app.callback()
def scratch() -> None:
    """Networks by one line of text, trained by operators from scratch."""


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="Class folders, an archive of them, a list file, or the built-in `digits`.")] = "",
    net: Annotated[
        str, typer.Option(help="A line such as 'conv16k3 relu pool2 dense', or reference, lenet5, weather, cifar.")
    ] = "reference",
    backend: Annotated[str | None, typer.Option(help="loops, numpy, numba, torch or triton. Default: numba.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images. Default: by their number.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, global: over all ranks together.")] = None,
    microbatches: Annotated[int | None, typer.Option(help="Parts of a batch whose gradients are summed.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate for the global batch, used as it is.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, onecycle, step, wsd or constant.")] = None,
    ema: Annotated[float | None, typer.Option(help="Average the weights with this decay per step, such as 0.999.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Compute threads per rank. Default: cores over ranks.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes that train together, each with a part of a batch.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: as the backend has it.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the network sees.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror images left-right at random.")] = None,
    no_augment: Annotated[
        bool | None, typer.Option("--no-augment/--augment", help="Train on evaluation's centre crop, unchanged.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use this many images, stratified.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="Share kept for validation. Default 0.2.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, split, order and augmentation.")] = None,
    pack_dir: PackDirOption = None,
    report: Annotated[bool | None, typer.Option(help="Write report.html.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Vary filter sizes and layers of the network; a table of all.")] = False,
    sweep_kernels: Annotated[str, typer.Option(help="Of --sweep: filter sizes, with commas.")] = SWEEP_KERNELS,
    sweep_layers: Annotated[str, typer.Option(help="Of --sweep: numbers of convolutions, with commas.")] = SWEEP_LAYERS,
    values: Annotated[list[str] | None, typer.Option("--set", help="Any config key: --set optim.momentum=0.8")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/<data>-<model>-<n>.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder, with any --backend.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Train a network that one line describes, by operators from scratch. The run folder is like any other."""
    given = locals()
    console.set_json(as_json)
    from fanlight.recipes import assemble

    config = assemble(
        data, recipe=None, config=None, flags={key: given[name] for name, key in KEYS.items()}, values=values or []
    )
    if resume is not None and (data or sweep or net != "reference"):
        raise ConfigError(f"--resume {resume} continues a run as it was begun; leave DATA, --net and --sweep out")
    if resume is None and not data:
        raise ConfigError("say which images: fanlight scratch train photos/ (or `digits`), or --resume RUN")
    kernels, layers = _numbers(sweep_kernels, "--sweep-kernels"), _numbers(sweep_layers, "--sweep-layers")
    if not sweep and (sweep_kernels, sweep_layers) != (SWEEP_KERNELS, SWEEP_LAYERS):
        raise ConfigError("--sweep-kernels and --sweep-layers belong to --sweep; give it, or leave them out")
    from fanlight.scratch import sweep as sweeping
    from fanlight.scratch import train as training

    if sweep:
        console.result(
            sweeping.sweep(
                config, net=net, backend=backend or "numba", kernels=kernels, layers=layers, out=out,
                command=_command(), entered=time.time,
            )
        )  # fmt: skip
        return
    if resume is None:
        config = training.of(config, net=net, backend=backend or "numba")
    elif backend is not None:
        config = training.on(config, backend=backend)
    console.result(
        training.train(
            config, out=out, resume=None if resume is None else str(resume), command=_command(), entered=_entered(),
            report=_report,
        )
    )  # fmt: skip


def _numbers(text: str, option: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and 0 < int(word) < 100 for word in words):
        raise ConfigError(f"{option} {text!r} should be whole numbers from 1 to 99 with commas between, such as 3,5,7")
    return list(dict.fromkeys(map(int, words)))


def _report(run: Path) -> Path:
    from fanlight.study import report

    try:
        return report.write(run)
    except OSError as error:
        raise unwritable(error, f"the report of {run}", otherwise="use another --out") from None


def _command() -> str:
    return shlex.join(["fanlight", *sys.argv[1:]])


def _entered() -> float:
    """When the user pressed Enter: this process's start, seconds since 1970."""
    import psutil

    try:
        return psutil.Process().create_time()
    except psutil.Error:
        return time.time()
