"""A tiny data set whose images have captions: a colour and a place, in sentences of unlike lengths."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fanlight import cli
from fanlight.config import Config
from fanlight.recipes import assemble
from train import colours as tiny

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
PLACES = ("above", "below")
OPTIONS = {
    "model": "small-cnn+lstm32", "epochs": 2, "batch_size": 8, "precision": "fp32", "threads": 1, "report": False,
    "image_size": 16,
}  # fmt: skip


def make(root: Path, *, images: int = 36, px: int = 16, seed: int = 0, most: int = 3) -> Path:
    """A folder with captions.csv and images: one to three captions of each (`most`), of 3 to 12 words."""
    draws = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(images):
        colour, place = list(COLOURS)[number % 3], PLACES[number // 3 % 2]
        pixels = draws.integers(90, 130, (px, px, 3), np.uint8)
        half = slice(0, px // 2) if place == "above" else slice(px // 2, px)
        pixels[half] = COLOURS[colour] + draws.integers(
            -20, 20, pixels[half].shape
        )  # where nothing is flat, no maximum is tied
        name = f"{number:03d}.png"
        Image.fromarray(pixels).save(root / "images" / name)
        said = [f"{colour} lies {place}", f"in this picture there is something that is {colour} and lies {place}",
                f"here {colour} is {place} grey"]  # fmt: skip
        rows += [(name, text) for text in said[: min(most, 1 + number % 3)]]
    with open(root / "captions.txt", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return root


def config(data: Path, **options: Any) -> Config:
    """As `train` would have it."""
    keys = {cli.FLAGS.get(name, name.replace("__", ".")): value for name, value in (OPTIONS | options).items()}
    return assemble(str(data), recipe=None, config=None, flags=keys, values=[])


def train(data: Path, **options: Any) -> Path:
    """As colours.train, on captions."""
    return tiny.train(data, **(OPTIONS | options))
