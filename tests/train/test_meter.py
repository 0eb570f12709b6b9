"""Which steps the energy of a run is of, and that a sum which lacks something is none."""

import itertools
import json
import platform
import time
from types import SimpleNamespace

import pytest
import torch

from fanlight import energy
from fanlight.energy import Reading, Unreadable
from fanlight.parallel import comm
from fanlight.train import meter
from fanlight.train.clock import WARMUP_STEPS
from fanlight.train.meter import Meter, Span
from train import colours as tiny

pytest_plugins = ["train.fixtures"]

BATCH, STEP_S, STEP_J = 8, 0.5, 10.0


class Counters:
    """Counters of a made machine on which each `step` takes STEP_S and STEP_J; each reading costs nothing."""

    def __init__(self, *, range_j: float = 1e6, lacking: dict[str, str] | None = None):
        self.steps, self.readings = 0, 0
        self.range_j, self.lacking = range_j, lacking or {}

    def read(self) -> Reading | Unreadable:
        self.readings += 1
        return Reading(
            self.steps * STEP_S, {"package-0": self.steps * STEP_J % self.range_j}, {"package-0": self.range_j}, self.lacking
        )  # fmt: skip


@pytest.fixture
def counters(monkeypatch) -> Counters:
    made = Counters()
    clocked(monkeypatch, made)
    return made


def clocked(monkeypatch: pytest.MonkeyPatch, made: Counters) -> None:
    """The meter's time is that of the made machine."""
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: made.steps * STEP_S))


def run(counters: Counters, *, epochs: int, steps: int, since: int = 0, first: int = 0, skipped: int = 0) -> Meter:
    """Epochs `first` … of `steps` steps, of the first of which `skipped` were done in an earlier start; between epochs the
    machine works as long for something else."""
    made = Meter(counters, since=since)
    for epoch in range(first, epochs):
        made.begin(epoch)
        mine = steps - skipped if epoch == first else steps
        for number in range(mine):
            counters.steps += 1
            made.stepped(is_last=number + 1 == mine)
        counters.steps += steps
    return made


def told(made: Meter) -> dict:
    return made.document(comm.alone(), batch=BATCH)


@pytest.mark.parametrize(
    ("about", "steps"),
    [
        ({"epochs": 3, "steps": 6}, 12),  # the first epoch is left out
        ({"epochs": 1, "steps": 20}, 20 - WARMUP_STEPS),
        ({"epochs": 1, "steps": WARMUP_STEPS}, WARMUP_STEPS),  # all there is
        ({"epochs": 5, "steps": 6, "since": 3}, 6),  # of the last kind there are two, and the first is left out
        ({"epochs": 4, "steps": 9, "since": 3}, 9 - WARMUP_STEPS),
        ({"epochs": 4, "steps": 9, "since": 1, "first": 2, "skipped": 4}, 9),  # continued within an epoch
        ({"epochs": 3, "steps": 9, "since": 1, "first": 2, "skipped": 2}, 7 - WARMUP_STEPS),
        ({"epochs": 1, "steps": 200}, 200 - WARMUP_STEPS),  # read in between, too
    ],
)
def test_energy_is_of_the_steady_steps(counters, about, steps):
    found = told(run(counters, **about))
    assert found["images"] == steps * BATCH and found["seconds"] == pytest.approx(steps * STEP_S)
    assert found["energy_j"] == pytest.approx(
        {"package-0": steps * STEP_J}
    )  # nothing of what the machine did in between
    assert found["j_per_image"] == pytest.approx(STEP_J / BATCH) and found["mean_w"] == pytest.approx(STEP_J / STEP_S)


def test_a_counter_that_starts_anew_is_read_in_time(monkeypatch):
    made = Counters(range_j=25_000.0)  # for 25 s at the most that a package takes
    clocked(monkeypatch, made)
    found = told(run(made, epochs=2, steps=10_000))
    assert found["energy_j"] == pytest.approx({"package-0": 10_000 * STEP_J}) and made.readings < 600


def test_a_counter_that_may_have_started_anew_twice_tells_nothing(monkeypatch):
    made = Counters(range_j=10_000.0)  # for 10 s, which is less than lies between two readings
    clocked(monkeypatch, made)
    started = run(made, epochs=3, steps=200)
    assert "which starts at 0 again every 10,000 J" in told(started)["reason"]
    assert started.epoch(2, comm.alone(), batch=BATCH) is None


def test_an_epoch_has_all_its_steps(counters):
    made = run(counters, epochs=2, steps=9)
    found = [made.epoch(epoch, comm.alone(), batch=BATCH) for epoch in range(3)]
    assert [each and each["images"] for each in found] == [9 * BATCH, 9 * BATCH, None]


def test_a_run_that_ends_within_an_epoch_has_what_was_read(counters):
    made = Meter(counters)
    made.begin(0)
    for _ in range(WARMUP_STEPS + 50):  # 25 s after the warm-up, of which 20 s are read
        counters.steps += 1
        made.stepped(is_last=False)
    assert told(made)["images"] == 40 * BATCH


def test_the_device_is_waited_for_before_each_reading(counters):
    waits = itertools.count()
    made = Meter(counters, settle=lambda: next(waits))
    made.begin(0)
    for number in range(9):
        counters.steps += 1
        made.stepped(is_last=number == 8)
    assert next(waits) == counters.readings == 3


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Meter(Counters()), "no step was left to be read"),
        (Meter(None), "no counter was asked"),
    ],
)
def test_nothing_is_told_of_nothing(made, reason):
    assert told(made) == {"reason": reason}


def test_what_cannot_be_read_says_why(tmp_path):
    made = Meter(energy.Counters(system=tmp_path))
    made.begin(0)
    made.stepped(is_last=True)
    assert told(made) == {"reason": energy.HIDDEN}
    assert made.epoch(0, comm.alone(), batch=BATCH) is None


def test_too_little_time_and_counters_that_stand_are_refused(counters):
    assert "the steady steps took 0.50 s, too little" in told(run(counters, epochs=2, steps=1))["reason"]
    span = Span(0, steps=9, seconds=9.0, joules={"package-0": 3.0, "package-1": 0.0})
    made = Meter(counters)
    made.spans.append(span)
    assert told(made)["reason"].startswith("the counter of package-1 stands still")


def test_machines_are_added_up():
    own = {"steps": 4, "seconds": 2.0, "joules": {"package-0": 6.0}, "lacking": {}}
    other = {"steps": 4, "seconds": 2.1, "joules": {"package-0": 10.0}, "lacking": {"gpu": "no driver"}}
    assert meter.summed([own, other], batch=2) == {
        "energy_j": {"machine-0/package-0": 6.0, "machine-1/package-0": 10.0}, "seconds": 2.0, "images": 8,
        "j_per_image": 2.0, "mean_w": 8.0, "lacking": {"gpu": "no driver"},
    }  # fmt: skip
    assert meter.summed([own, {"reason": "hidden"}], batch=2) == {"reason": "hidden"}


def test_readers_of_several_machines_tell_each_other(counters):
    """Ranks that read nothing tell nothing; of each machine one does."""
    other = {"steps": 12, "seconds": 6.0, "joules": {"package-0": 1.0}, "lacking": {}}
    world = SimpleNamespace(local_ranks=2, ranks=4, share=lambda own: [own, {}, other, {}])
    found = run(counters, epochs=3, steps=6).document(world, batch=BATCH)
    assert found["energy_j"] == {"machine-0/package-0": pytest.approx(12 * STEP_J), "machine-1/package-0": 1.0}


@pytest.mark.parametrize(
    ("layout", "local_rank", "gpus"),
    [
        ("ddp", 0, ["GPU-mine", "GPU-beside"]),  # of the ranks here, each once; not of another machine's
        ("dataparallel", 0, ["GPU-0", "GPU-1", "GPU-mine", "GPU-beside"]),  # every GPU that the process sees
        ("ddp", 1, None),  # another rank reads them
    ],
)
def test_gpus_are_those_that_this_machines_ranks_compute_on(monkeypatch, layout, local_rank, gpus):
    asked = []
    monkeypatch.setattr(meter, "Counters", lambda **about: asked.append(about["gpus"]))
    monkeypatch.setattr(meter.phases, "last_kind", lambda config: 0)
    seen = {2: "mine", 0: "0", 1: "1"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=seen[number]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    here = platform.node()
    world = SimpleNamespace(
        device=torch.device("cuda", 2), local_rank=local_rank,
        share=lambda own: [own, [here, "GPU-mine"], [here, "GPU-beside"], [f"{here}-2", "GPU-far"]],
    )  # fmt: skip
    Meter.of(SimpleNamespace(world=world, layout=SimpleNamespace(name=layout), config=None))
    assert asked == ([] if gpus is None else [gpus])


class Ticking(Counters):
    """From each reading to the next lie 10 made steps, in the time of this machine."""

    def __init__(self, **_: object):
        super().__init__(lacking={"gpu": "no driver"})

    def read(self) -> Reading:
        self.steps += 10
        found = super().read()
        return Reading(time.perf_counter(), found.joules, found.ranges, found.lacking)


@pytest.mark.parametrize(("frozen", "epochs"), [(0, 2), (1, 1)])
def test_a_run_says_what_it_took(colours, finished, own_place, monkeypatch, frozen, epochs):
    """Of three epochs, two steady ones, or one where the first trained the last layer alone."""
    monkeypatch.setattr(meter, "Counters", Ticking)
    monkeypatch.setattr(meter, "SECONDS_LEAST", 0.0)
    weights = str(finished / "weights/last.safetensors")
    run_folder = tiny.train(colours, epochs=3, model__weights=weights, model__freeze_epochs=frozen)
    found = tiny.summary(run_folder)["energy"]
    assert found["images"] == epochs * 48 and found["lacking"] == {"gpu": "no driver"}
    assert found["energy_j"] == {"package-0": pytest.approx(epochs * 10 * STEP_J)}  # an epoch has two readings
    assert found["mean_w"] * found["seconds"] == pytest.approx(epochs * 10 * STEP_J)
    assert [record["energy"]["images"] for record in tiny.metrics(run_folder, "train")] == [48, 48, 48]


def test_a_run_without_counters_says_why(finished):
    found = tiny.summary(finished)["energy"]
    if "reason" not in found:
        pytest.skip("this machine has counters that can be read")
    assert found["reason"] and json.dumps(found)
    assert all("energy" not in record for record in tiny.metrics(finished, "train"))
