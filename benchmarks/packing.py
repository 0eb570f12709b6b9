"""Packing beside the decoding that it cannot do without: whole packs by every engine, and the same images on one thread.

Ways in turns, each over all images. `decode`: scaled decode and resize of bytes in memory by one thread, nothing else.
`decode together`: the same in one process per core, which share no interpreter: what this machine's cores can give.
`pack serial`, `pack threads`, `pack processes`: reading, hashing, decoding, writing and syncing, by an engine that is open
already; `fanlight train` packs by threads before a first run.

    python benchmarks/packing.py --data ../shared/data/weather4
    python benchmarks/packing.py --data photos --ways pack --n 5
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from fanlight import console, machine
from fanlight.data import canvas, checkup, engines, pack
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
    parser.add_argument("--ways", default="", help="those whose names begin so")
    parser.add_argument("--work", type=Path, default=Path("scratch/packing"), help="packs are made and removed here")
    arguments = parser.parse_args()
    cores, _canvas_px = machine.cores_usable(), arguments.canvas_px
    found = checkup.up_to_date(arguments.data, decode=False)
    layout = pack.plan(found, canvas_px=_canvas_px)
    _files.extend(found.read(int(row)) for row in layout.rows)
    shares = [range(start, len(_files), cores) for start in range(cores)]
    with ExitStack() as stack, console.quiet():
        pool = stack.enter_context(multiprocessing.get_context("fork").Pool(cores))
        works: dict[str, Callable[[], object]] = {
            "decode": lambda: decode(range(len(_files))),
            "decode together": lambda: pool.map(decode, shares, chunksize=1),
        }
        starts = {}
        for name in ("serial", "threads", "processes"):
            begin = time.perf_counter()
            engine = stack.enter_context(engines.of(name, workers=1 if name == "serial" else cores))
            starts[name] = time.perf_counter() - begin
            works[f"pack {name}"] = partial(
                pack.make, found, canvas_px=_canvas_px, parent=arguments.work, engine=engine
            )
        works = {name: work for name, work in works.items() if name.startswith(arguments.ways)}
        rates: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(arguments.n + 1):
            for name, work in works.items():
                shutil.rmtree(arguments.work, ignore_errors=True)
                measured = rate(work)
                if turn:  # the first warms files and libraries
                    rates[name].append(measured)
    shutil.rmtree(arguments.work, ignore_errors=True)
    print(heading(f"Packing {len(_files):,} images of {Path(arguments.data).name}, short side {_canvas_px} px"))
    print(f"n = {arguments.n} turns; 95 % bootstrap intervals of medians.\n")
    print("Starting took", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in starts.items()), "once.\n")
    first, *_ = works
    print(f"| | images/s | 95 % | over {first} | 95 % |\n|---|--:|--:|--:|--:|")
    for name, values in rates.items():
        middle, low, high = median_interval(values)
        ratio = ratio_interval(values, rates[first])
        print(f"| {name} | {middle:.0f} | {low:.0f} … {high:.0f} | {ratio[0]:.3f} | {ratio[1]:.3f} … {ratio[2]:.3f} |")


if __name__ == "__main__":
    main()
