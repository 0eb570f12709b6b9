"""One ddp point on two ranks, measured as a study measures it: `python limited.py DATA FOLDER` prints its row as JSON, with
`by_hand_s`, in which a bare loop exchanges as many bytes in as many messages. A process of its own: the test runs it where the
network is slow: on one link, or, with OTHER_PLACE, between two places."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fanlight import console
from fanlight.config import Config
from fanlight.parallel.launch import HEAVY, Pool
from fanlight.study.layouts import folder, job, measured
from fanlight.study.layouts.grid import Point
from fanlight.train import build, prepare
from fanlight.train.folder import read_config, read_manifest


def main(data: str, place: Path) -> None:
    values: dict[str, Any] = {
        "data.path": data, "model.name": "small-cnn", "train.epochs": 2, "train.evaluate_every": 2, "train.batch_size": 8,
        "train.precision": "fp32", "execution.threads": 1, "execution.layout": "ddp", "execution.ranks": 2,
        "execution.autotune": False, "execution.report": False, "augment.crop_share": (0.6, 1.0),
        "execution.bucket_mb": 64,  # all gradients in one, which is sent when they are all there: no computing hides it
    }  # fmt: skip
    run = place / "runs" / "ddp-0"
    places = ("two_places",) if "OTHER_PLACE" in os.environ else ()
    with console.quiet(also_warnings=True):
        prepare.prepare(Config().with_values(values), out=run, command="test")
        with Pool(2, threads=1, preload=(*HEAVY, *places)) as pool:
            pool.run(job.TRAIN, run=str(run), entered=time.time())
            blocks = pool.run(job.PROBE, run=str(run), block_s=0.5, repeats=2)
            rows = [row for rank in blocks for row in rank]
            folder.finish(run, {"point": "ddp", "round": 0, "busy_before": 0.0, "seconds": 0.0, "blocks": rows})
            row = measured.read(run, Point("ddp", 2, "fp32", "cpu", 1, 2))
            of_step, work_s = row["sent_bytes"]["gradients"] / (row["steps"] + row["warmup_steps"]), row["work_s"] / 2
            exchanged = {"numbers": round(of_step / 4), "norms": norms(run), "pause_s": work_s, "turns": 15}
            by_hand = pool.run("study.layouts.planted:exchange", **exchanged)
    print(json.dumps({**row, "by_hand_s": max(by_hand)}))


def norms(run: Path) -> int:
    """Layers whose statistics the ranks exchange."""
    model = build.create_model(read_config(run), read_manifest(run), resumed=True).model
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
