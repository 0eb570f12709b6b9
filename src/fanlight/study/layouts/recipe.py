"""What all points of a study have in common, and what one of them changes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fanlight import console
from fanlight.config import Config
from fanlight.data import split
from fanlight.data.manifest import Manifest
from fanlight.parallel import layout as layouts
from fanlight.study.layouts.grid import Point
from fanlight.train import layouting, prepare, resolve

PLAIN: dict[str, object] = {  # of every point: who computes is the question, and nothing else is to be chosen on the way
    "execution.layout": "serial", "execution.ranks": 1, "execution.autotune": False, "execution.report": False,
    "execution.compile": False, "execution.cache_features": False,
}  # fmt: skip
EPOCHS = 2  # where it was left open: the first is left out of every rate
STEPS_LEAST = 10  # of the epochs that count, in every round
EPOCHS_MOST = 20


@dataclass(frozen=True)
class Basis:
    """The data and the config with every choice made, once, for all points."""

    data: str
    config: Config  # of the serial run
    asked: frozenset[str]  # keys that the user set
    manifest: Manifest
    command: str
    weak: bool = False  # the batch per core stays as it is, not the whole batch


def basis(config: Config, *, command: str, weak: bool, to_accuracy: float | None) -> Basis:
    """Reads and packs the images and decides what was left open. DataError, ConfigError as `train` has them."""
    asked = config.asked
    config = config.with_values(
        {**PLAIN, "train.precision": "fp32", "execution.device": config.execution.device or "cpu"}
    )
    gathered = prepare.gather(config)
    choices, manifest = gathered.choices, gathered.manifest
    with console.quiet(also_warnings=True):
        d, seed = choices.config.data, choices.config.train.seed
        divided = split.assign(manifest, val_fraction=d.val_fraction, seed=seed, folds=d.folds, fold=d.fold)
        resolve.whole(choices, divided)
    found = choices.config
    if "train.epochs" not in asked and to_accuracy is None:
        steps = max(1, len(divided.rows("train")) // (found.train.batch_size or 1))
        found = found.with_value("train.epochs", min(EPOCHS_MOST, max(EPOCHS, 1 + -(-STEPS_LEAST // steps))))
    every = 1 if to_accuracy is not None else found.train.epochs
    found = found.with_value("train.evaluate_every", every)
    return Basis(config.data.path, found, asked, manifest, command, weak)


def config_of(point: Point, about: Basis, *, seed: int, split_at: tuple[str, ...] | None) -> Config:
    """The whole config of one run. What decides the mathematics is the same for every point of the same round, but for
    what a layout cannot do otherwise: a pipeline's microbatches, how often ranks that train apart meet."""
    values: dict[str, Any] = {
        "execution.layout": point.layout, "execution.ranks": point.ranks, "execution.threads": point.threads,
        "execution.device": point.device, "execution.workers": 1 if point.device == "cpu" else None,
        "train.precision": point.precision, "train.seed": seed,
    }  # fmt: skip
    if point.device == "cpu" and "execution.workers" in about.asked:
        values["execution.workers"] = about.config.execution.workers
    if not is_cut(point):
        values |= layouting.PLAIN
    elif split_at:
        values["execution.split_at"] = split_at
    if about.weak:
        values["train.batch_size"] = (about.config.train.batch_size or 1) * point.cores
    config = about.config.with_values(values)
    return replace(config, asked=about.asked)  # what was only decided here may be decided by the layout


def is_cut(point: Point) -> bool:
    """Whether its layers lie on several ranks."""
    return layouts.parse(point.layout, ranks=point.ranks).pp > 1
