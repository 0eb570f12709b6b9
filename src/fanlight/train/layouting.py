"""What a layout asks of the rest of a config, and what it decides: ranks, microbatches, and what it cannot be joined with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanlight.config import Config
from fanlight.console import warn
from fanlight.errors import ConfigError
from fanlight.parallel import layout as layouts
from fanlight.parallel.layout import Layout
from fanlight.train import devices

if TYPE_CHECKING:
    from fanlight.train.resolve import Choices

CPU_RANKS_MAX = 16  # that are chosen by themselves
MICROBATCHES_PER_STAGE = 4  # of a pipeline: a bubble of (P-1)/(4P+P-1), at most a fifth
ROWS_LEAST = 4  # of a microbatch on one rank, where microbatches are chosen: fewer waste the processor and the norms
SYNC_EVERY, OUTER_LR, OUTER_MOMENTUM = 8, 0.7, 0.9  # the outer two as Douillard et al. 2023 (DiLoCo) found them
SHAPE = ("execution.layout", "execution.pipeline_schedule", "execution.stages_per_rank", "execution.split_at")
PLAIN: dict[str, object] = dict.fromkeys(SHAPE[1:])  # of a layout without a pipeline


def check(c: Config) -> None:
    """Raises ConfigError for what cannot work together on any data or machine; of an open layout, once it is decided."""
    e = c.execution
    if c.train.compress_gradients not in (None, "bf16"):
        raise ConfigError(f"train.compress_gradients is {c.train.compress_gradients!r}; use bf16, or none")
    if e.layout is None:
        if e.pipeline_schedule or e.stages_per_rank or e.split_at:
            raise ConfigError(
                "execution.pipeline_schedule, stages_per_rank and split_at are of a pipeline; add --layout pipeline, or leave "
                "them out"
            )
        return
    few = 4 if e.layout == "hsdp" else 1 if e.layout in ("serial", "dataparallel") else 2
    # How many machines there are, which decide hsdp's copies, is known when ranks meet.
    ranks = None if e.layout == "hsdp" else e.ranks
    found = layouts.of(e, ranks=ranks or layouts.degrees_of(e.layout) or few)
    if found.pp == 1 and e.split_at:
        raise ConfigError(
            f"execution.split_at is {', '.join(e.split_at)}, and layout {e.layout} cuts nothing; leave it out"
        )
    if e.split_at and (ranks or layouts.degrees_of(e.layout)) and len(e.split_at) + 1 != found.stages:
        raise ConfigError(
            f"execution.split_at names {len(e.split_at)} cuts ({', '.join(e.split_at)}), which makes {len(e.split_at) + 1} "
            f"stages, and layout {e.layout} has {found.stages}; name {found.stages - 1}, or leave it out"
        )
    if found.pp > 1 and found.dp_shard > 1:
        raise ConfigError(f"layout {e.layout} shards a pipeline's stages, which is not built; use replicate with pipe")
    _whole_only(c, found)
    if found.is_periodic:
        _periodic(c)
    if found.name == "dataparallel":
        _dataparallel(c)
    if c.train.compress_gradients and found.name != "ddp":
        raise ConfigError(
            f"train.compress_gradients is {c.train.compress_gradients}, and layout {found.name} does not sum gradients as ddp "
            "does; use --layout ddp, or leave it out"
        )


def check_same_algorithm(before: Config, after: Config) -> None:
    """Raises ConfigError where a resumed run would go on as another algorithm, which only some layouts are."""
    then, now = (c.execution.layout or "serial" for c in (before, after))
    if then != now and (then in layouts.OTHER or now in layouts.OTHER):
        other = now if now in layouts.OTHER else then
        raise ConfigError(
            f"the run was trained as {then} and cannot go on as {now}: {other} is another algorithm, not another way to compute "
            "the same; leave --layout out to continue, or train anew without --resume"
        )
    ranks = before.execution.ranks, after.execution.ranks
    if now in layouts.PERIODIC and None not in ranks and ranks[0] != ranks[1]:
        raise ConfigError(
            f"the run was trained by {ranks[0]} ranks as {now} and cannot go on with {ranks[1]}: their number decides "
            "the result; leave --ranks out to continue, or train anew without --resume"
        )


def _whole_only(c: Config, found: Layout) -> None:
    """What only ranks with whole models can do."""
    if found.is_whole and not found.is_periodic:
        return
    asked = {
        "model.freeze": (
            c.model.freeze,
            "the last layer alone trains, and no other layout than serial or ddp gains anything",
        ),
        "model.freeze_epochs": (c.model.freeze_epochs > 0, "what trains changes on the way, and parts are made once"),
        "execution.compile": (bool(c.execution.compile), "parts of models are not compiled yet"),
        "execution.cache_features": (bool(c.execution.cache_features), "features are of a whole model"),
    }
    for key, (is_on, why) in asked.items():
        if is_on:
            raise ConfigError(f"{key} does not go with layout {found.name}: {why}; leave it out, or use --layout ddp")


def _periodic(c: Config) -> None:
    if c.train.precision == "fp16":
        raise ConfigError(
            f"layout {c.execution.layout} with fp16: ranks train apart, and each would skip other steps; use --precision bf16"
        )
    if c.train.ema is not None:
        raise ConfigError(
            f"layout {c.execution.layout} with train.ema {c.train.ema}: the ranks' weights are averaged already when they meet; "
            "leave --ema out"
        )
    momentum = c.optim.outer_momentum
    if momentum is not None and not 0 <= momentum < 1:
        raise ConfigError(f"optim.outer_momentum is {momentum}; it must be 0 or more and below 1")


def _dataparallel(c: Config) -> None:
    if c.execution.recompute:
        raise ConfigError(
            "execution.recompute does not go with layout dataparallel, whose copies of a module would compute with the "
            "original's weights; leave it out"
        )
    if c.execution.compile:
        raise ConfigError(
            "execution.compile does not go with layout dataparallel, which copies modules at every step; leave it out"
        )
    gpus = devices.gpus_visible() if c.execution.device != "cpu" else 0
    if gpus < 2:
        raise ConfigError(
            f"layout dataparallel splits batches over the GPUs of one process, and {gpus} can be used; use --layout serial, or "
            "--layout ddp with --ranks on CPUs"
        )


def ranks(choices: Choices, *, gpus: int, cores: int) -> None:
    """How many ranks a layout that was named has, where that was left open."""
    text = choices.config.execution.layout
    if text is None or text in ("serial", "dataparallel"):
        return
    product = layouts.degrees_of(text)
    if product is not None:
        choices.take("execution.ranks", product, "the product of the layout's degrees")
        return
    if gpus == 1 and choices.config.execution.ranks is None:
        raise ConfigError(
            f"layout {text} takes one GPU per rank, and 1 is visible; use --layout serial, or --device cpu"
        )
    count, why = max(2, gpus or cores), f"one process per {'GPU' if gpus else 'core'}"
    if not gpus and count > CPU_RANKS_MAX:
        count, why = CPU_RANKS_MAX, f"{cores} cores; more ranks would leave each too few images of a batch"
    if text == "hsdp" and count < 4:
        count, why = 4, "two copies, each over two ranks"
    choices.take("execution.ranks", count, why)


def warn_of_other_algorithms(c: Config) -> None:
    """Says it where what is asked for is not the serial run, computed by others."""
    rounded = "gradients are rounded to bf16 on their way"
    why = {
        "local-sgd": f"Ranks train apart and average their weights every {c.train.sync_every} steps",
        "diloco": f"Ranks train apart and move by their mean change every {c.train.sync_every} steps",
        "dataparallel": "Batch norms see each GPU's own rows, and the model is copied to every GPU at every step",
    }.get(c.execution.layout or "", rounded if c.train.compress_gradients else "")
    if why:
        what = f"layout {c.execution.layout}" if why != rounded else "train.compress_gradients"
        warn(
            f"{what} is another algorithm than the serial run", why=f"{why}; its accuracy may differ",
            do="Compare its validation score with that of --layout ddp",
        )  # fmt: skip


def mathematics(choices: Choices) -> None:
    """What a layout decides of the mathematics, where it was left open, once: a resumed run keeps it in any layout."""
    config = choices.config
    all_ranks = config.execution.ranks or 1
    found = layouts.of(config.execution, ranks=all_ranks, machines=all_ranks // (choices.local_ranks or all_ranks))
    if found.is_periodic:
        choices.take("train.sync_every", SYNC_EVERY, f"layout {found.name}: sends 1/{SYNC_EVERY} of what ddp sends")
        if found.name == "diloco":
            choices.take("optim.outer_lr", OUTER_LR, "as published for DiLoCo")
            choices.take("optim.outer_momentum", OUTER_MOMENTUM, "as published for DiLoCo")
    warn_of_other_algorithms(choices.config)
    if found.pp > 1 and found.schedule != "sequential" and "train.microbatches" not in config.asked:
        most = (config.train.batch_size or 1) // (ROWS_LEAST * found.data_ranks)
        count = max(1, min(MICROBATCHES_PER_STAGE * found.pp, most))
        choices.replace(
            "train.microbatches", count, f"a pipeline of {found.pp} ranks; stages work on different ones at a time"
        )
