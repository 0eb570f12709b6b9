"""A study's rounds on runs that are made up in no time."""

import time
from pathlib import Path

from fanlight.errors import TrainingError
from fanlight.study.layouts import grid
from fanlight.study.layouts.runner import Runner
from study.layouts import folders

POINTS = grid.points(cores=2, gpus=0, names=["ddp", "fsdp"], precisions=["fp32"], device="cpu")
NAMES = [point.name for point in POINTS]


class Killed(BaseException):
    """In place of a SIGKILL, which leaves everything as it is."""


class Trial(Runner):
    """Runs are folders with known figures; `stop_at` is the number of the run in which someone kills the study."""

    stop_at = -1
    spread = 0.0  # of ddp's rates over rounds
    drift = 0.0  # of all points' rates over rounds
    seen: list[tuple[str, int]]

    def _train_and_probe(self, point, number, run):
        self.seen.append((point.name, number))
        if len(self.seen) == self.stop_at:
            run.mkdir(parents=True)
            (run / "run.json").write_text("{}")  # half a run
            raise Killed
        if point.name == "fsdp-2-fp32":
            raise TrainingError("rank 1 was killed by SIGKILL\nand more")
        uneven = self.spread if point.layout == "ddp" else 0.0
        folders.run(self.study, point, number, compute=0.08 * (1 + uneven * (number % 2)) * (1 + self.drift * number))


def trial(study: Path, **about) -> Trial:
    found = Trial(study, None, POINTS, block_s=1.0, repeats=1, begun=time.monotonic(), **about)  # type: ignore[arg-type]
    found.seen = []
    return found


def runs(study: Path) -> set[str]:
    return {path.name for path in (study / "runs").iterdir()}


class OfRanks:
    """In place of a pool: what its ranks would answer, in turn."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def run(self, job, **_):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer]
