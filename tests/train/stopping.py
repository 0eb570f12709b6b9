"""Runs that are stopped or crash, and one that nothing disturbs."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from fanlight.errors import Stopped
from train import colours as tiny

# Normalised by batches, so a batch of other samples or a lost statistic shows; 12 steps, a checkpoint after 5 and 10.
OPTIONS = {"model": "small-resnet", "execution__checkpoint_steps": 5}
# Long enough that a signal finds it training: 60 steps of some 10 ms, and 15 checkpoints.
LONG = {"model": "small-resnet", "batch_size": 4, "epochs": 5}


class Crash(BaseException):
    """As unforeseen as a kill: nothing catches it."""


def raise_crash() -> None:
    raise Crash


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


KEPT: dict[str, Path] = {}  # runs that were stopped in this session


def stopped_run(colours: Path, out: Path, *, step: int = 8, **options) -> Path:
    """A run that was stopped after so many steps; the same again is a copy, since no file of a run names its place."""
    about = repr((colours, step, sorted(options.items())))
    if about in KEPT:
        return Path(shutil.copytree(KEPT[about], out))
    with pytest.MonkeyPatch.context() as patch:
        tiny.before_update(patch, step, ask_to_stop)
        with pytest.raises(Stopped):
            tiny.train(colours, out=out, **(OPTIONS | options))
    if str(out.parent) not in about:  # neither data nor pack are the test's own
        KEPT[about] = Path(shutil.copytree(out, colours.parent / f"stopped-{len(KEPT)}"))
    return out


def same_story(run: Path, other: Path) -> None:
    """The same records, once each, in the same order, with the same numbers to the last bit."""
    timing = ("images_per_s", "input_wait_share", "seconds_in", "seconds")
    told = [
        [{name: value for name, value in record.items() if name not in timing} for record in tiny.metrics(each)]
        for each in (run, other)
    ]
    assert told[0] == told[1]
