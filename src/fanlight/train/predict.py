"""Names the class of images with a run's weights: bytes → canvas → crop → model as in training's evaluation, in fp32."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight import console, machine, tasks
from fanlight.data import augment, inside
from fanlight.errors import ConfigError, DataError, unwritable
from fanlight.tasks import calibration
from fanlight.train import devices, export, folder
from fanlight.train.describe import Describer
from fanlight.train.evaluate import mean_of_views
from fanlight.train.eye import Eye, several
from fanlight.train.step import Normalise

BATCH = 32
UNKNOWN = "unknown"  # the label of an image whose best guess is not sure enough
PATTERN_MAX = 4096  # letters of a path, on Linux; a longer one names nothing


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready for images."""

    model: nn.Module
    classes: tuple[str, ...]
    eye: Eye
    normalise: Normalise
    temperature: float  # divides the logits; 1 where none was fitted

    @torch.no_grad()
    def logits(self, squares_BVPP3: np.ndarray) -> np.ndarray:
        """float32 [B, K] of uint8 [B, V, P, P, 3], averaged over the views as evaluation does; V forwards of B images."""
        views = (torch.from_numpy(np.ascontiguousarray(view)) for view in squares_BVPP3.swapaxes(0, 1))
        return mean_of_views([self.model(self.normalise(view)).float().cpu().numpy() for view in views])

    def predict(
        self, paths: str | Path | Iterable[str | Path], *, top: int = 3, tta: int = 1,
        unknown_below: float | None = None,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """One answer per file, in order: {path, label, probability, top} or {path, error}.

        `tta` views per image are averaged. With `unknown_below`, an answer has `unknown` too: whether its probability
        lies below, and its label is UNKNOWN then; `top` still begins with the best guess.
        """
        if top < 1:
            raise ConfigError(f"top is {top}; it must be 1 or more")
        augment.check_views(tta, flip=self.eye.flip)
        calibration.check_threshold(unknown_below)

        def answer(squares_BVPP3: np.ndarray) -> list[dict[str, Any]]:
            return [self._answer(row, top=top, below=unknown_below) for row in self.logits(squares_BVPP3)]

        return self.eye.answers(several(paths), answer, views=tta)

    def _answer(self, logits_K: np.ndarray, *, top: int, below: float | None) -> dict[str, Any]:
        if not np.isfinite(logits_K).all():
            return {"error": "the network's output is not finite; its training went wrong"}
        probability_K = calibration.probabilities(logits_K[None], self.temperature)[0]
        order = np.argsort(-logits_K, kind="stable")[:top]  # a temperature never changes the order
        named = [{"label": self.classes[k], "probability": float(probability_K[k])} for k in order]
        answer = {"label": named[0]["label"], "probability": named[0]["probability"], "top": named}
        if below is None:
            return answer
        unknown = answer["probability"] < below
        return {**answer, "label": UNKNOWN if unknown else answer["label"], "unknown": unknown}

    def words(self, answer: dict[str, Any]) -> str:
        """An answer in a line."""
        rest = answer["top"] if answer.get("unknown") else answer["top"][1:]
        others = ", ".join(f"{item['label']} {item['probability']:.2f}" for item in rest)
        return f"{answer['label']} {answer['probability']:.3f}" + (f"  ({others})" if others else "")

    def how(self, answers: list[dict[str, Any]], *, tta: int, below: float | None) -> list[str]:
        """What the numbers above are, after them."""
        said = []
        if tta > 1:
            seen = augment.view_names(tta, flip=self.eye.flip)
            said.append(f"{tta} views per image, log-probabilities averaged: {seen}")
        if self.temperature == 1.0:
            said.append("Probabilities are as the network gives them: no temperature was fitted")
        else:
            said.append(
                f"Probabilities are calibrated: temperature {self.temperature:.2f}, fitted on validation images"
            )
        if below is not None:
            named = [answer for answer in answers if "error" not in answer]
            also = f"; a class is called {UNKNOWN} too, and has `unknown` false" if UNKNOWN in self.classes else ""
            unknown = sum(answer["unknown"] for answer in named)
            said.append(f"{unknown} of {len(named)} images are {UNKNOWN}: their best guess is below {below:g}{also}")
        return said

    def columns(self, below: float | None) -> tuple[str, ...]:
        """Of a table of answers."""
        return ("label", "probability", *(("guess", "unknown") if below is not None else ()))


def load(
    run: str | Path, *, device: str | None = None, best: bool = False, beams: int | None = None
) -> Predictor | Describer:
    """What answers, from a run folder or a weights file of one; of captions with other `beams`. RunError where there is none."""
    path = Path(run)
    if path.suffix != ".safetensors":
        folder.read_summary(path)
        path = path / "weights" / ("best.safetensors" if best else "last.safetensors")
    device = devices.device(device)
    if device == "cpu":
        torch.set_num_threads(machine.cores_usable())
    about, model = export.load_network(path)
    model.eval().to(device).to(memory_format=torch.channels_last)
    normalise = Normalise(about["mean"], about["std"], like=next(model.parameters()), channels_last=True)
    eye = Eye(about["image_px"], about["canvas_px"], about["eval_share"], flip=about["flip"])
    task = tasks.restored(about, beams=beams)
    if tasks.writes(task):
        return Describer(model, task, eye, normalise)
    return Predictor(model, tuple(about["classes"]), eye, normalise, temperature=about["temperature"])


def expand(patterns: str | Path | Iterable[str | Path]) -> list[str]:
    """Files named by files, folders and archives (looked through) and globs, each once, in order; `photos.zip/cats`, too.
    DataError where one names none."""
    found: dict[str, None] = {}
    for pattern in map(str, several(patterns)):
        files: list[str] = []
        if pattern and os.path.isdir(pattern):
            items = (item for item in Path(pattern).rglob("*") if not item.name.startswith("."))
            files = sorted(str(item) for item in items if os.path.isfile(item))
        elif pattern and (members := inside.files(pattern)):
            files = members
        elif os.path.exists(pattern):
            files = [pattern]
        elif len(pattern) <= PATTERN_MAX:
            files = sorted(item for item in glob.glob(pattern, recursive=True) if os.path.isfile(item))
        if not files:
            raise DataError(
                f"{pattern[:200] or repr(pattern)} names no file; give images, folders with images, or a quoted glob"
            )
        found.update(dict.fromkeys(files))
    return list(found)


def tell(
    predictor: Predictor | Describer, patterns: list[str], *, out: Path | None, top: int, tta: int = 1,
    unknown_below: float | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Predicts, prints a table, and writes `out` (.csv or .json)."""
    if top < 1:
        raise ConfigError(f"--top is {top}; it must be 1 or more")
    if out is not None and out.suffix not in (".csv", ".json"):
        raise ConfigError(f"--out {out} should end in .csv or .json")
    answers = list(predictor.predict(expand(patterns), top=top, tta=tta, unknown_below=unknown_below))
    for answer in answers:
        if "error" in answer:
            console.say(f"{answer['path']}: not read: {answer['error']}")
        else:
            console.say(f"{answer['path']}: {predictor.words(answer)}")
    for line in predictor.how(answers, tta=tta, below=unknown_below):
        console.say(line)
    if out is not None:
        try:
            text = (
                json.dumps(answers, indent=1)
                if out.suffix == ".json"
                else _csv(answers, predictor.columns(unknown_below))
            )
            out.write_text(text, encoding="utf-8", errors="surrogateescape")  # names as the disk has them
        except OSError as error:
            raise unwritable(error, f"--out {out}", otherwise="use another path") from None
        console.say(f"{len(answers)} predictions in {out}")
    return answers


def _csv(answers: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """path, what was answered, error; with `--unknown-below` the best guess and whether it was refused, too."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["path", *columns, "error"], extrasaction="ignore")
    writer.writeheader()
    for answer in answers:
        if "unknown" in answer:
            answer = {**answer, "guess": answer["top"][0]["label"], "unknown": str(answer["unknown"]).lower()}
        writer.writerow(answer)
    return text.getvalue()
