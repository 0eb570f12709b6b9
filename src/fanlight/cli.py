"""The command line. Heavy modules are imported inside commands, so that `--help` is quick; errors that a user can cause
print one line and set the exit code: 1 failed, 2 usage, 3 data refused, 75 stopped but resumable."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fanlight import console
from fanlight.errors import ConfigError, FanlightError, Stopped

app = typer.Typer(
    help="Parallel deep learning for images: a folder of images in, a trained, evaluated classifier out.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
cache_app = typer.Typer(help="Packs, manifests and built-in data that can be made again.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

# typer's own class for wrong usage; newer versions carry their copy of click, so it is found by name.
_USAGE: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

DataArgument = Annotated[str, typer.Argument(help="A folder of class folders, a list file, or the built-in `digits`.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, as `fanlight train` printed it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that read and decode. Default: by usable cores.")
]
PackDirOption = Annotated[str | None, typer.Option(help="Folder for packs. Default: the user's cache folder.")]

# The flag of a config key, where it is not `--<field>`.
FLAGS = {
    "model": "model.name", "epochs": "train.epochs", "batch_size": "train.batch_size", "lr": "optim.lr",
    "microbatches": "train.microbatches", "image_size": "data.image_px", "layout": "execution.layout",
    "ranks": "execution.ranks", "device": "execution.device", "precision": "train.precision",
    "workers": "execution.workers", "threads": "execution.threads", "limit": "data.limit",
    "val_fraction": "data.val_fraction", "folds": "data.folds", "fold": "data.fold", "seed": "train.seed",
    "weights": "model.weights", "pretrained": "model.pretrained", "freeze": "model.freeze",
    "optimizer": "optim.name", "schedule": "optim.schedule", "flip": "augment.flip", "pack": "execution.pack",
    "pack_dir": "execution.pack_dir", "report": "execution.report",
}  # fmt: skip


@app.command()
def check(
    data: DataArgument,
    workers: WorkersOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write the manifest to this folder or file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read every file: what is there, what is broken, which files are copies, what leaks between splits."""
    console.set_json(as_json)
    from fanlight.data import checkup

    console.result(checkup.check(data, workers=workers, out=out))


@app.command()
def pack(
    data: DataArgument,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model will see.")] = None,
    workers: WorkersOption = None, pack_dir: PackDirOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Decode and resize every image once, for random access. `train` does it by itself when needed."""
    console.set_json(as_json)
    from fanlight.train import packing

    console.result(packing.pack(data, image_px=image_size, workers=workers, pack_dir=pack_dir))


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="A folder of class folders, a list file, or the built-in `digits`.")] = "",
    model: Annotated[str | None, typer.Option(help="timm, torchvision or own name. Default: by image size.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images. Default: by their number.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, global: over all ranks together.")] = None,
    microbatches: Annotated[int | None, typer.Option(help="Parts of a batch whose gradients are summed.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate for the global batch, used as it is.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, onecycle or constant.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model sees.")] = None,
    layout: Annotated[str | None, typer.Option(help="serial or ddp. Default: ddp over all GPUs when several.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes that train together.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. Default: the fastest here.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads per rank.")] = None,
    workers: Annotated[int | None, typer.Option(help="Input threads per rank.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use this many images, stratified.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="Share kept for validation. Default 0.2.")] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validation: number of folds.")] = None,
    fold: Annotated[int | None, typer.Option(help="Which fold validates, from 0.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, split, order and augmentation.")] = None,
    weights: Annotated[str | None, typer.Option(help="Start from this .safetensors or .pt file.")] = None,
    pretrained: Annotated[bool | None, typer.Option(help="Start from published weights.")] = None,
    freeze: Annotated[bool | None, typer.Option(help="Train the last layer only.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror images left-right at random.")] = None,
    pack: Annotated[bool | None, typer.Option(help="Decode once into a pack, or at every read.")] = None,
    pack_dir: PackDirOption = None,
    report: Annotated[bool | None, typer.Option(help="Write report.html.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A shipped recipe's name, or a YAML file.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file over the recipe.")] = None,
    values: Annotated[list[str] | None, typer.Option("--set", help="Any config key: --set optim.momentum=0.8")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/<data>-<model>-<n>.")] = None,
    resume: Annotated[str | None, typer.Option(help="Continue this run folder, or `auto`: the newest.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the config and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Prepare, print every choice, train nothing.")] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Train a classifier and evaluate it. One argument is enough: fanlight train photos/"""
    given = locals()
    console.set_json(as_json)
    flags = {key: given[name] for name, key in FLAGS.items()}
    from fanlight.recipes import assemble

    asked = assemble(data, recipe=recipe, config=config, flags=flags, values=values or [])
    if print_config:
        _print_config(asked)
        return
    if not data and not asked.data.path and resume in (None, "auto"):
        raise ConfigError("say which images: fanlight train photos/ (or `digits`), or --resume RUN to continue a run")
    from fanlight.train import finish

    console.result(
        finish.train(
            asked, out=out, resume=resume, command=_command(), entered=_entered(), dry_run=dry_run, report=write_report
        )
    )


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[str, typer.Option(help="Other images with the same class names. Default: the run's own.")] = "",
    split: Annotated[str, typer.Option(help="train, val or test. Default: test where there is one, else val.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes that score together.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The weights of the best evaluation instead of the last.")] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Score a run's weights on a split, or on other data."""
    console.set_json(as_json)
    from fanlight.train import scoring

    ranks = 1 if ranks is None else ranks
    console.result(scoring.evaluate(run, data=data, split=split, device=device, ranks=ranks, best=best))


@app.command()
def predict(
    run: RunArgument,
    files: Annotated[list[str], typer.Argument(help="Images, folders or globs.")],
    out: Annotated[Path | None, typer.Option(help="Write a .csv or .json file.")] = None,
    top: Annotated[int, typer.Option(help="How many classes to name per image.")] = 3,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The weights of the best evaluation instead of the last.")] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Name the class of images, with its probability."""
    console.set_json(as_json)
    from fanlight.train import predict as predicting

    predictor = predicting.load(run, device=device, best=best)
    console.result({"predictions": predicting.tell(predictor, files, out=out, top=top)})


@app.command()
def report(run: RunArgument) -> None:
    """Write a run's report.html again from what its folder holds."""
    console.say(str(write_report(run)))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where runs are.")] = Path("runs"), as_json: JsonOption = False
) -> None:
    """List runs, newest first."""
    console.set_json(as_json)
    from fanlight.study import runs as listing

    found = listing.find(folder)
    console.say(listing.table(found, folder=folder))
    console.result({"runs": found})


@cache_app.command("list")
def cache_list(as_json: JsonOption = False) -> None:
    """What the cache holds, largest first."""
    console.set_json(as_json)
    from fanlight.data import cache

    entries = cache.entries()
    for entry in entries:
        console.say(f"{console.bytes_text(entry.bytes):>10}  {entry.kind:<9} {entry.path.name}  {entry.text}")
    console.say(f"{console.bytes_text(sum(entry.bytes for entry in entries)):>10}  in {cache.folder()}")
    rows = [{"path": e.path, "kind": e.kind, "bytes": e.bytes, "text": e.text} for e in entries]
    console.result({"cache": cache.folder(), "entries": rows})


@cache_app.command("clear")
def cache_clear() -> None:
    """Delete everything in the cache; the next run makes what it needs again."""
    from fanlight.data import cache

    console.say(f"freed {console.bytes_text(cache.clear())} in {cache.folder()}")


def write_report(run: Path) -> Path:
    """The run's report.html, written."""
    from fanlight.study import report as reports

    return reports.write(run)


def _print_config(config: Any) -> None:
    import yaml

    console.say(yaml.safe_dump(config.document(), sort_keys=False).rstrip())
    console.result(config.document())


def _command() -> str:
    return shlex.join(["fanlight", *sys.argv[1:]])


def _entered() -> float:
    """When the user pressed Enter: this process's start, seconds since 1970."""
    import psutil

    try:
        return psutil.Process().create_time()
    except psutil.Error:
        return time.time()


def main() -> None:
    """The `fanlight` command."""
    code = _run()
    if "RANK" in os.environ:
        from fanlight.parallel import launch

        if launch.under_torchrun():  # this process is a rank: its groups need an end of their own
            launch.end_rank(code)
    sys.exit(code)


def _run() -> int:
    """Does what the arguments say; the exit code."""
    try:
        code = app(standalone_mode=False, prog_name="fanlight")
        return code if isinstance(code, int) else 0
    except Stopped as stopped:
        print(str(stopped)[:1].upper() + str(stopped)[1:], file=sys.stderr)
        return stopped.exit_code
    except FanlightError as error:
        if error.rank_traceback and str(error).startswith("rank "):  # a bug in a rank, not a user's mistake
            print(error.rank_traceback, file=sys.stderr)
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except _USAGE as error:
        error.show()  # type: ignore[attr-defined]
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130


if __name__ == "__main__":
    main()
