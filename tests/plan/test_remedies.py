"""What is said where nothing fits, followed to the letter: with it, it fits."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.models import recompute, zoo
from fanlight.plan import band, choose, planning, remedies
from fanlight.plan.choose import Candidate, Question
from fanlight.plan.cluster import Device
from plan import jobs
from plan.made import chain, machine
from plan.test_measure import made

NETWORKS = {
    "activations": chain(8, tensors=(1000,), kept_bytes=1e7, sent_bytes=1e5),
    "weights": chain(8, tensors=(2_000_000,), kept_bytes=1e6, sent_bytes=1e4),
    "uneven": [
        *chain(2, tensors=(10_000,), kept_bytes=3e7, sent_bytes=3e6),
        *chain(6, tensors=(1_000_000,), kept_bytes=2e6, sent_bytes=2e5, pairs=(1e4,), divided=0.9),
    ],
}
LAYOUTS = {
    "serial": 1, "ddp": 2, "fsdp": 4, "pipeline": 4, "model-parallel": 4, "tensor": 2, "replicate=2,pipe=2": 4, "hsdp": 4
}  # fmt: skip
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def question(
    network: str, *, memory_bytes: float = 1e15, calibration=None, kind: str = "cuda", values=None, **more
) -> Question:
    config = replace(jobs.config(train__batch_size=64), asked=frozenset()).with_values(values or {})
    if calibration is not None:
        config = config.with_value("model.name", "small-cnn")
    blocks = [replace(each, flop=1e9, backward_flop=2e9) for each in NETWORKS[network]]
    cluster = replace(
        machine(devices=4, kind=kind),
        device=Device(kind, "made", memory_bytes * (4 if kind == "cpu" else 1), {} if calibration else {"fp32": 1e12}, 1.0),
    )  # fmt: skip
    return Question(config, blocks, more.pop("images", 100_000), cluster, calibration, 64, **more)


@pytest.fixture(autouse=True)
def _without_bands(monkeypatch):
    """Which take most of a prediction's time, and say nothing of memory."""
    monkeypatch.setattr(band, "around", lambda rate, machines, noise: (0.0, 0.0))


def predicted(about: Question, name: str) -> Candidate:
    return choose.predicted(about, name, ranks=LAYOUTS[name], number_format="fp32")


def followed(about: Question, words: str) -> Question:
    """The question that a user asks who does as the words say."""
    words = re.sub(r"--batch-size (\d+)", r"--set train.batch_size=\1", words)
    values: dict[str, object] = dict(re.findall(r"--set (\S+?)=(\w+)", words))
    return replace(
        about,
        config=about.config.with_values(values),
        asked=about.asked and about.asked.with_values(values),
        is_weak=about.is_weak and "train.batch_size" not in values,
    )


def ways(told: str) -> list[tuple[str, float | None]]:
    """Each way out that a message names: what to say, and on machines of how many bytes for a rank."""
    if "even one" not in told:
        return [(each, None) for each in told.rpartition("; use ")[2].split(" or ")]
    machines = told.rpartition("use machines with ")[2].partition(";")[0]
    found = re.findall(r"([\d.]+) (.B) or more for a rank(, with [^,]*)?", machines)
    assert found, told
    return [(words, float(count) * UNITS[unit]) for count, unit, words in found]


def check_all(about: Question, name: str) -> list[str]:
    """Every way out of a plan that does not fit; what they were."""
    one = predicted(about, name)
    assert not one.fits and "too much" in one.reason
    told = remedies.nothing_fits([one], about)
    for words, memory_bytes in ways(told):
        after = followed(about, words)
        if memory_bytes is not None:
            of_node = memory_bytes * (LAYOUTS[name] if about.cluster.device.kind == "cpu" else 1)
            after = replace(
                after, cluster=replace(about.cluster, devices=4, device=replace(about.cluster.device, memory_bytes=of_node))
            )  # fmt: skip
        found = predicted(after, name)
        assert found.fits, (told, words, found.reason)
    return [words for words, _ in ways(told)]


@pytest.mark.parametrize("room", [0.9, 0.4, 0.03])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_way_out_fits(network, name, room):
    whole = predicted(question(network), name)
    if not whole.fits:
        assert name == "tensor" and "no block" in whole.reason
        return
    for is_weak in (False, True):
        about = question(network, is_weak=is_weak)
        limit = room * predicted(about, name).bytes / choose.MEMORY_SHARE
        check_all(question(network, memory_bytes=limit, is_weak=is_weak), name)


@pytest.mark.parametrize("name", ["serial", "ddp"])
def test_every_way_out_fits_on_a_machine_like_the_measured_one(name):
    """What a process takes beside a step is what was measured, whatever the next step's microbatches."""
    calibration = made()
    held = {n: replace(each, base_bytes=10**8, peak_bytes=6 * 10**8) for n, each in calibration.by_ranks.items()}
    calibration = replace(calibration, by_ranks=held, shares={"fp32": calibration.shares["fp32"] * 4})
    whole = predicted(question("activations", calibration=calibration, kind="cpu"), name)
    limit = 0.7 * whole.bytes / choose.MEMORY_SHARE
    about = question("activations", calibration=calibration, kind="cpu", memory_bytes=limit * 4 / LAYOUTS[name])
    about = replace(
        about, cluster=replace(about.cluster, device=replace(about.cluster.device, memory_bytes=limit * LAYOUTS[name]))
    )
    assert any("train.microbatches" in words for words in check_all(about, name))


def test_a_pipeline_that_chooses_its_microbatches_is_told_a_batch_with_those_it_then_has():
    """Fewer images leave it fewer microbatches, so a smaller batch saves less than its share."""
    about = question("activations")
    whole, half = (predicted(followed(about, f"--batch-size {n}"), "pipeline") for n in (64, 32))
    assert half.microbatches < whole.microbatches
    check_all(question("activations", memory_bytes=0.999 * half.bytes / choose.MEMORY_SHARE), "pipeline")


def test_two_changes_are_named_where_neither_is_enough():
    about = question("activations", values={"train.microbatches": 4})
    alone = predicted(followed(about, "--batch-size 4"), "serial").bytes
    both = predicted(followed(about, "--batch-size 4 --set execution.recompute=true"), "serial").bytes
    limit = (alone + both) / 2 / choose.MEMORY_SHARE
    told = check_all(question("activations", values={"train.microbatches": 4}, memory_bytes=limit), "serial")
    assert len(told) == 1 and "--batch-size" in told[0] and "--set execution.recompute=true" in told[0]


@pytest.mark.parametrize("room", [0.5, 0.03])
def test_recomputing_is_not_named_where_training_refuses_it(room):
    whole = predicted(question("activations"), "serial").bytes
    for more in ({"unrecomputed": "no blocks that repeat"}, {"values": {"execution.compile": True}}):
        about = question("activations", memory_bytes=room * whole / choose.MEMORY_SHARE, **more)
        assert not any("recompute" in words for words in check_all(about, "serial"))


def test_a_batch_too_large_for_the_data_is_no_way_out():
    about = question("activations", images=2000, is_weak=True)
    limit = 0.03 * predicted(about, "ddp").bytes / choose.MEMORY_SHARE
    about = question("activations", images=2000, is_weak=True, memory_bytes=limit)
    assert all("--batch-size" in words for words in check_all(about, "ddp"))


def test_another_algorithm_is_not_what_is_made_to_fit():
    """local-sgd is never chosen, so advice for it would leave nothing that fits."""
    about = question("weights", memory_bytes=1e6)
    ddp, other = (choose.predicted(about, name, ranks=2, number_format="fp32") for name in ("ddp", "local-sgd"))
    told = remedies.nothing_fits([ddp, replace(other, bytes=ddp.bytes / 2)], about)
    assert "nothing fits: ddp on 2" in told


def test_recomputing_is_refused_before_anything_is_measured(monkeypatch):
    """Of a network without blocks that repeat: in training's own words."""
    config = Config().with_values(
        {"model.name": "lenet5", "data.image_px": 32, "execution.recompute": True, "train.precision": "fp32"}
    )
    monkeypatch.setattr(planning, "resolved", lambda config, **_: (config, SimpleNamespace(classes=["a", "b"])))
    monkeypatch.setattr(planning.measure, "calibrate", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=r"execution.recompute: \w+ has no blocks that repeat"):
        planning.foretold(config, planning.Wanted())
    assert recompute.why_not(zoo.create("resnet18", classes=3, image_px=32, seed=0).model) == ""
