"""A program of somebody else, beside the ranks of a run: while two of them compute (files busy-* in the folder), it copies
memory that no cache holds. `python hog.py FOLDER`; ends with whoever started it."""

import os
import sys
import time
from pathlib import Path

import numpy as np

BYTES = 64 << 20  # twice the largest cache
SLICE = 2 << 20  # between two looks at who computes


def main(folder: Path, parent: int) -> None:
    source, target = np.ones(BYTES, np.uint8), np.empty(BYTES, np.uint8)
    at = 0
    while os.getppid() == parent:
        if len(list(folder.glob("busy-*"))) < 2:
            time.sleep(0.0005)
            continue
        target[at : at + SLICE] = source[at : at + SLICE]
        at = (at + SLICE) % BYTES


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.getppid())
