"""The command line. Heavy modules are imported inside commands, so that `--help` is quick; errors that a user can cause
print one line and set the exit code: 1 failed, 2 usage, 3 data refused, 75 stopped but resumable, 130 ended by Ctrl-C with
nothing to continue."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fanlight import cli_data, cli_once, cli_plan, cli_scratch, cli_study, console
from fanlight.cli_data import GroupByOption, JsonOption, PackDirOption
from fanlight.cli_report import write_report
from fanlight.cli_typed import command, entered
from fanlight.errors import (
    ConfigError,
    DataError,
    DiskError,
    FanlightError,
    Stopped,
    TrainingError,
    disk_is_full,
)

INTERRUPTED = 130  # exit code of a command that Ctrl-C ended and that has nothing to continue
INTERRUPTED_WORDS = "Interrupted; there is nothing to continue, and the same command begins anew"

app = typer.Typer(
    help="Parallel deep learning for images: a folder of images in, a trained, evaluated classifier or captioner out.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
cache_app = typer.Typer(help="Packs, manifests and built-in data that can be made again.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
app.add_typer(cli_scratch.app, name="scratch")

# typer's own class for wrong usage; newer versions carry their copy of click, so it is found by name.
_USAGE: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

RunArgument = Annotated[Path, typer.Argument(help="A run folder, as `fanlight train` printed it.")]
TtaOption = Annotated[
    int,
    typer.Option("--tta", metavar="N", help="Views per image that are averaged: 2 adds the mirror image, 10 corners."),
]
UnknownOption = Annotated[
    float | None,
    typer.Option(
        "--unknown-below", metavar="P", help="Call an image unknown when its calibrated probability is below P."
    ),
]
BeamsOption = Annotated[int | None, typer.Option(help="Of captions: sentences kept open. Default: the run's.")]

# The flag of a config key, where it is not `--<field>`.
FLAGS = {
    "model": "model.name", "epochs": "train.epochs", "batch_size": "train.batch_size", "lr": "optim.lr",
    "microbatches": "train.microbatches", "image_size": "data.image_px", "image_size_start": "data.image_px_start",
    "layout": "execution.layout",
    "ranks": "execution.ranks", "device": "execution.device", "precision": "train.precision",
    "workers": "execution.workers", "threads": "execution.threads", "limit": "data.limit",
    "val_fraction": "data.val_fraction", "folds": "data.folds", "fold": "data.fold", "seed": "train.seed",
    "weights": "model.weights", "pretrained": "model.pretrained", "freeze": "model.freeze",
    "freeze_epochs": "model.freeze_epochs",
    "optimizer": "optim.name", "schedule": "optim.schedule", "class_weights": "optim.class_weights",
    "sampling": "data.sampling", "ema": "train.ema", "patience": "train.patience", "audit": "data.audit",
    "group_by": "data.group_by", "flip": "augment.flip", "min_count": "caption.min_count", "beams": "caption.beams",
    "policy": "augment.policy", "jitter": "augment.jitter", "erase": "augment.erase", "mixup": "augment.mixup",
    "cutmix": "augment.cutmix", "no_augment": "augment.off", "pack": "execution.pack",
    "compile": "execution.compile", "autotune": "execution.autotune", "time_limit": "train.time_limit_s",
    "pack_dir": "execution.pack_dir", "report": "execution.report", "cache_features": "execution.cache_features",
    "recompute": "execution.recompute", "pipeline_schedule": "execution.pipeline_schedule",
    "stages_per_rank": "execution.stages_per_rank", "split_at": "execution.split_at", "sync_every": "train.sync_every",
}  # fmt: skip


app.command()(cli_data.check)
app.command()(cli_data.pack)
app.command()(cli_study.study)
app.command()(cli_plan.plan)
cache_app.command("list")(cli_data.cache_list)
cache_app.command("clear")(cli_data.cache_clear)


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="Class folders, captions, a list file, an archive, or the built-in `digits`.")] = "",
    model: Annotated[str | None, typer.Option(help="timm, torchvision or own name. Default: by image size.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images. Default: by their number.")] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Images per step, global: over all ranks together; `auto`: measured.")
    ] = None,
    microbatches: Annotated[int | None, typer.Option(help="Parts of a batch whose gradients are summed.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate for the global batch, used as it is.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, onecycle, step, wsd or constant.")] = None,
    sampling: Annotated[str | None, typer.Option(help="epoch (every image once), balanced (by class) or weighted.")] = None,
    class_weights: Annotated[str | None, typer.Option(help="balanced, effective or name=weight,… in the loss.")] = None,
    ema: Annotated[float | None, typer.Option(help="Average the weights with this decay per step, such as 0.999.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after this many evaluations without a better one.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model sees.")] = None,
    image_size_start: Annotated[int | None, typer.Option(help="Side in the first epoch; it grows to the full.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="ddp, fsdp, pipeline, tensor, …, or replicate=2,pipe=2. Default: serial, or ddp over GPUs.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes that train together.")] = None,
    pipeline_schedule: Annotated[str | None, typer.Option(help="1f1b, gpipe, interleaved or sequential.")] = None,
    stages_per_rank: Annotated[int | None, typer.Option(help="Of an interleaved pipeline.")] = None,
    split_at: Annotated[str | None, typer.Option(help="Blocks to cut a pipeline after. Default: balanced.")] = None,
    sync_every: Annotated[int | None, typer.Option(help="Of local-sgd and diloco: steps between meetings.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. Default: the fastest here.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads per rank.")] = None,
    workers: Annotated[int | None, typer.Option(help="Input threads per rank.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use this many images, stratified.")] = None,
    val_fraction: Annotated[float | None, typer.Option(help="Share kept for validation. Default 0.2.")] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validation: number of folds.")] = None,
    fold: Annotated[int | None, typer.Option(help="Which fold validates, from 0.")] = None,
    audit: Annotated[str | None, typer.Option(help="Copies looked for before the split: exact, quick, thorough.")] = None,
    group_by: GroupByOption = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, split, order and augmentation.")] = None,
    weights: Annotated[str | None, typer.Option(help="Start from this .safetensors or .pt file.")] = None,
    pretrained: Annotated[bool | None, typer.Option(help="Start from published weights.")] = None,
    freeze: Annotated[bool | None, typer.Option(help="Train the last layer only.")] = None,
    freeze_epochs: Annotated[int | None, typer.Option(help="Train the last layer only at first, then all.")] = None,
    cache_features: Annotated[bool | None, typer.Option(help="With --freeze: see each image once, keep that.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror images left-right at random.")] = None,
    min_count: Annotated[int | None, typer.Option(help="Of captions: words rarer than this are unknown.")] = None,
    beams: Annotated[int | None, typer.Option(help="Of captions: sentences kept open while one is written.")] = None,
    policy: Annotated[str | None, typer.Option(help="Operations per image: none, trivial or rand.")] = None,
    jitter: Annotated[
        str | None, typer.Option(help="Most change of brightness, contrast, saturation, hue: .4,.4,.4,.1")
    ] = None,
    erase: Annotated[float | None, typer.Option(help="Probability that a rectangle of an image is erased.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Blend pairs of images; alpha of the Beta, such as 0.2.")] = None,
    cutmix: Annotated[float | None, typer.Option(help="Paste into pairs of images; alpha, such as 1.")] = None,
    no_augment: Annotated[
        bool | None, typer.Option("--no-augment/--augment", help="Train on evaluation's centre crop, unchanged.")
    ] = None,
    compile: Annotated[bool | None, typer.Option(help="torch.compile the training forward, and say if it pays.")] = None,
    autotune: Annotated[
        bool | None, typer.Option(help="Measure precision, threads, ranks, ... first. Default: where it pays.")
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Wall clock to the last metric: minutes, or 90s, 10m, 2h. Epochs that fit.")
    ] = None,
    pack: Annotated[bool | None, typer.Option(help="Decode once into a pack, or at every read.")] = None,
    pack_dir: PackDirOption = None,
    recompute: Annotated[bool | None, typer.Option(help="Less memory: compute activations twice.")] = None,
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
    """Train a classifier, or on captions a captioner, and evaluate it. One argument is enough: fanlight train photos/"""
    given = locals()
    console.set_json(as_json)
    flags = config_values({name: given[name] for name in FLAGS})
    from fanlight.recipes import assemble

    asked = assemble(data, recipe=recipe, config=config, flags=flags, values=values or [])
    if print_config:
        _print_config(asked)
        return
    if not data and not asked.data.path and resume in (None, "auto"):
        raise ConfigError("say which images: fanlight train photos/ (or `digits`), or --resume RUN to continue a run")
    from fanlight.train import finish

    asked = cli_plan.laid_out(asked, resume=resume, out=out)
    console.result(
        finish.train(
            asked, out=out, resume=resume, command=command(), entered=entered(), dry_run=dry_run, report=write_report
        )
    )


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[str | None, typer.Option(help="Other images, of the same classes or captioned. Default: the run's.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test. Default: test where there is one, else val.")] = "",
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes that score together.")] = None,
    beams: BeamsOption = None,
    best: Annotated[bool, typer.Option("--best", help="The weights of the best evaluation instead of the last.")] = False,
    tta: TtaOption = 1,
    unknown_below: UnknownOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Score a run's weights on a split, or on other data."""
    console.set_json(as_json)
    from fanlight.train import scoring

    ranks = 1 if ranks is None else ranks
    if data == "":  # of an unset variable
        raise ConfigError("--data is empty; name other images, or leave it out to score the run's own")
    scores = scoring.evaluate(
        run, data=data or "", split=split, device=device, ranks=ranks, best=best, tta=tta, unknown_below=unknown_below,
        beams=beams,
    )  # fmt: skip
    console.result(scores)


@app.command()
def predict(
    run: RunArgument,
    files: Annotated[list[str], typer.Argument(help="Images, folders or globs.")],
    out: Annotated[Path | None, typer.Option(help="Write a .csv or .json file.")] = None,
    top: Annotated[int, typer.Option(help="How many classes to name per image.")] = 3,
    beams: BeamsOption = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The weights of the best evaluation instead of the last.")] = False,
    tta: TtaOption = 1,
    unknown_below: UnknownOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Name the class of images, with its calibrated probability, or write a caption."""
    console.set_json(as_json)
    from fanlight.train import predict as predicting

    predictor = predicting.load(run, device=device, best=best, beams=beams)
    answers = predicting.tell(predictor, files, out=out, top=top, tta=tta, unknown_below=unknown_below)
    console.result({"predictions": answers})
    if answers and all("error" in answer for answer in answers):
        raise DataError(f"none of the {len(answers)} files could be read; each says why above")


@app.command()
def verify(
    data: Annotated[str, typer.Argument(help="Images to compare on. Default: the built-in `digits`.")] = "digits",
    model: Annotated[str | None, typer.Option(help="timm, torchvision or own name. Default: as `train` has it.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes. Default: by usable cores, 2 to 4.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps that are compared.")] = 20,
    only: Annotated[str | None, typer.Option(help="Some layouts, with commas between: ddp,tensor.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, or fp64 for proof.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu (default) or cuda.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model sees.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, global. Default: 16.")] = None,
    microbatches: Annotated[int | None, typer.Option(help="Parts of a batch. Default: 4.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use this many images, stratified.")] = None,
    values: Annotated[list[str] | None, typer.Option("--set", help="Any config key: --set optim.name=sgd")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the certificate. Default: runs/<data>-<model>-<n>.")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Prove every layout equal to the serial run, on this machine, with your model and images."""
    console.set_json(as_json)
    from fanlight.recipes import assemble
    from fanlight.train import certificate
    from fanlight.train import verify as verifying

    flags = {
        "model": model,
        "device": device,
        "image_size": image_size,
        "batch_size": batch_size,
        "microbatches": microbatches,
        "limit": limit,
    }
    config = assemble(data, recipe=None, config=None, flags=config_values(flags), values=values or [])
    found = verifying.verify(
        config, precision=precision or "fp32", ranks=ranks, steps=steps, out=out, command=command(),
        only=None if only is None else [word.strip() for word in only.split(",") if word.strip()],
    )  # fmt: skip
    console.say(f"Certificate: {found['run']}/certificate.md")
    console.result(found)
    if not found["passed"]:
        raise TrainingError(f"{certificate.verdict(found)}: {found['run']}/certificate.md says why")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of a study of layouts.")],
) -> None:
    """Write the report.html of a run or a study again from what its folder holds."""
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


cli_once.tell_repeats(app, cache_app, cli_scratch.app)


def config_values(options: dict[str, Any]) -> dict[str, Any]:
    """Config keys and values of options by their names here; `section__field` is a key too."""
    values = {FLAGS[name] if name in FLAGS else name.replace("__", ".", 1): value for name, value in options.items()}
    limit = options.get("time_limit")
    if limit is not None and str(limit)[-1:].isdigit():  # a bare number: minutes
        values[FLAGS["time_limit"]] = f"{limit}m"
    return values


def _print_config(config: Any) -> None:
    import yaml

    console.say(yaml.safe_dump(config.document(), sort_keys=False).rstrip())
    console.result(config.document())


def main() -> None:
    """The `fanlight` command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name may hold what the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
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
        if code == INTERRUPTED:  # typer makes that of a KeyboardInterrupt, and says nothing
            print(INTERRUPTED_WORDS, file=sys.stderr)
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
        print(INTERRUPTED_WORDS, file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if not disk_is_full(error):
            raise
        where = f"{error.filename} cannot be written: " if error.filename else ""
        print(
            f"Error: {where}{os.strerror(error.errno or 0)}; free some room and give the same command again",
            file=sys.stderr,
        )
        return DiskError.exit_code


if __name__ == "__main__":
    main()
