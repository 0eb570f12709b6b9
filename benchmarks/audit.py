"""Does the audit find the copies that were planted, only those, and in near-linear time?

`made`: 300 photos and tiles, each 20 times as LC25000 was augmented (Augmentor: turned by up to 25° and cropped to what is
whole, flipped left-right and top-bottom, each with probability 1/2; written as JPEG): pairs found, pairs that are true,
adjusted Rand index. `planted`: clean pictures with known copies among them. `growth`: seconds at 10,000, 30,000 and 100,000
photo-like pictures, beside decoding each of them once. `frames`: runs of film frames against those in the files' names.

    python benchmarks/audit.py made --data ../shared/data --work scratch/audit
    python benchmarks/audit.py planted --data ../shared/data --work scratch/audit --count 10000
    python benchmarks/audit.py growth --work scratch/audit --counts 10000 30000 100000
    python benchmarks/audit.py frames --data ../shared/data/asl29/train --scene 500 --work scratch/audit
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from fanlight import console, machine
from fanlight.data import audit, canvas, formats, scan
from fanlight.data.manifest import Manifest
from hardware import heading

SIDE_PX = 256  # of a base's short side
DECODE_PX = 256  # of `decoding once`: what a scan decodes
BASES = ("weather4", "lungcolon", "flickr700")


def manifest_of(folder: Path) -> Manifest:
    """Scanned, with every file decoded, so that truncated ones are in quarantine."""
    return scan.scan(formats.recognise(str(folder), cache=folder / "none"), decode=True)


def photos(data: Path) -> Iterator[Path]:
    """Files of the base sets in turn, so that any number of them has something of each."""
    random = np.random.default_rng(0)
    sets = [sorted(path for path in (data / name).rglob("*") if path.suffix in (".jpg", ".jpeg")) for name in BASES]
    orders = [iter(np.array(files, object)[random.permutation(len(files))]) for files in sets]
    while orders:
        for order in list(orders):
            path = next(order, None)
            if path is None:
                orders.remove(order)
            else:
                yield path


def bases(data: Path, count: int, *, work: Path) -> list[np.ndarray]:
    """BGR pictures of which none is a copy of another: what a thorough audit of the sets themselves leaves."""
    folder = work / "sources"
    shutil.rmtree(folder, ignore_errors=True)
    for name in "ab":
        (folder / name).mkdir(parents=True)
    for number, path in zip(range(3 * count), photos(data)):
        image = read(path)
        if image is not None:
            write(folder / "ab"[number % 2] / f"{number:05d}.jpg", image, quality=95)
    found = manifest_of(folder)
    groups = audit.find(found, thorough=True, workers=machine.cores_usable()).component
    first = {int(groups[row]): int(row) for row in found.rows()[::-1] if groups[row] >= 0}
    chosen = [int(row) for row in found.rows() if groups[row] < 0 or first[int(groups[row])] == row][:count]
    return [cv2.imdecode(np.frombuffer(found.read(row), np.uint8), cv2.IMREAD_COLOR) for row in chosen]


def read(path: Path) -> np.ndarray | None:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None or min(image.shape[:2]) < 100:
        return None
    scale = SIDE_PX / min(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def write(path: Path, image: np.ndarray, *, quality: int = 90) -> None:
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def turned(image: np.ndarray, degrees: float, *, keep_shape: bool = False) -> np.ndarray:
    """Turned about its centre, cut to the largest upright rectangle that is whole, and back at its own size, which
    stretches what is not square (as Augmentor does); `keep_shape`: cut to the largest of the picture's own shape."""
    height, width = image.shape[:2]
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    long, short = max(width, height), min(width, height)
    if keep_shape:
        share = 1 / (cosine + sine * long / short)
        inner = (width * share, height * share)
    elif short <= 2 * sine * cosine * long:
        half = 0.5 * short
        inner = (half / sine, half / cosine) if width >= height else (half / cosine, half / sine)
    else:
        square = cosine * cosine - sine * sine
        inner = ((width * cosine - height * sine) / square, (height * cosine - width * sine) / square)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    whole = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    across, down = int(inner[0]), int(inner[1])
    left, top = (width - across) // 2, (height - down) // 2
    return cv2.resize(whole[top : top + down, left : left + across], (width, height), interpolation=cv2.INTER_CUBIC)


def augmented(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    image = turned(image, random.uniform(-25, 25))
    image = image[:, ::-1] if random.random() < 0.5 else image
    return image[::-1] if random.random() < 0.5 else image


def pair_scores(truth: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Recall and precision of pairs, and the adjusted Rand index (Hubert and Arabie 1985), from two labelings."""
    table = np.zeros((truth.max() + 1, found.max() + 1), np.int64)
    np.add.at(table, (truth, found), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) // 2).sum())

    both, true, said = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = true * said / pairs(np.array([len(truth)]))
    return both / max(true, 1), both / max(said, 1), (both - chance) / max((true + said) / 2 - chance, 1e-9)


def labels(found: audit.Audit, rows: np.ndarray) -> np.ndarray:
    """Group numbers, the lone ones each of its own."""
    groups = found.component[rows]
    return np.where(groups >= 0, groups, len(found.names) + np.arange(len(rows)))


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Wall seconds, processor seconds, result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def decoded_once(manifest: Manifest) -> float:
    """Processor seconds of reading and decoding every image on one thread."""
    return timed(lambda: [canvas.to_canvas(manifest.read(int(row)), DECODE_PX) for row in manifest.rows()])[1]


def made(arguments: argparse.Namespace) -> None:
    random, folder = np.random.default_rng(0), arguments.work / "made"
    originals = bases(arguments.data, arguments.bases, work=arguments.work)
    shutil.rmtree(folder, ignore_errors=True)
    for name in "ab":
        (folder / name).mkdir(parents=True)
    order = random.permutation(len(originals) * arguments.copies)
    for place, number in enumerate(order):  # names say nothing of the truth
        write(
            folder / "ab"[place * 2 // len(order)] / f"{place:06d}.jpg",
            augmented(originals[number // arguments.copies], random),
        )
    truth = order // arguments.copies
    manifest = manifest_of(folder)
    print(heading(f"Audit: {len(originals)} pictures × {arguments.copies} copies as LC25000 was made"))
    print("| audit | pair recall | pair precision | adjusted Rand | groups | processor s | of decoding once |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    once = decoded_once(manifest)
    for name, thorough in (("quick", False), ("thorough", True)):
        _, cpu, found = timed(lambda thorough=thorough: fresh(manifest, thorough=thorough))
        assert isinstance(found, audit.Audit)
        scores = pair_scores(truth, labels(found, manifest.rows()))
        print(
            f"| {name} | {' | '.join(f'{score:.4f}' for score in scores)} | {len(found.names)} | {cpu:.0f} | {cpu / once:.1f} |"
        )


def fresh(manifest: Manifest, *, thorough: bool) -> audit.Audit:
    shutil.rmtree(Path(os.environ["FANLIGHT_CACHE"]) / "audits", ignore_errors=True)
    return audit.find(manifest, thorough=thorough, workers=machine.cores_usable())


def recoded(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    scale = random.uniform(0.6, 1.0)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.clip(image * random.uniform(0.8, 1.2) + random.uniform(-15, 15), 0, 255).astype(np.uint8)


def cropped(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half to nine tenths of the picture, anywhere, of its own shape, and back at its own size."""
    height, width = image.shape[:2]
    side = math.sqrt(random.uniform(0.5, 0.9))
    down, across = int(height * side), int(width * side)
    top, left = int(random.integers(0, height - down + 1)), int(random.integers(0, width - across + 1))
    part = image[top : top + down, left : left + across]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC)


def planted(arguments: argparse.Namespace) -> None:
    """Clean pictures are photo-like ones, real ones as far as they go; a tenth of the set are copies, in seven kinds."""
    random, root = np.random.default_rng(0), arguments.work / "planted"
    shutil.rmtree(root, ignore_errors=True)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
    each = arguments.count // 70
    real = bases(arguments.data, min(7 * each, 1500), work=arguments.work)
    clean = arguments.count - 7 * each
    names = np.array([f"{number:06d}" for number in random.permutation(arguments.count)])
    for number in range(clean):
        image = real[number] if number < len(real) else picture(number)
        write(root / "ab"[number % 2] / f"{names[number]}.jpg", image, quality=92)
    kinds = ("exact", "flipped", "turned", "turned, stretched", "cropped", "re-encoded", "other label")
    for place in range(7 * each):
        kind, original = kinds[place % 7], place % max(len(real), 1)
        name, image = names[clean + place], real[original]
        same, other = "ab"[original % 2], "ba"[original % 2]
        target = root / (other if kind == "other label" else same) / f"{name}.jpg"
        if kind in ("exact", "other label"):
            shutil.copy(root / same / f"{names[original]}.jpg", target)
        elif kind == "flipped":
            write(target, (image[:, ::-1], image[::-1], image[::-1, ::-1], np.rot90(image))[place // 7 % 4])
        elif kind.startswith("turned"):
            degrees = float(random.uniform(5, 45) * random.choice([-1, 1]))
            write(target, turned(image, degrees, keep_shape=kind == "turned"))
        elif kind == "cropped":
            write(target, cropped(image, random), quality=int(random.integers(60, 95)))
        else:
            write(target, recoded(image, random), quality=int(random.integers(30, 95)))
    for number in range(20):  # truncated files, for the scan to quarantine
        data = (root / "a").glob("*.jpg").__next__().read_bytes()
        (root / "b" / f"cut-{number}.jpg").write_bytes(data[: len(data) // 2 + number])
    report_planted(root, names, clean=clean, real=len(real), kinds=kinds)


def report_planted(root: Path, names: np.ndarray, *, clean: int, real: int, kinds: tuple[str, ...]) -> None:
    manifest = manifest_of(root)
    rows = {Path(path).stem: row for row, path in enumerate(manifest.column("path"))}
    row_of = np.array([rows[name] for name in names])
    copied = {place % max(real, 1) for place in range(len(names) - clean)}
    alone = np.array([row_of[number] for number in range(clean) if number not in copied])
    quarantined = int((~manifest.ok).sum())
    print(heading(f"Audit: {len(names) - clean:,} copies among {len(names):,} pictures, {quarantined} truncated"))
    print("| audit | " + " | ".join(kinds) + " | clean in a group | processor s | of decoding once |")
    print("|---|" + "--:|" * (len(kinds) + 3))
    once = decoded_once(manifest)
    for title, thorough in (("quick", False), ("thorough", True)):
        _, cpu, found = timed(lambda thorough=thorough: fresh(manifest, thorough=thorough))
        assert isinstance(found, audit.Audit)
        hits: dict[str, list[bool]] = {kind: [] for kind in kinds}
        for place in range(len(names) - clean):
            group = found.component[row_of[clean + place]]
            hits[kinds[place % 7]].append(bool(group >= 0 and group == found.component[row_of[place % real]]))
        cells = " | ".join(f"{np.mean(values):.4f}" for values in hits.values())
        false = float((found.component[alone] >= 0).mean()) if len(alone) else 0.0
        print(f"| {title} | {cells} | {false:.5f} of {len(alone):,} | {cpu:.0f} | {cpu / once:.1f} |")


def picture(number: int) -> np.ndarray:
    """Photo-like, 256 px: smooth noise with amplitudes ~ 1/f in three colours, and shapes with edges."""
    random = np.random.default_rng(number)
    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.float32)
    for level in range(2, 8):
        noise = random.normal(0, 1, (2**level, 2**level, 3)).astype(np.float32)
        image += cv2.resize(noise, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC) * 60 / 2 ** (level - 2)
    image = np.clip(image + random.uniform(90, 160, 3), 0, 255).astype(np.uint8)
    for _ in range(int(random.integers(3, 12))):
        middle = tuple(int(value) for value in random.integers(0, SIDE_PX, 2))
        axes = tuple(int(value) for value in random.integers(6, 60, 2))
        colour = tuple(int(value) for value in random.integers(0, 255, 3))
        cv2.ellipse(image, middle, axes, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return image


def growth(arguments: argparse.Namespace) -> None:
    root, label = arguments.work / "growth", ("a", "b")
    for name in label:
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(max(arguments.counts)):
        path = root / label[number % 2] / f"p{number:06d}x{number * 7919 % 1000}.jpg"
        if not path.exists():
            write(path, picture(number))
    whole = manifest_of(root)
    order = np.argsort([Path(path).name for path in whole.column("path")], kind="stable")
    print(heading("Audit: growth with the number of pictures"))
    print(
        "| pictures | decoding once, processor s | quick, processor s | × | thorough, processor s | × | thorough, wall s |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|")
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for count in arguments.counts:
        part = whole.take(np.sort(order[:count]))
        once, cells, wall = decoded_once(part), [], 0.0
        for thorough in (False, True):
            wall, cpu, _ = timed(lambda part=part, thorough=thorough: fresh(part, thorough=thorough))
            seconds[thorough].append(cpu)
            cells.append(f"{cpu:.1f} | {cpu / once:.2f}")
        print(f"| {count:,} | {once:.1f} | {' | '.join(cells)} | {wall:.1f} |", flush=True)
    for thorough, name in ((False, "quick"), (True, "thorough")):
        if len(arguments.counts) > 1:
            slope = np.polyfit(np.log(arguments.counts), np.log(seconds[thorough]), 1)[0]
            print(
                f"\n{name}: processor seconds grow as N^{slope:.2f}, least squares over {len(arguments.counts)} sizes."
            )


def frames(arguments: argparse.Namespace) -> None:
    """Truth: files of one folder whose last numbers are of the same `--scene` numbers are one film."""
    manifest = manifest_of(arguments.data)
    rows = manifest.rows()
    paths = manifest.column("path")[rows]
    scenes = [
        f"{Path(path).parent} {int(re.findall('[0-9]+', Path(path).stem)[-1]) // arguments.scene}" for path in paths
    ]
    truth = np.unique(scenes, return_inverse=True)[1]
    found = fresh(manifest, thorough=False)
    said = np.where(found.run[rows] >= 0, found.run[rows], len(found.run_names) + np.arange(len(rows)))
    recall, precision, rand = pair_scores(truth, said)
    print(heading(f"Audit: frames of {arguments.data.name}, {len(rows):,} files in {truth.max() + 1} films"))
    print(f"{len(found.run_names)} runs; pair recall {recall:.4f}, precision {precision:.4f}, adjusted Rand {rand:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["made", "planted", "growth", "frames"])
    parser.add_argument(
        "--data", type=Path, help="folder with weather4, lungcolon and flickr700; for frames, the data set"
    )
    parser.add_argument("--work", type=Path, required=True, help="images and cache are written here")
    parser.add_argument("--bases", type=int, default=300)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--scene", type=int, default=500)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ["FANLIGHT_CACHE"] = str((arguments.work / "cache").resolve())
    works = {"made": made, "planted": planted, "growth": growth, "frames": frames}
    with console.quiet():
        works[arguments.what](arguments)


if __name__ == "__main__":
    main()
