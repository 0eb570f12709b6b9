"""Packing beside the decoding that it cannot do without: whole packs, and the same images on one thread.

Three ways in turns, each over all images. `one thread`: scaled decode and resize of bytes in memory, nothing else.
`processes`: the same in one process per core, which share no interpreter: what this machine's cores can give together.
`pack`: reading, hashing, decoding, writing and syncing, as `fanlight train` does it before a first run.

    python benchmarks/packing.py --data ../shared/data/weather4
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from fanlight import console, machine
from fanlight.data import canvas, checkup, pack
from hardware import heading, median_interval, ratio_interval

_files: list[bytes] = []
_canvas_px = 0


def decode(numbers: range) -> int:
    """Images decoded; in a forked process, whose memory has the bytes already."""
    for number in numbers:
        canvas.to_canvas(_files[number], _canvas_px)
    return len(numbers)


def rate(work: Callable[[], object]) -> float:
    """Images per second."""
    begin = time.perf_counter()
    work()
    return len(_files) / (time.perf_counter() - begin)


def main() -> None:
    global _canvas_px
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--canvas-px", type=int, default=192)
    parser.add_argument("--n", type=int, default=9, help="turns")
    parser.add_argument("--work", type=Path, default=Path("scratch/packing"), help="packs are made and removed here")
    arguments = parser.parse_args()
    cores, _canvas_px = machine.cores_usable(), arguments.canvas_px
    found = checkup.up_to_date(arguments.data, decode=False)
    layout = pack.plan(found, canvas_px=_canvas_px)
    _files.extend(found.read(int(row)) for row in layout.rows)
    shares = [range(start, len(_files), cores) for start in range(cores)]
    rates: dict[str, list[float]] = {"one thread": [], "processes": [], "pack": []}
    with multiprocessing.get_context("fork").Pool(cores) as pool, console.quiet():
        works = {
            "one thread": lambda: decode(range(len(_files))),
            "processes": lambda: pool.map(decode, shares, chunksize=1),
            "pack": lambda: pack.make(found, canvas_px=_canvas_px, parent=arguments.work, workers=cores),
        }
        for turn in range(arguments.n + 1):
            for name, work in works.items():
                shutil.rmtree(arguments.work, ignore_errors=True)
                measured = rate(work)
                if turn:  # the first warms files and libraries
                    rates[name].append(measured)
    shutil.rmtree(arguments.work, ignore_errors=True)
    print(heading(f"Packing {len(_files):,} images of {Path(arguments.data).name}, short side {_canvas_px} px"))
    print(f"n = {arguments.n} turns; 95 % bootstrap intervals of medians.\n")
    print("| | images/s | 95 % | of one thread, per core | 95 % |\n|---|--:|--:|--:|--:|")
    for name, values in rates.items():
        middle, low, high = median_interval(values)
        ratio = [
            value / (1 if name == "one thread" else cores) for value in ratio_interval(values, rates["one thread"])
        ]
        print(f"| {name} | {middle:.0f} | {low:.0f} … {high:.0f} | {ratio[0]:.3f} | {ratio[1]:.3f} … {ratio[2]:.3f} |")
    of = ratio_interval(rates["pack"], rates["processes"])
    print(f"\nPacking reaches {of[0]:.3f} ({of[1]:.3f} … {of[2]:.3f}) of what one process per core decodes.")


if __name__ == "__main__":
    main()
