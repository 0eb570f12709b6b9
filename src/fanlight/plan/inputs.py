"""What a run's input threads do, with the loader's own code, on canvases of noise: crops, mirror images, policy, jitter and
erasing cost what they cost there. Reading a pack costs next to nothing; decoding, of a run without one, is not in it.
"""

from __future__ import annotations

import itertools
import time
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
SETTLE_S = 2.0  # at most
TIMED, ROWS = 5, 16  # batches whose making is timed, the first of them for nothing, and their images


class _Noise:
    """Square canvases of random pixels."""

    kind = "made up"

    def __init__(self, count: int, *, side: int):
        self._canvases = np.random.default_rng(0).integers(0, 256, (CANVASES, side, side, 3), np.uint8)
        self.heights = self.widths = np.full(count, side, np.int64)
        self.places = np.arange(count)
        self.reads: list[int] = []

    def read(self, row: int) -> np.ndarray:
        self.reads.append(row)
        return self._canvases[row % CANVASES]


class Batches:
    """Without end, batches of `rows` images of a resolved config, at the full side where sides grow, made ahead by as many
    threads as a run makes them by."""

    def __init__(self, config: Config, *, rows: int, workers: int):
        count = STEPS * rows
        self._noise, self._rows, self._taken = _Noise(count, side=config.data.canvas_px or 0), rows, 0
        samples = Samples(self._noise, np.arange(count), np.zeros(count, np.int64), np.ones(count))
        cutting = build.cut_batches(config, rank=0, ranks=1)
        cutting = replace(cutting, batch=rows, microbatches=1, start_px=None, epochs=1)
        self._ahead = workers + 1 if workers else 0  # as the loader has it
        self._made = loader.train_batches(samples, cutting, start=Position(0, 0), epochs=1 << 30, workers=workers)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        self._taken += 1
        return next(self._made)

    def settle(self) -> None:
        """Waits until all that was begun is made: nothing goes on beside what comes next."""
        begun = (self._taken + self._ahead) * self._rows if self._taken else 0
        late = time.monotonic() + SETTLE_S
        while len(self._noise.reads) < begun and time.monotonic() < late:
            time.sleep(0.001)

    def close(self) -> None:
        self._made.close()


def seconds(config: Config) -> float:
    """Of making one image, on one thread."""
    made = Batches(config, rows=ROWS, workers=1)
    try:
        return median([batch.seconds for batch in itertools.islice(made, TIMED)][1:]) / ROWS
    finally:
        made.close()
