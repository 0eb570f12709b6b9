"""What may be asked of a classifier and has no meaning for sentences. No torch."""

from __future__ import annotations

import numpy as np

from fanlight.config import Config
from fanlight.data import captions, spoken
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, shown

UNSUITED = {  # config key -> whether a value asks for it, and why it has no meaning
    "augment.mixup": (bool, "no sentence is true of two images blended"),
    "augment.cutmix": (bool, "no sentence is true of two images in one"),
    "optim.class_weights": (lambda value: value is not None, "images with captions have no classes"),
    "data.sampling": (lambda value: value == "balanced", "images with captions have no classes; use epoch or weighted"),
    "data.image_px_start": (lambda value: value is not None, "a captioner's grid of features has one size"),
}  # fmt: skip
SIDES = {"left", "right"}


def check(config: Config, manifest: Manifest) -> None:
    """ConfigError for what is asked of captions and has no meaning for them."""
    for key, (is_asked, why) in UNSUITED.items():
        section, name = key.split(".")
        if is_asked(value := getattr(getattr(config, section), name)):
            raise ConfigError(f"{key} is {value}, and {manifest.root} has captions: {why}; leave it out")
    if config.augment.flip and (found := sided(manifest)):
        count, first = found
        raise ConfigError(
            f"augment.flip mirrors images, and {count} training captions say left or right, first {shown(first)!r}: they would "
            "be false of half of what is seen; leave --flip out"
        )


def sided(manifest: Manifest) -> tuple[int, str] | None:
    """How many training captions name a side, which a mirror image changes, and the first of them."""
    found = spoken.of(manifest).saying(SIDES, manifest.rows("train"))
    if not found:
        return None
    row, number = found[0]
    return len(found), captions.captions_of(manifest, np.array([row]))[0][number]
