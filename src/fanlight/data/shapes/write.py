"""The folder of `shapes`: COCO annotations, a folder of images per split, and scenes.json, which has what is in each of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from fanlight import machine
from fanlight.data.shapes import part
from fanlight.data.shapes import scene as scenes

COUNTS = {"train": 12_000, "val": 500, "test": 500}
SCENES = "scenes.json"
VERSION = 1  # of scenes.json
EACH_LEAST = 1_000  # scenes of a process: it starts in less than drawing these takes
BOOT = (
    "import json, sys\n"
    "plan = json.load(sys.stdin)\n"
    "sys.path[:] = plan['path']\n"
    "from fanlight.data.shapes import part\n"
    "part.main(plan)\n"
)


def write(
    folder: Path,
    *,
    counts: dict[str, int] | None = None,
    done: Callable[[int], None] = lambda count: None,
    cores: int = 1,
) -> None:
    """Draws every scene of the splits, in up to `cores` processes, or in this one where no Python can be started. `val` has
    unseen scenes of the pairs of colour and shape that `train` has, `test` scenes with at least one of the pairs of
    scene.UNSEEN. `done` is called after each image, with 1. OSError where the folder cannot be written."""
    counts = counts or COUNTS
    names = [(split, number) for split, count in counts.items() for number in range(count)]
    for inner in ("annotations", *counts):
        (folder / inner).mkdir()
    facts: dict[str, object] = {}
    images: dict[str, list[dict[str, object]]] = {split: [] for split in counts}
    annotations: dict[str, list[dict[str, object]]] = {split: [] for split in counts}
    processes = max(1, min(cores, len(names) // EACH_LEAST))
    with contextlib.closing(_drawn(folder, names, processes)) as drawn:
        for (split, number), found in zip(names, drawn, strict=True):
            name = part.named(split, number)
            facts[name] = found["scene"]
            file = Path(name).name
            images[split].append({"id": number, "file_name": file, "width": scenes.SIDE_PX, "height": scenes.SIDE_PX})
            own = annotations[split]
            for text in found["captions"]:
                own.append({"id": len(own), "image_id": number, "caption": text})
            done(1)
    for split in counts:
        document = {"images": images[split], "annotations": annotations[split]}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(document), "utf-8")
    (folder / SCENES).write_text(json.dumps({"version": VERSION, "scenes": facts}), "utf-8")


def _drawn(folder: Path, names: list[tuple[str, int]], processes: int) -> Generator[dict[str, Any], None, None]:
    """What part.drawn says, in the order of `names`: these are dealt out, and the processes are heard in turns. They end with
    the generator, which who leaves it early closes."""
    python = machine.python()
    if processes == 1 or python is None:
        yield from part.drawn(folder, names)
        return
    with contextlib.ExitStack() as stack:
        children = [_started(python, folder, names[first::processes], stack) for first in range(processes)]
        for number in range(len(names)):
            child = children[number % processes]
            assert child.stdout is not None
            line = child.stdout.readline()
            if not line:
                raise OSError(f"a process that draws scenes ended with code {child.wait()}; its last lines are above")
            found = json.loads(line)
            if "said" in found:
                raise OSError(found["errno"], found["said"])
            yield found


def _started(
    python: str, folder: Path, names: list[tuple[str, int]], stack: contextlib.ExitStack
) -> subprocess.Popen[bytes]:
    """Started from nothing, not forked: this process may have threads. A file in the working folder is no module of it (-P)."""
    child = subprocess.Popen(
        [python, "-P", "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        process_group=0 if os.name == "posix" else None,  # a terminal's Ctrl-C reaches this process alone
    )  # fmt: skip
    stack.enter_context(child)
    stack.callback(child.kill)
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended, which its silence says as well
        child.stdin.write(json.dumps({"path": sys.path, "folder": str(folder.resolve()), "names": names}).encode())
        child.stdin.close()
    return child
