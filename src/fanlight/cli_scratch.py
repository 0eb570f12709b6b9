"""`fanlight scratch`: networks by one line of text, trained by operators from scratch. `cli` registers it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fanlight import console
from fanlight.cli_data import JsonOption, PackDirOption
from fanlight.cli_report import write_report
from fanlight.cli_typed import command, entered
from fanlight.errors import ConfigError, TrainingError, unwritable

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
NET, BACKEND = "reference", "numba"
SWEEP_KERNELS, SWEEP_LAYERS = "3,5", "1,2,3"


@app.callback()
def scratch() -> None:
    """Networks by one line of text, trained by operators from scratch."""


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="Class folders, an archive of them, a list file, or the built-in `digits`.")] = "",
    net: Annotated[
        str | None, typer.Option(help="A line such as 'conv16k3 relu pool2 dense'; lenet5, weather, cifar. Default: reference.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="loops, numpy, numba, torch or triton. Default: numba.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images. Default: by their number.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, global: over all ranks together.")] = None,
    microbatches: Annotated[int | None, typer.Option(help="Parts of a batch whose gradients are summed.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate for the global batch, used as it is.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, onecycle, step, wsd or constant.")] = None,
    ema: Annotated[float | None, typer.Option(help="Average the weights with this decay per step, such as 0.999.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads per rank. Default: cores over ranks.")] = None,
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
    resume: Annotated[str | None, typer.Option(help="Continue this run, with any --backend; or this sweep.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Train a network that one line describes, by operators from scratch. The run folder is like any other."""
    given = locals()
    console.set_json(as_json)
    from fanlight.recipes import assemble

    config = assemble(
        data, recipe=None, config=None, flags={key: given[name] for name, key in KEYS.items()}, values=values or []
    )
    if resume is not None and (data or sweep or net is not None):
        raise ConfigError(f"--resume {resume} continues a run as it was begun; leave DATA, --net and --sweep out")
    if resume is None and not data:
        raise ConfigError("say which images: fanlight scratch train photos/ (or `digits`), or --resume RUN")
    kernels, layers = _numbers(sweep_kernels, "--sweep-kernels"), _numbers(sweep_layers, "--sweep-layers")
    if not sweep and (sweep_kernels, sweep_layers) != (SWEEP_KERNELS, SWEEP_LAYERS):
        raise ConfigError("--sweep-kernels and --sweep-layers belong to --sweep; give it, or leave them out")
    from fanlight.scratch import sweep as sweeping
    from fanlight.scratch import train as training

    if resume and (Path(resume) / sweeping.RESULT).exists():
        _check_resumed_sweep(resume, config.asked, backend=backend, out=out)
        console.result(sweeping.resume(Path(resume), entered=time.time))
        return
    chosen_net = _one_of("--net", net, "model.name", config.model.name, otherwise=NET)
    chosen = _one_of("--backend", backend, "execution.backend", config.execution.backend, otherwise=BACKEND)
    if sweep:
        console.result(
            sweeping.sweep(
                config, net=chosen_net, backend=chosen, kernels=kernels, layers=layers, out=out,
                command=command(), entered=time.time,
            )
        )  # fmt: skip
        return
    if resume is None:
        config = training.of(config, net=chosen_net, backend=chosen)
    else:
        config = training.resumed(config, run=resume, backend=backend or config.execution.backend)
    console.result(
        training.train(config, out=out, resume=resume, command=command(), entered=entered(), report=write_report)
    )


def _check_resumed_sweep(resume: str, asked: frozenset[str], *, backend: str | None, out: Path | None) -> None:
    """ConfigError for what cannot be asked of a sweep that goes on."""
    given = [key for key, name in KEYS.items() if name in asked]
    others = sorted(asked - set(KEYS.values()))
    words = [f"--{name.replace('_', '-')}" for name in given] + [f"--set {key}" for key in others]
    words += ["--backend"] * (backend is not None) + ["--out"] * (out is not None)
    if words:
        raise ConfigError(f"--resume {resume} is a sweep, which goes on as it was begun; leave {', '.join(words)} out")


def _one_of(option: str, given: str | None, key: str, value: str | None, *, otherwise: str) -> str:
    """What an option says, or --set of its key; ConfigError where both do."""
    if given is not None and value is not None:
        raise ConfigError(f"{option} {given!r} and --set {key}={value} are the same thing; give one of them")
    return next((each for each in (given, value) if each is not None), otherwise)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="3 rounds, nothing compiled by torch: minutes, not an hour.")] = False,
    ops: Annotated[
        str | None, typer.Option(help="With commas: convolution,pooling,dense,…,step,batch,epoch. Default: all but kernels.")
    ] = None,
    backends: Annotated[
        str | None, typer.Option(help="With commas: loops,numpy,numba,triton,torch,torch-compiled,torch-graph. Default: all.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Turns of every contestant. Default: 15, with --quick 3.")] = None,
    threads: Annotated[int | None, typer.Option(help="The most on the CPU. Default: the cores that may be used.")] = None,
    formats: Annotated[str, typer.Option(help="With commas: fp32,tf32,bf16,fp16; all but the first on GPUs only.")] = "fp32",
    time_limit: Annotated[str | None, typer.Option(help="Begin no group of operators after it: 90s, 10m, 1.5h.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: runs/scratch-bench-<n>.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Time every operator, a training step and an epoch on every backend beside PyTorch, results first; a page with plots."""
    console.set_json(as_json)
    limit_s = None if time_limit is None else _seconds(time_limit)
    given = {"ops": ops, "backends": backends, "formats": formats}
    words: dict[str, Any] = {name: _words(text, f"--{name}") for name, text in given.items()}
    from fanlight.scratch.bench import run
    from fanlight.study import scratch_page

    asked = run.Asked(**words, rounds=rounds, threads=threads, quick=quick, time_limit_s=limit_s)
    document = run.bench(asked, out=out, command=command())
    place = Path(document["bench"])
    try:
        page = scratch_page.write(place)
    except OSError as error:
        raise unwritable(error, f"the page in {place}", otherwise="name another folder by --out") from None
    console.say(f"Report: {page}")
    console.result(document)


@app.command()
def curves(
    backends: Annotated[
        str | None, typer.Option(help="With commas: loops,numpy,numba,torch,triton. Default: all.")
    ] = None,
    net: Annotated[
        str | None, typer.Option(help="A line for images of 1×8×8. Default: one of every kind of layer.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 50,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: runs/digits-curves-<n>.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a tiny network with every backend from one start, and compare the losses of every step with float64's."""
    console.set_json(as_json)
    names = _words(backends, "--backends")
    from fanlight.scratch import curves as curving
    from fanlight.study import scratch_curves

    document = curving.curves(names, net=curving.NET if net is None else net, steps=steps, out=out, command=command())
    page = scratch_curves.write(Path(document["curves"]))
    console.say(f"Curves: {page}, curves.svg beside it")
    console.result(document)
    if wrong := [row["backend"] for row in document["rows"] if row["passed"] is False]:
        raise TrainingError(f"the losses of {', '.join(wrong)} are not those of float64: {page} says how far off")


def _words(text: str | None, option: str) -> tuple[str, ...]:
    """What stands between commas, each once; none where the option was left out."""
    words = tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))
    if text is not None and not words:
        raise ConfigError(f"{option} is empty; name some, with commas between, or leave it out")
    return words


def _seconds(text: str) -> float:
    from fanlight.config import Config

    try:
        limit_s = Config().with_value("train.time_limit_s", text).train.time_limit_s
    except ConfigError:  # in words of a config key, which nobody has typed here
        limit_s = None
    if limit_s is None or not 0 < limit_s < float("inf"):
        raise ConfigError(f"--time-limit {text!r} should be a time such as 90s, 10m or 1.5h")
    return limit_s


def _numbers(text: str, option: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and 0 < int(word) < 100 for word in words):
        raise ConfigError(f"{option} {text!r} should be whole numbers from 1 to 99 with commas between, such as 3,5,7")
    return list(dict.fromkeys(map(int, words)))
