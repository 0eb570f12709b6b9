"""Fanlight from Python: `open`, `train`, `evaluate`, `predict`, `load`. Lines for the user are kept quiet."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight import console
from fanlight.errors import ConfigError, near

if TYPE_CHECKING:
    from fanlight.data.manifest import Manifest
    from fanlight.train.describe import Describer
    from fanlight.train.predict import Predictor

__all__ = ["Run", "evaluate", "load", "open", "predict", "train"]


@dataclass(frozen=True)
class Run:
    """A training, finished: its folder and what `fanlight train --json` would have printed."""

    folder: Path
    summary: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Validation accuracy of the last weights, in [0, 1]."""
        return self.summary["metrics"]["val"]["accuracy"]


def open(data: str | Path) -> Manifest:
    """What is in a folder of images, a list file or a built-in set: every file read and decoded, bad ones quarantined.

    Raises DataError where there are no images or no classes.
    """
    from fanlight.data import checkup

    with console.quiet():
        return checkup.up_to_date(str(data), decode=True)


def train(
    data: str | Path, *, out: str | Path | None = None, recipe: str | None = None, resume: str | Path | None = None,
    **options: object,
) -> Run:  # fmt: skip
    """Trains and evaluates; the same run that the command line starts.

    `options` are the command line's flags with underscores (`epochs=3, batch_size=64, ranks=2`), or config keys with
    two underscores for the dot (`optim__momentum=0.8`). Raises ConfigError for an unknown one, Stopped when interrupted.
    """
    from fanlight import cli_plan
    from fanlight.cli import FLAGS, config_values, write_report
    from fanlight.recipes import assemble
    from fanlight.train import finish

    begin = time.time()
    unknown = [name for name in options if name not in FLAGS and "__" not in name]
    if unknown:
        raise ConfigError(f"train() has no option {unknown[0]!r}.{near(unknown[0], FLAGS)}")
    options = {name: str(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    config = assemble(str(data), recipe=recipe, config=None, flags=config_values(options), values=[])
    command = _command(str(data), {"out": out, "recipe": recipe, "resume": resume, **options}, flags=FLAGS)
    with console.quiet():
        config = cli_plan.laid_out(config, resume=resume, out=out)
        summary = finish.train(
            config, out=Path(out) if out else None, resume=None if resume is None else str(resume), command=command,
            entered=begin, report=write_report,
        )  # fmt: skip
    return Run(Path(summary["run"]), summary)


def evaluate(
    run: Run | str | Path, *, data: str | Path = "", split: str = "", ranks: int = 1, tta: int = 1,
    unknown_below: float | None = None, beams: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores of a run's weights, as `fanlight evaluate --json` prints them."""
    from fanlight.train import scoring

    with console.quiet():
        return scoring.evaluate(
            _folder(run), data=str(data), split=split, ranks=ranks, tta=tta, unknown_below=unknown_below, beams=beams
        )


def load(run: Run | str | Path, *, device: str | None = None, beams: int | None = None) -> Predictor | Describer:
    """A run's network, ready for images: `load(run).predict(paths)`."""
    from fanlight.train import predict as predicting

    return predicting.load(_folder(run), device=device, beams=beams)


def predict(
    run: Run | str | Path, files: str | Path | Iterable[str | Path], *, top: int = 3, tta: int = 1,
    unknown_below: float | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One answer per file: {path, label, probability, top}, {path, caption, score} or {path, error}. Folders and globs are
    expanded; with `unknown_below` a label may be `unknown`, and `unknown` says whether."""
    from fanlight.train import predict as predicting

    return list(load(run).predict(predicting.expand(files), top=top, tta=tta, unknown_below=unknown_below))


def _command(data: str, options: dict[str, object], *, flags: Iterable[str]) -> str:
    """What to type for the same run."""
    words = ["fanlight", "train", data]
    for name, value in options.items():
        if value is None:
            continue
        flag = name.replace("_", "-")
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        if name not in (*flags, "out", "recipe", "resume"):
            words += ["--set", f"{name.replace('__', '.', 1)}={text}"]
        elif isinstance(value, bool):
            opposite = flag.removeprefix("no-") if flag.startswith("no-") else f"no-{flag}"
            words.append(f"--{flag}" if value else f"--{opposite}")
        else:
            words += [f"--{flag}", text]
    return shlex.join(words)


def _folder(run: Run | str | Path) -> Path:
    return run.folder if isinstance(run, Run) else Path(run)
