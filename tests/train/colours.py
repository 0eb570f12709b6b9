"""A tiny data set whose classes are colours, runs on it, and what their folders hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from fanlight import cli, console
from fanlight.recipes import assemble
from fanlight.train import finish
from fanlight.train.optim import Optimizer

CLASSES = ("blue", "green", "red")
# Few small steps of a small network: a run takes well under a second.
OPTIONS = {
    "model": "scratch-cnn", "epochs": 2, "batch_size": 8, "precision": "fp32", "threads": 1, "report": False,
}  # fmt: skip


def make(root: Path, *, per_class: int = 20, px: int = 16, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """Class folders of PNG files, noise around one colour per class."""
    draws = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = draws.integers(0, 90, (px, px, 3), np.uint8)
            pixels[..., number % 3] += 140
            Image.fromarray(pixels).save(root / name / f"{index:02d}.png")
    return root


def flags(options: dict[str, Any]) -> list[str]:
    """Options as words of a command line."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


QUICK = flags(OPTIONS)


def train(data: Path | str, *, out: Path | None = None, resume: Path | str | None = None, **options: Any) -> Path:
    """A run in this process (its ranks aside); its folder. `options` as in OPTIONS, or config keys with `__`."""
    given = options if resume else OPTIONS | options
    keys = {cli.FLAGS.get(name, name.replace("__", ".")): value for name, value in given.items()}
    config = assemble(str(data), recipe=None, config=None, flags=keys, values=[])
    with console.quiet():
        summary = finish.train(
            config, out=out, resume=None if resume is None else str(resume), command="test", entered=0.0,
            report=cli.write_report,
        )  # fmt: skip
    return Path(summary["run"])


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def metrics(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if kind in (None, record["kind"])]


def resolved(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "resolved.yaml").read_text())


def weights(run: Path) -> bytes:
    """The last weights' file: equal bytes are equal bits, names and description."""
    return (run / "weights" / "last.safetensors").read_bytes()


def before_update(monkeypatch, step: int, act) -> None:
    """Calls `act` once the gradients of step number `step` (from 1) of this process are whole, before ranks agree on it."""
    inner, calls = Optimizer.ready, []

    def ready(self):
        calls.append(0)
        if len(calls) == step:
            act()
        return inner(self)

    monkeypatch.setattr(Optimizer, "ready", ready)
