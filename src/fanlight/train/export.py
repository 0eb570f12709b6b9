"""Weights as one whole safetensors file that says by itself what it needs: names, classes, sizes, normalisation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fanlight import tasks
from fanlight.config import Config
from fanlight.errors import ConfigError, RunError

VERSION = 2  # of the description in the file's metadata


def save_weights(
    weights: Mapping[str, Tensor], path: Path, config: Config, told: Mapping[str, Any], *, temperature: float = 1.0
) -> None:
    """Writes `path` whole or not at all, from the whole model's parameters and buffers by their names. `told` is what the
    task says of itself (Task.about): its name, its classes or its words.
    `temperature` is what logits are divided by before a probability is told; 1 where none was fitted."""
    copy_weights(weights, path, config, told, temperature=temperature)()


def copy_weights(
    weights: Mapping[str, Tensor], path: Path, config: Config, told: Mapping[str, Any], *, temperature: float = 1.0,
    instead: Mapping[str, Tensor] | None = None,
) -> Callable[[], None]:  # fmt: skip
    """Copies what `save_weights` writes; the answer writes it, for a thread beside training. `instead` holds some of the
    weights as they were."""
    about = {
        **told, "version": VERSION, "model": config.model.name,
        "image_px": config.data.image_px, "canvas_px": config.data.canvas_px, "eval_share": config.augment.eval_share,
        "mean": config.augment.mean, "std": config.augment.std, "flip": config.augment.flip,
        "temperature": temperature,
    }  # fmt: skip
    named = {**weights, **(instead or {})}
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in named.items()
    }

    def write() -> None:
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        # One entry: safetensors writes several in an order of chance, and equal runs should give equal files.
        save_file(tensors, part, metadata={"fanlight": json.dumps(about)})
        part.replace(path)

    return write


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Description and tensors of a file that `save_weights` wrote. RunError when it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(json.loads((file.metadata() or {})["fanlight"]))
        tensors = load_file(path)
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist: a run writes its last weights when it finishes and its best ones at evaluations; "
            "continue it with `fanlight train --resume`, or use --best"
        ) from None
    except Exception as error:  # safetensors raises several types for damaged files
        raise RunError(
            f"{path} holds no weights that Fanlight wrote ({error}); put the file back, try with or without --best, or "
            "train again"
        ) from None
    if about.get("version") != VERSION:
        raise RunError(f"{path} has version {about.get('version')}; this Fanlight reads {VERSION}")
    return about, tensors


def load_network(path: Path) -> tuple[dict[str, Any], nn.Module]:
    """Description and network, on the CPU, of a file that `save_weights` wrote. RunError where they do not fit."""
    about, tensors = load_weights(path)
    try:
        about |= {
            name: tuple(map(kind, about[name])) for name, kind in (("classes", str), ("mean", float), ("std", float))
        }
        kinds = {"canvas_px": int, "eval_share": float, "temperature": float, "flip": bool}
        about |= {name: kind(about[name]) for name, kind in kinds.items()}
        task = tasks.restored(about)
        model = task.model(about["model"], image_px=about["image_px"], seed=0).model
        model.load_state_dict(tensors)
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise RunError(f"{path}: its weights and what it says of them do not fit ({why}); train again") from None
    return about, model
