"""Batches that were left open: each layout's knee, what limits it, and where it is measured."""

from dataclasses import replace

import pytest

from fanlight.plan import batches, choice, choose
from fanlight.plan.cluster import Device
from fanlight.train import batchsize
from fanlight.train.batchsize import WORTH
from plan import jobs
from plan.made import chain
from plan.test_choose import BLOCKS, GPUS, candidate, question
from plan.test_measure import made


def here(*, sizes=(32, 128), **more):
    """A machine whose steps of two sizes were measured: 0.036 s in every one, and 0.00605 s for each image."""
    calibration = made()
    for ranks, each in calibration.by_ranks.items():
        calibration.by_ranks[ranks] = replace(each, sizes=sizes)
    cluster = replace(calibration.by_ranks[2].cluster("here"), device=Device("cpu", "made", 1e12, speed=1.0))
    config = replace(jobs.config(train__batch_size=32), asked=frozenset())
    return question(
        **{"calibration": calibration, "cluster": cluster, "counted": BLOCKS[:2], "config": config, "rows": 32, **more}
    )


def knee(about, name="serial", *, ranks=1):
    return batches.predicted(about, name, ranks=ranks, number_format="fp32")


def test_a_batch_is_the_largest_whose_doubling_paid():
    about = here()
    found = knee(about)
    rates = {
        b: choose.predicted(about, "serial", ranks=1, number_format="fp32", batch=b).images_per_s
        for b in (found.batch // 2, found.batch, 2 * found.batch)
    }
    half, own, twice = rates.values()
    assert own >= WORTH * half and twice < WORTH * own
    assert found.images_per_s == own and found.fits and found.band[0] < own < found.band[1]
    assert found.batch_reason == f"knee: {2 * found.batch} are only {twice / own:.2f}× as fast per image"
    assert found.document()["batch_reason"] == found.batch_reason


def test_each_layout_has_a_knee_of_its_own():
    """What is sent in every step is paid back by more images in it."""
    calm, slow = here(), here()
    two = slow.calibration.by_ranks[2]
    slow.calibration.by_ranks[2] = replace(two, latency_s=0.2)
    assert knee(slow, "ddp", ranks=2).batch > knee(calm, "ddp", ranks=2).batch
    assert knee(slow).batch == knee(calm).batch


@pytest.mark.parametrize(("rate", "chosen"), [(104, "serial"), (106, "fsdp")])
def test_a_larger_batch_must_be_worth_its_fewer_steps(rate, chosen):
    found = [
        replace(candidate("serial", 100), batch=64, batch_reason="knee: a"),
        replace(candidate("ddp", 99), batch=64, batch_reason="knee: a"),
        replace(candidate("fsdp", rate), batch=256, batch_reason="knee: b"),
    ]
    best, reason = choice.choose(found, precision_is_open=False)
    assert best.layout == chosen
    other = "fsdp on 2 rank(s) at batch 256" if chosen == "serial" else "serial on 2 rank(s) at batch 64"
    assert f"× of {other}" in reason and reason.endswith(f"batch {best.batch} by {best.batch_reason}")
    stated = [replace(each, batch_reason="") for each in found]
    assert choice.choose(stated, precision_is_open=False)[0].layout == "fsdp"


@pytest.mark.parametrize(("rate", "chosen"), [(124, "ddp"), (130, "fsdp")])
def test_a_larger_batch_that_was_measured_must_be_worth_its_fewer_steps(rate, chosen):
    """Both are clearly faster than serial."""
    found = [
        replace(candidate(name, rate, source="measured", turns_s=(batch / rate,) * 3), batch=batch, batch_reason="knee: a")
        for name, batch, rate in (("serial", 64, 100), ("ddp", 64, 120), ("fsdp", 512, rate))
    ]  # fmt: skip
    assert choice.choose(found, precision_is_open=False)[0].layout == chosen
    stated = [replace(each, batch_reason="") for each in found]
    assert choice.choose(stated, precision_is_open=False)[0].layout == "fsdp"


def test_few_images_end_it():
    found = knee(here(images=500))
    assert found.batch == 16 and found.batch_reason.startswith("data: 500 training images, of which a larger batch")


def test_memory_ends_it():
    about = here()
    taken = choose.predicted(about, "serial", ranks=1, number_format="fp32", batch=16).bytes
    small = replace(about.cluster, device=replace(about.cluster.device, memory_bytes=taken / choose.MEMORY_SHARE))
    small = replace(small, nodes=1, devices=1)
    about = replace(about, cluster=replace(small, is_measured=False))
    found = knee(about)
    assert found.batch == 16 and found.fits
    assert found.batch_reason.startswith("memory: a batch of 32 takes") and "too much" in found.batch_reason


def test_what_never_fits_says_so_at_the_smallest():
    about = here()
    tiny = replace(about.cluster, device=replace(about.cluster.device, memory_bytes=1.0), is_measured=False)
    found = knee(replace(about, cluster=tiny))
    assert not found.fits and found.batch == batchsize.FIRST and "too much" in found.reason


def test_what_is_far_from_what_was_measured_is_not_foretold():
    """Steps that were measured with 16 rows, whose fixed part is so large that 128 would pay."""
    about = here(sizes=(4, 16))
    one = about.calibration.by_ranks[1]
    steps = replace(one.steps["fp32"], rest_s=5.0)
    about.calibration.by_ranks[1] = replace(one, steps={"fp32": steps})
    found = knee(about)
    assert found.batch == batches.FARTHEST * one.sizes[-1] == 64
    assert found.batch_reason == "calibration: 128 rows at once are more than 4 times those that were measured"


def test_rows_of_ranks_are_those_that_count():
    """Two ranks were measured with 8 rows each: 64 over both are 32 on each."""
    about = here(sizes=(4, 16))
    two = about.calibration.by_ranks[2]
    about.calibration.by_ranks[2] = replace(two, steps={"fp32": replace(two.steps["fp32"], rest_s=5.0)})
    assert knee(about, "ddp", ranks=2).batch == 64
    assert knee(about, "model-parallel", ranks=2).batch == 32


def test_more_ranks_than_data_have_rows_for_are_refused():
    found = knee(here(images=100), "ddp", ranks=16)
    assert not found.fits and found.batch == 16
    assert "a batch of 16, the smallest of 16 ranks, leaves fewer than 20 steps of an epoch of 100" in found.reason


def test_a_rate_of_a_file_begins_at_the_rows_that_training_takes():
    """It says nothing of what is fixed in a step, so fewer rows would always be as good."""
    about = question()
    assert knee(about).batch == 64
    assert knee(about, "ddp", ranks=8).batch >= 8 * 64


def test_what_cannot_be_says_why():
    found = knee(here(), "hsdp", ranks=2)
    assert not found.fits and "hsdp" in found.reason and not found.batch_reason


def test_fewer_microbatches_are_taken_where_they_are_clearly_faster():
    """A short bubble against what every microbatch costs however small."""
    machines = replace(GPUS, nodes=1, devices=2)
    for fixed_s, expected in ((0.0, 8), (0.25, 2), (9.0, 1)):
        blocks = [
            replace(b, forward=replace(b.forward, fixed_s=fixed_s), backward=replace(b.backward, fixed_s=fixed_s))
            for b in chain(4, forward_s=1e-2, backward_s=2e-2)
        ]
        about = question(cluster=machines)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choose, "blocks_of", lambda *_, blocks=blocks, **__: blocks)
            found = choose.predicted(about, "pipeline", ranks=2, number_format="fp32")
        assert found.microbatches == expected, fixed_s
    mine = about.config.with_value("train.microbatches", 4)
    assert choose.predicted(question(config=mine), "pipeline", ranks=2, number_format="fp32").microbatches == 4


def test_fewer_microbatches_must_fit():
    blocks = [
        replace(b, forward=replace(b.forward, fixed_s=1.0), backward=replace(b.backward, fixed_s=1.0))
        for b in chain(4, forward_s=1e-2, backward_s=2e-2, kept_bytes=1e7)
    ]
    about = question(cluster=replace(GPUS, nodes=1, devices=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "blocks_of", lambda *_, **__: blocks)
        free = choose.predicted(about, "pipeline", ranks=2, number_format="fp32")
        small = replace(GPUS.device, memory_bytes=0.99 * free.bytes / choose.MEMORY_SHARE)
        about = replace(about, cluster=replace(about.cluster, device=small))
        found = choose.predicted(about, "pipeline", ranks=2, number_format="fp32")
    assert found.fits and found.microbatches > free.microbatches


@pytest.mark.parametrize(("images", "batch"), [(100_000, 128), (1000, 32), (60, 8), (12, 3)])
def test_what_is_measured_is_as_large_as_data_allow(images, batch):
    config = replace(jobs.config(train__batch_size=64), asked=frozenset())
    found = batches.calibrated(config, BLOCKS, images=images)
    assert found.train.batch_size == batch and not found.asked


def test_what_is_measured_fits_in_half_of_memory(monkeypatch):
    monkeypatch.setattr(batches.memory, "available", lambda device, *, local_ranks: 200e6)
    blocks = [replace(block, kept_bytes=1e6, tensors=(1000,)) for block in BLOCKS]
    config = replace(jobs.config(train__batch_size=64), asked=frozenset())
    assert batches.calibrated(config, blocks, images=100_000).train.batch_size == 8
