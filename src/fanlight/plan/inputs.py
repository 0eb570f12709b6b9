"""What a run's input threads do, with the loader's own code, on canvases of noise: crops, mirror images, policy, jitter and
erasing cost what they cost there. Reading a pack costs next to nothing; decoding, of a run without one, is not in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import replace
from statistics import median

import numpy as np

from fanlight.config import Config
from fanlight.data import loader
from fanlight.data.loader import Samples
from fanlight.train import build
from fanlight.types import Batch, Position

CANVASES = 16  # different ones, so that a processor's caches do not hold all that is read
STEPS = 16  # of a made-up epoch
TIMED, ROWS = 5, 16  # batches whose making is timed, the first of them for nothing, and their images


class _Noise:
    """Square canvases of random pixels."""

    kind = "made up"

    def __init__(self, count: int, *, side: int):
        self._canvases = np.random.default_rng(0).integers(0, 256, (CANVASES, side, side, 3), np.uint8)
        self.heights = self.widths = np.full(count, side, np.int64)
        self.places = np.arange(count)

    def read(self, row: int) -> np.ndarray:
        return self._canvases[row % CANVASES]


def batches(config: Config, *, rows: int, workers: int) -> Generator[Batch, None, None]:
    """Without end, batches of `rows` images of a resolved config, at the full side where sides grow, made ahead by as many
    threads as a run makes them by."""
    count = STEPS * rows
    numbers = np.arange(count)
    samples = Samples(
        _Noise(count, side=config.data.canvas_px or 0), numbers, np.zeros(count, np.int64), np.ones(count)
    )
    cutting = replace(build.cut_batches(config, rank=0, ranks=1), batch=rows, microbatches=1, start_px=None, epochs=1)
    return loader.train_batches(samples, cutting, start=Position(0, 0), epochs=1 << 30, workers=workers)


def seconds(config: Config) -> float:
    """Of making one image, on one thread."""
    made = batches(config, rows=ROWS, workers=1)
    try:
        return median([batch.seconds for batch in itertools.islice(made, TIMED)][1:]) / ROWS
    finally:
        made.close()
