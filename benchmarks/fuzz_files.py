"""Does a damaged file ever end a check, hang it, or fill the memory? Mutates files of a folder and checks them all.

    python benchmarks/fuzz_files.py --data ../shared/data/weather4 --count 10000 --px 160 --work scratch/fuzz

Each file is one of the folder's images (shrunk to `--px`, and stored in turn as JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM), with
some bytes changed, a piece taken out or repeated, its end cut off, or a number made as large as can be; one in a hundred is
whole. Each is decoded alone, timed, and must be kept or have a reason. Peak memory is the process's.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from fanlight.data import canvas
from hardware import heading

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
WHOLE_ONE_IN = 100


def originals(data: Path, *, px: int, most: int) -> list[bytes]:
    """Images of the folder, small, each in the next of the formats."""
    found: list[bytes] = []
    for path in sorted(item for item in data.rglob("*") if item.is_file()):
        try:
            pixels = canvas.to_canvas(path.read_bytes(), px)
        except canvas.Unreadable:
            continue
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, FORMATS[len(found) % len(FORMATS)])
        found.append(file.getvalue())
        if len(found) == most:
            break
    return found


def mutated(data: bytes, draws: np.random.Generator) -> bytes:
    """Near its beginning three times out of four: that is where headers are."""
    out = bytearray(data)
    span = len(out) if draws.random() < 0.25 else min(len(out), 512)
    start = int(draws.integers(0, span))
    end = start + int(draws.integers(1, 256))
    kind = int(draws.integers(0, 5))
    if kind == 0:
        for at in draws.integers(0, span, int(draws.integers(1, 17))):
            out[at] = int(draws.integers(0, 256))
    elif kind == 1:
        del out[start:end]
    elif kind == 2:
        out[start:start] = out[start:end] * int(draws.integers(1, 9))
    elif kind == 3:
        del out[int(draws.integers(0, len(out))) :]
    else:
        out[start : start + 4] = (b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", bytes(4))[int(draws.integers(0, 3))]
    return bytes(out)


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with images, at any depth")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--px", type=int, default=160, help="short side of the images that are damaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("scratch/fuzz"), help="the slowest file is left here")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)

    whole = originals(arguments.data, px=arguments.px, most=200)
    if not whole:
        sys.exit(f"no image can be read in {arguments.data}")
    before = peak_bytes()
    outcomes: Counter[str] = Counter()
    seconds = []
    slowest = (0.0, b"")
    for number in range(arguments.count):
        draws = np.random.default_rng((arguments.seed, number))
        data = whole[number % len(whole)]
        data = data if number % WHOLE_ONE_IN == 0 else mutated(data, draws)
        begin = time.perf_counter()
        try:
            head = canvas.header(data)
            pixels = canvas.to_canvas(data, 256)
            assert pixels.shape[1::-1] == canvas.canvas_size(head.width, head.height, 256)
            outcome = "kept"
        except canvas.Unreadable as error:
            word = error.reason.split()[0]
            outcome = "too many pixels" if "x" in word and word[0].isdigit() else word
        took = time.perf_counter() - begin
        assert number % WHOLE_ONE_IN or outcome == "kept", f"whole file {number} was {outcome}"
        outcomes[outcome] += 1
        seconds.append(took)
        slowest = max(slowest, (took, data), key=lambda each: each[0])

    (arguments.work / "slowest").write_bytes(slowest[1])
    kept = outcomes.pop("kept", 0)
    found = {
        "files": arguments.count, "kept": kept, "quarantined": sum(outcomes.values()),
        "by_first_word": dict(outcomes.most_common()),
        "median_ms": 1e3 * float(np.median(seconds)), "slowest_ms": 1e3 * slowest[0], "slowest_bytes": len(slowest[1]),
        "peak_bytes": peak_bytes(), "peak_growth_bytes": peak_bytes() - before,
    }  # fmt: skip
    print(heading("Damaged files, checked one by one"))
    print(json.dumps(found, indent=1))
    print(f"slowest file: {arguments.work / 'slowest'}")


if __name__ == "__main__":
    main()
