"""What all points of a study have in common, and what one of them changes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fanlight import console
from fanlight.config import Config
from fanlight.data import split
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError
from fanlight.parallel import layout as layouts
from fanlight.study.layouts.grid import Point
from fanlight.train import layouting, prepare, resolve

PLAIN: dict[str, object] = {  # of every point: who computes is the question, and nothing else is to be chosen on the way
    "execution.layout": "serial", "execution.ranks": 1, "execution.autotune": False, "execution.report": False,
    "execution.compile": False, "execution.cache_features": False, "train.time_limit_s": None,
}  # fmt: skip
DECIDED = {  # by the study for each point, and what a user does who wants something of it
    "execution.layout": "say --layouts", "execution.ranks": "say --ranks", "train.precision": "say --precisions",
    "train.seed": "every round has its own; say how many by --rounds",
    "train.evaluate_every": "times need one evaluation, at the end, and --to-accuracy one after every epoch",
    "train.time_limit_s": "points would have different epochs; say --time-limit, which is of the whole study",
    "execution.autotune": "it would choose otherwise for each point; try it by: fanlight train --autotune",
    "execution.compile": "it is off for all points; try it by: fanlight train --compile",
    "execution.cache_features": "it is off for all points, since only some layouts can; try it by: fanlight train",
    "execution.report": "the study has a report; one of a run is written by: fanlight report RUN",
}  # fmt: skip
EPOCHS = 2  # where it was left open: the first is left out of every rate
STEPS_LEAST = 10  # of the epochs that count, in every round
EPOCHS_MOST = 20


@dataclass(frozen=True)
class Basis:
    """The data and the config with every choice made, once, for all points."""

    data: str
    config: Config  # of the serial run
    asked: frozenset[str]  # keys that the user or a recipe set
    manifest: Manifest
    command: str
    weak: bool = False  # the batch per core stays as it is, not the whole batch


def check_set(keys: Iterable[str]) -> None:
    """ConfigError for a key of `--set` that the study decides itself: it would be overwritten without a word."""
    for key in keys:
        if key in DECIDED:
            raise ConfigError(f"--set {key} would do nothing, since a study decides it for every point: {DECIDED[key]}")


def basis(config: Config, *, command: str, weak: bool, to_accuracy: float | None, cores_most: int = 1) -> Basis:
    """Reads and packs the images and decides what was left open. `cores_most`: of any point, by which `weak` multiplies its
    batch. DataError, ConfigError as `train` has them."""
    asked = config.asked
    if put_aside := sorted(asked & DECIDED.keys()):
        console.say(f"A study decides itself, in place of the recipe: {', '.join(put_aside)}")
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
        largest = (found.train.batch_size or 1) * (cores_most if weak else 1)  # of any point: it has the fewest steps
        steps = max(1, len(divided.rows("train")) // largest)
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
    if "execution.workers" in about.asked:
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
