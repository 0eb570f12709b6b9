"""Weights as one whole safetensors file that says by itself what it needs: names, classes, sizes, normalisation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fanlight.config import Config
from fanlight.errors import RunError

VERSION = 1  # of the description in the file's metadata


def save_weights(parts: Sequence[nn.Module], path: Path, config: Config, classes: Sequence[str]) -> None:
    """Writes `path` whole or not at all, from the parts that make the whole model; keys are the model's own names."""
    about = {
        "version": VERSION, "task": "classify", "model": config.model.name, "classes": list(classes),
        "image_px": config.data.image_px, "canvas_px": config.data.canvas_px, "eval_share": config.augment.eval_share,
        "mean": config.augment.mean, "std": config.augment.std,
    }  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    named = (item for module in parts for item in module.state_dict().items())
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in named}
    # One entry: safetensors writes several in an order of chance, and equal runs should give equal files.
    save_file(tensors, part, metadata={"fanlight": json.dumps(about)})
    part.replace(path)


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Description and tensors of a file that `save_weights` wrote. RunError when it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["fanlight"])
        tensors = load_file(path)
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist: a run writes its last weights when it finishes and its best ones at evaluations; "
            "continue it with `fanlight train --resume`, or use --best"
        ) from None
    except Exception as error:  # safetensors raises several types for damaged files
        raise RunError(f"{path} holds no weights that Fanlight wrote ({error})") from None
    if about["version"] != VERSION:
        raise RunError(f"{path} has version {about['version']}; this Fanlight reads {VERSION}")
    return about, tensors
