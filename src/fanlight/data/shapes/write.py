"""The folder of `shapes`: COCO annotations, a folder of images per split, and scenes.json, which has what is in each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fanlight.data.shapes import draw, grammar
from fanlight.data.shapes import scene as scenes
from fanlight.data.shapes.dice import Dice
from fanlight.data.shapes.scene import Scene

COUNTS = {"train": 20_000, "val": 500, "test": 500}
SEEDS = {"train": 1, "val": 2, "test": 3}
SCENES = "scenes.json"
VERSION = 1  # of scenes.json


def write(
    folder: Path, *, counts: dict[str, int] | None = None, done: Callable[[int], None] = lambda count: None
) -> None:
    """Draws every scene of the splits. `val` has unseen scenes of the pairs of colour and shape that `train` has, `test` scenes
    with at least one of the pairs of scene.UNSEEN. `done` is called after each image, with 1."""
    import cv2

    facts: dict[str, object] = {}
    (folder / "annotations").mkdir()
    for split, count in (counts or COUNTS).items():
        (folder / split).mkdir()
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for number in range(count):
            scene, sentences = made(split, number)
            name = f"{number:05d}.png"
            # The least compression: at 64 pixels files differ little, and time does.
            fine, data = cv2.imencode(".png", draw.pixels(scene)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
            assert fine
            (folder / split / name).write_bytes(data.tobytes())
            facts[f"{split}/{name}"] = scene.as_json()
            images.append({"id": number, "file_name": name, "width": scenes.SIDE_PX, "height": scenes.SIDE_PX})
            for text in sentences:
                annotations.append({"id": len(annotations), "image_id": number, "caption": text})
            done(1)
        document = {"images": images, "annotations": annotations}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(document), "utf-8")
    (folder / SCENES).write_text(json.dumps({"version": VERSION, "scenes": facts}), "utf-8")


def made(split: str, number: int) -> tuple[Scene, list[str]]:
    """The scene of one image and its captions: a function of the split and the number alone."""
    dice = Dice(number, seed=SEEDS[split])
    scene = scenes.drawn(dice, unseen=split == "test", seed=SEEDS[split] << 32 | number)
    return scene, grammar.captions(scene, dice)
