"""A part of the scenes of `shapes`, drawn: what each of several processes does, and one alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanlight.data.shapes import draw, grammar
from fanlight.data.shapes import scene as scenes
from fanlight.data.shapes.dice import Dice
from fanlight.data.shapes.scene import Scene

SEEDS = {"train": 1, "val": 2, "test": 3}


def drawn(folder: Path, names: list[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Writes `folder`/split/number.png of each (split, number) of `names`, and says what is in it: {"scene", "captions"}."""
    import cv2

    for split, number in names:
        scene, sentences = made(split, number)
        # The least compression: at 64 pixels files differ little, and time does.
        fine, data = cv2.imencode(".png", draw.pixels(scene)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert fine
        (folder / named(split, number)).write_bytes(data.tobytes())
        yield {"scene": scene.as_json(), "captions": sentences}


def named(split: str, number: int) -> str:
    return f"{split}/{number:05d}.png"


def made(split: str, number: int) -> tuple[Scene, list[str]]:
    """The scene of one image and its captions: a function of the split and the number alone."""
    dice = Dice(number, seed=SEEDS[split])
    scene = scenes.drawn(dice, unseen=split == "test", seed=SEEDS[split] << 32 | number)
    return scene, grammar.captions(scene, dice)


def main(plan: dict[str, Any]) -> None:
    """A line of JSON per scene, or the error of the system that ended it."""
    try:
        for found in drawn(Path(plan["folder"]), [(split, number) for split, number in plan["names"]]):
            print(json.dumps(found), flush=True)
    except BrokenPipeError:  # who asked is gone
        sys.stdout = None
    except OSError as error:
        print(json.dumps({"errno": error.errno, "said": error.strerror or str(error)}), flush=True)
