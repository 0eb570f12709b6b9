"""The command that says what to use before anything trains, and what more machines would bring. `cli` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fanlight import console
from fanlight.cli_data import JsonOption
from fanlight.cli_typed import command
from fanlight.errors import ConfigError, shown
from fanlight.plan.cluster import RANKS_MOST

KEYS = {
    "model.name": "model", "train.batch_size": "batch_size", "data.image_px": "image_size", "train.precision": "precision",
    "data.limit": "limit", "execution.device": "device",
}  # fmt: skip


def plan(
    data: Annotated[str, typer.Argument(help="Class folders, an archive of them, a list file, or the built-in `digits`.")],
    model: Annotated[str | None, typer.Option(help="timm, torchvision or own name. Default: as `train` has it.")] = None,
    cluster: Annotated[str | None, typer.Option(help="A cluster file, or a preset's name. Default: this machine.")] = None,
    ranks: Annotated[str | None, typer.Option(help="With commas: 8,64,512. Default: all that the machines have.")] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Images per step, global; `auto`: each layout's knee. Default: as train, grown with ranks.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels of what the model will see.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. Default: those that there are.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, of this machine. Default: a GPU where there is one.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A shipped recipe's name, or a YAML file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use this many images.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write the chosen step as a Chrome trace.")] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Measure this machine again.")] = False,
    confirm: Annotated[bool, typer.Option("--confirm/--no-confirm", help="Run the best three here, in turns.")] = True,
    values: Annotated[list[str] | None, typer.Option("--set", help="Any config key: --set train.microbatches=2")] = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Predict step time and memory of every layout, choose one, and say what more machines would bring."""
    given: dict[str, Any] = locals()
    console.set_json(as_json)
    counts = _numbers(ranks)
    from fanlight.plan import planning, wording
    from fanlight.recipes import assemble

    flags = {key: given[name] for key, name in KEYS.items()}
    with wording.errors_of_plan():
        config = assemble(data, recipe=recipe, config=None, flags=flags, values=values or [])
        wanted = planning.Wanted(cluster, counts, trace, anew, confirm)
        console.result(planning.plan(config, wanted, command=command()))


def laid_out(config: Any, *, resume: object, out: str | Path | None = None) -> Any:
    """`config` as it is, unless `--layout auto` leaves its layout to a plan of this machine. `out`: the run's folder to be."""
    if config.execution.layout is not None or not config.execution.layout_auto:
        return config
    from fanlight.parallel import launch

    if resume is not None:
        raise ConfigError(
            "--layout auto beside --resume: a run goes on as it was planned; leave it out, or name a layout"
        )
    if launch.joined():
        raise ConfigError(
            "--layout auto under torchrun or srun: ranks are there already, and a plan starts its own; name a layout"
        )
    from fanlight.plan import planning
    from fanlight.train import devices, folder

    folder.check_out(Path(out) if out else None)  # now, not after a minute of measuring
    if (config.execution.device or devices.default()[0]) != "cpu":
        console.say("  --layout auto plans for CPUs so far; on GPUs it is what is left open: ddp over all of them")
        return config
    return planning.decided(config)


def _numbers(text: str | None) -> tuple[int, ...]:
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if text is not None and (not words or not all(map(_is_count, words))):
        raise ConfigError(
            f"--ranks {shown(text)!r}: numbers from 1 to {RANKS_MOST}, with commas between, such as 8,64,512"
        )
    return tuple(dict.fromkeys(int(word) for word in words))


def _is_count(word: str) -> bool:
    return word.isdecimal() and len(word) <= 18 and 1 <= int(word) <= RANKS_MOST  # Python refuses thousands of digits
