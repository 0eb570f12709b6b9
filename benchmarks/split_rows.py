"""How long does it take to split a million images, and how much memory?

A manifest of made-up rows: 50 classes of uneven size, a tenth of the rows in given groups, a twentieth found to be copies of
others by an audit. Loading, splitting and saving are timed; memory is the process's peak.

    python benchmarks/split_rows.py --rows 1000000 --work scratch/rows
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import time
from pathlib import Path

import numpy as np

from fanlight.data import manifest as manifests
from fanlight.data import split
from fanlight.data.manifest import Manifest
from hardware import heading


def made_up(count: int) -> Manifest:
    rng = np.random.default_rng(0)
    hashes = np.array([hashlib.sha256(str(row).encode()).hexdigest() for row in range(count)], object)
    group, copies = hashes.copy(), np.full(count, "", object)
    films = rng.choice(count, count // 10, replace=False)
    group[films] = [f"film {film}" for film in films // 200]
    pictures = rng.choice(count, count // 20, replace=False)
    copies[pictures] = hashes[pictures // 8]
    columns = {field.name: [1 if field.type != "string" else ""] * count for field in manifests.SCHEMA}
    columns |= {
        "path": [f"class {row % 50:02d}/{row:08d}.jpg" for row in range(count)],
        "sha256": hashes,
        "group": group,
    }
    columns |= {"label": [f"class {row % 50:02d}" for row in range(count)], "copies": copies, "status": ["ok"] * count}
    columns |= {name: [""] * count for name in ("split", "captions", "weight", "format", "reason")}
    return Manifest.of(manifests.table_of(columns), root=Path("/nowhere"), source="made up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, required=True)
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    path = a.work / f"manifest-{a.rows}.parquet"
    if not path.exists():
        made_up(a.rows).save(path)
        print(f"{path} is written; run the same command again, so that the memory of making it does not count")
        return
    begin = time.perf_counter()
    manifest = manifests.load(path)
    loaded = time.perf_counter()
    found = split.assign(manifest, val_fraction=0.2, seed=0)
    done = time.perf_counter()
    found.save(a.work / "split.parquet")
    saved = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(heading(f"Splitting {a.rows:,} rows"))
    print("| loading | splitting | saving | peak memory of the process | val |\n|--:|--:|--:|--:|--:|")
    share = len(found.rows("val")) / len(found)
    print(f"| {loaded - begin:.1f} s | {done - loaded:.1f} s | {saved - done:.1f} s | {peak:.0f} MiB | {share:.4f} |")


if __name__ == "__main__":
    main()
