"""Names the class of images with a run's weights: bytes → canvas → crop → model as in training's evaluation, in fp32."""

from __future__ import annotations

import csv
import glob
import io
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fanlight import console, machine
from fanlight.data import augment, canvas
from fanlight.errors import ConfigError, DataError
from fanlight.models import zoo
from fanlight.train import export, folder, resolve
from fanlight.train.step import Normalise

BATCH = 32


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready for images."""

    model: nn.Module
    classes: tuple[str, ...]
    image_px: int
    canvas_px: int
    eval_share: float
    normalise: Normalise

    def square(self, data: bytes) -> np.ndarray:
        """uint8 [P, P, 3]: what the network sees of an image file's bytes. canvas.Unreadable where it is none."""
        pixels = canvas.to_canvas(data, self.canvas_px)
        boxes = augment.centre_boxes(np.array([pixels.shape[0]]), np.array([pixels.shape[1]]), share=self.eval_share)
        out = np.empty((self.image_px, self.image_px, 3), np.uint8)
        augment.cut(pixels, boxes, 0, out=out)
        return out

    @torch.no_grad()
    def probabilities(self, squares: np.ndarray) -> np.ndarray:
        """float32 [B, K] of uint8 [B, P, P, 3]."""
        logits_BK = self.model(self.normalise(torch.from_numpy(squares)))
        return logits_BK.float().softmax(1).cpu().numpy()

    def predict(self, paths: Iterable[str | Path], *, top: int = 3) -> Iterator[dict[str, Any]]:
        """One answer per file, in order: {path, label, probability, top} or {path, error}. Files are decoded ahead by
        threads; at most a few batches are in memory."""
        todo = iter(paths)
        with ThreadPoolExecutor(machine.cores_usable()) as threads:
            while chunk := list(islice(todo, BATCH)):
                found = list(threads.map(self._read, chunk))
                squares = [square for square in found if isinstance(square, np.ndarray)]
                answers = iter(self.probabilities(np.stack(squares)) if squares else ())
                for path, square in zip(chunk, found):
                    if isinstance(square, str):
                        yield {"path": str(path), "error": square}
                    else:
                        yield {"path": str(path), **self._answer(next(answers), top)}

    def _read(self, path: str | Path) -> np.ndarray | str:
        try:
            return self.square(Path(path).read_bytes())
        except OSError as error:
            return error.strerror or str(error)
        except canvas.Unreadable as error:
            return str(error)

    def _answer(self, probability_K: np.ndarray, top: int) -> dict[str, Any]:
        order = np.argsort(-probability_K, kind="stable")[:top]
        named = [{"label": self.classes[k], "probability": float(probability_K[k])} for k in order]
        return {"label": named[0]["label"], "probability": named[0]["probability"], "top": named}


def load(run: str | Path, *, device: str | None = None, best: bool = False) -> Predictor:
    """A Predictor from a run folder or a weights file of one. RunError where there is none."""
    path = Path(run)
    if path.suffix != ".safetensors":
        folder.read_summary(path)
        path = path / "weights" / ("best.safetensors" if best else "last.safetensors")
    about, tensors = export.load_weights(path)
    device = resolve.device(device)
    if device == "cpu":
        torch.set_num_threads(machine.cores_usable())
    created = zoo.create(about["model"], classes=len(about["classes"]), image_px=about["image_px"], seed=0)
    model = created.model
    model.load_state_dict(tensors)
    model.eval().to(device).to(memory_format=torch.channels_last)
    normalise = Normalise(about["mean"], about["std"], like=next(model.parameters()), channels_last=True)
    sizes = (about["image_px"], about["canvas_px"], about["eval_share"])
    return Predictor(model, tuple(about["classes"]), *sizes, normalise=normalise)


def expand(patterns: Iterable[str | Path]) -> list[str]:
    """Files named by files, folders (looked through) and globs, each once, in order. DataError where one names none."""
    found: dict[str, None] = {}
    for pattern in map(str, patterns):
        path = Path(pattern)
        if path.is_dir():
            files = sorted(str(item) for item in path.rglob("*") if item.is_file() and not item.name.startswith("."))
        elif path.exists():
            files = [pattern]
        else:
            files = sorted(item for item in glob.glob(pattern, recursive=True) if Path(item).is_file())
        if not files:
            raise DataError(f"{pattern} names no file; give images, folders with images, or a quoted glob")
        found.update(dict.fromkeys(files))
    return list(found)


def tell(predictor: Predictor, patterns: list[str], *, out: Path | None, top: int) -> list[dict[str, Any]]:
    """Predicts, prints a table, and writes `out` (.csv or .json)."""
    if top < 1:
        raise ConfigError(f"--top is {top}; it must be 1 or more")
    if out is not None and out.suffix not in (".csv", ".json"):
        raise ConfigError(f"--out {out} should end in .csv or .json")
    answers = list(predictor.predict(expand(patterns), top=top))
    for answer in answers:
        if "error" in answer:
            console.say(f"{answer['path']}: not read: {answer['error']}")
        else:
            others = ", ".join(f"{item['label']} {item['probability']:.2f}" for item in answer["top"][1:])
            console.say(
                f"{answer['path']}: {answer['label']} {answer['probability']:.3f}" + (f"  ({others})" if others else "")
            )
    if out is not None:
        try:
            out.write_text(json.dumps(answers, indent=1) if out.suffix == ".json" else _csv(answers))
        except OSError as error:
            raise ConfigError(f"cannot write --out {out}: {error.strerror}") from None
        console.say(f"{len(answers)} predictions in {out}")
    return answers


def _csv(answers: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["path", "label", "probability", "error"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(answers)
    return text.getvalue()
