"""Every layout, predicted; which is chosen, why, and what is said where nothing fits."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.parallel.layout import parse
from fanlight.plan import band, buckets, choice, choose, remedies
from fanlight.plan.choose import Candidate, Question
from fanlight.plan.cluster import Device, Hop
from plan import jobs
from plan.made import chain, machine
from plan.test_measure import made

BLOCKS = chain(8, tensors=(100_000,), kept_bytes=1e6, sent_bytes=1e5, norms=(64,))
GPUS = replace(
    machine(nodes=2, devices=4, latency_s=1e-5, bytes_per_s=1e10, kind="cuda", spread=0.02),
    device=Device("cuda", "made", 16e9, {"fp32": 1e12, "bf16": 3e12}),
)  # fmt: skip


def question(**more) -> Question:
    config = replace(jobs.config(train__batch_size=64), asked=frozenset())
    counted = [replace(block, flop=1e9, backward_flop=2e9) for block in BLOCKS]
    return Question(
        **{
            "config": config,
            "counted": counted,
            "images": 100_000,
            "cluster": GPUS,
            "calibration": None,
            "rows": 64,
            **more,
        }
    )


def candidate(name: str, rate: float, **more) -> Candidate:
    """Over two ranks; a measured one took three turns, all alike."""
    if more.get("source") == "measured":
        more.setdefault("turns_s", (32 / rate,) * 3)
    return Candidate(
        name,
        2,
        more.pop("precision", "fp32"),
        32,
        1,
        rate,
        (rate, rate),
        1e9,
        more.pop("fits", True),
        "waiting 3%",
        **more,
    )


def test_what_a_run_would_be_besides_its_layout_is_no_candidate_where_training_refuses_it():
    """The config is planned in its plain form; a run has the wishes besides its layout, too."""
    asked = jobs.config(train__batch_size=64, execution__compile=True)
    found = {each.layout: each for each in choose.candidates(question(asked=asked), ranks=8, precisions=["fp32"])}
    assert found["ddp"].fits
    assert not found["fsdp"].fits and "execution.compile does not go with layout fsdp" in found["fsdp"].reason


def test_every_layout_is_predicted_or_says_why_not():
    found = choose.candidates(question(), ranks=8, precisions=["fp32", "bf16"])
    names = {*choose.NAMES, *choose.products(8, stages=8, devices=4)}
    assert {
        "replicate=2,shard=4",
        "replicate=4,shard=2",
        "replicate=4,pipe=2",
        "replicate=2,tensor=4",
        "pipe=4,tensor=2",
    } < names
    assert {(each.layout, each.precision) for each in found} == {(n, p) for n in names for p in ("fp32", "bf16")}
    for each in found:
        if each.fits:
            assert each.source == "simulated" and each.band[0] <= each.images_per_s <= each.band[1] and each.bytes > 0
        else:
            assert each.reason
    why = {each.layout: each.reason for each in found if not each.fits}
    assert "no block that tensor parallelism can divide" in why["tensor"]
    document = found[0].document()
    assert set(document) == {
        "layout", "ranks", "precision", "batch_size", "microbatches", "images_per_s", "band", "bytes", "fits", "reason", "source",
        "batch_reason",
    }  # fmt: skip


def test_what_training_would_not_divide_is_refused_in_its_words():
    counted = [replace(block, flop=1e9, backward_flop=2e9, pairs=(1e5,)) for block in BLOCKS]
    about = question(counted=counted, undivided=lambda ranks: f"it has only 3 heads of {ranks}" if ranks > 3 else "")
    refused = choose.predicted(about, "tensor", ranks=4, number_format="fp32")
    assert not refused.fits and refused.reason == "it has only 3 heads of 4"
    assert choose.predicted(about, "replicate=2,tensor=2", ranks=4, number_format="fp32").fits


def test_fastest_first_and_what_cannot_be_last():
    found = choose.candidates(question(), ranks=8, precisions=["fp32"])
    rates = [each.images_per_s for each in found if each.fits]
    assert rates == sorted(rates, reverse=True)
    assert [each.fits for each in found] == sorted((each.fits for each in found), reverse=True)


def test_more_ranks_bring_less_than_they_are():
    one = choose.predicted(question(is_weak=True), "serial", ranks=1, number_format="fp32")
    eight = choose.predicted(question(is_weak=True), "ddp", ranks=8, number_format="fp32")
    assert eight.batch == 8 * one.batch
    assert 4 < eight.images_per_s / one.images_per_s < 8


def test_a_batch_that_data_do_not_allow_is_refused():
    found = choose.predicted(question(is_weak=True, images=1000), "ddp", ranks=8, number_format="fp32")
    assert not found.fits and "512 images a step, 64 on each rank, leave fewer than 20 steps" in found.reason
    assert found.images_per_s > 0, "what it would be is told all the same"
    few = choose.predicted(question(), "ddp", ranks=128, number_format="fp32")
    assert not few.fits and "leaves some of 128 ranks without a row" in few.reason


def test_what_does_not_fit_says_by_how_much_and_what_would():
    small = replace(GPUS, device=replace(GPUS.device, memory_bytes=1e6))
    found = choose.candidates(question(cluster=small), ranks=8, precisions=["fp32"])
    assert not any(each.fits for each in found)
    with pytest.raises(
        ConfigError,
        match=r"nothing fits: .* is the smallest and takes [0-9.]+ MB of the 800.0 kB .*, [0-9.]+ .B too much",
    ):
        choice.choose(found, precision_is_open=True)


@pytest.mark.parametrize(
    ("room", "way"),
    [(0.5, "--batch-size"), (0.5, "train.microbatches="), (0.5, "execution.recompute=true"), (0.001, "even one image")],
)
def test_the_way_out_that_is_named_is_one(room, way):
    """In half of what serial takes: with what is named it fits, by the same arithmetic. Where nothing would, that is said."""
    blocks = [replace(block, flop=1e9, kept_bytes=1e7, tensors=(1000,), norms=()) for block in BLOCKS]
    least = choose.predicted(question(counted=blocks), "serial", ranks=1, number_format="fp32")
    small = replace(GPUS, device=replace(GPUS.device, memory_bytes=room * least.bytes / choose.MEMORY_SHARE))
    about = question(counted=blocks, cluster=small)
    one = choose.predicted(about, "serial", ranks=1, number_format="fp32")
    assert not one.fits
    told = remedies.nothing_fits([one], about)
    assert way in told
    if way == "--batch-size":
        batch = int(told.split("--batch-size ")[1].split()[0])
        config = replace(about.config.with_value("train.batch_size", batch), asked=frozenset())
        assert choose.predicted(replace(about, config=config), "serial", ranks=1, number_format="fp32").fits
        twice = replace(about.config.with_value("train.batch_size", 2 * batch), asked=frozenset())
        assert not choose.predicted(replace(about, config=twice), "serial", ranks=1, number_format="fp32").fits
    if way == "execution.recompute=true":
        config = replace(about.config.with_value("execution.recompute", True), asked=frozenset())
        assert choose.predicted(replace(about, config=config), "serial", ranks=1, number_format="fp32").fits


def test_what_training_would_refuse_is_no_candidate():
    config = replace(jobs.config(train__batch_size=64, train__ema=0.99), asked=frozenset())
    why = {
        each.layout: each.reason for each in choose.candidates(question(config=config), ranks=4, precisions=["fp32"])
    }
    assert "averaged already" in why["local-sgd"]
    frozen = replace(jobs.config(train__batch_size=64, model__freeze=True, model__pretrained=True), asked=frozenset())
    found = choose.candidates(question(config=frozen), ranks=4, precisions=["fp32"])
    assert {each.layout for each in found if each.fits and not each.is_other} == {"ddp"}


def test_recomputing_is_slower_and_smaller():
    plain = choose.predicted(question(), "serial", ranks=1, number_format="fp32")
    config = replace(question().config.with_value("execution.recompute", True), asked=frozenset())
    again = choose.predicted(question(config=config), "serial", ranks=1, number_format="fp32")
    assert again.bytes < plain.bytes
    assert again.images_per_s == pytest.approx(plain.images_per_s * 3 / 4)


@given(st.integers(2, 1024), st.integers(1, 20), st.integers(1, 16))
def test_products_have_as_many_ranks_and_fit_the_machine(ranks, stages, devices):
    for name in choose.products(ranks, stages=stages, devices=devices):
        layout = parse(name, ranks=ranks)
        assert layout.ranks == ranks and layout.pp <= stages and layout.tp <= devices
        assert sum(degree > 1 for degree in (layout.pp, layout.dp_replicate, layout.dp_shard, layout.tp)) == 2


def test_buckets_are_those_that_a_run_fits_to_the_link():
    """A fast link of little latency: 1 MB; a slow start of each message: as large as they may be."""
    for latency_s, bucket_mb in ((1e-6, 1.0), (5e-2, 25.0)):
        cluster = replace(GPUS, within=Hop(latency_s, 1e9), nodes=1)
        about = question(cluster=cluster)
        asked = choose.asked_of(about, parse("ddp", ranks=4), batch=64, number_format="fp32", machines=cluster)
        assert asked.bucket_bytes == bucket_mb * 2**20
    mine = replace(question().config.with_value("execution.bucket_mb", 7.0), asked=frozenset())
    asked = choose.asked_of(question(config=mine), parse("ddp", ranks=4), batch=64, number_format="fp32", machines=GPUS)
    assert asked.bucket_bytes == 7 * 2**20


def test_gradients_travel_as_the_config_rounds_them():
    mine = replace(question().config.with_value("train.compress_gradients", "bf16"), asked=frozenset())
    told = {
        name: choose.asked_of(
            about, parse("ddp", ranks=4), batch=64, number_format="fp32", machines=GPUS
        ).gradient_bytes
        for name, about in {"plain": question(), "rounded": question(config=mine)}.items()
    }
    assert told == {"plain": 4.0, "rounded": 2.0}


def test_more_ranks_than_cores_are_no_further_machines():
    """Four ranks on two cores: each has half of the rows, and takes turns."""
    calibration = made()
    here = replace(calibration.by_ranks[2].cluster("here"), device=Device("cpu", "made", 1e12, speed=1.0))
    about = question(calibration=calibration, cluster=here, counted=[replace(block, norms=()) for block in BLOCKS[:2]])
    two, four = (choose.predicted(about, "ddp", ranks=n, number_format="fp32") for n in (2, 4))
    assert 0.6 * two.images_per_s < four.images_per_s < two.images_per_s


def test_the_fastest_that_computes_the_same_is_chosen():
    found = [
        candidate("ddp", 100),
        candidate("local-sgd", 150),
        candidate("fsdp", 120, fits=False),
        candidate("pipeline", 80),
    ]
    best, reason = choice.choose(found, precision_is_open=False)
    assert best.layout == "ddp"
    assert "1.25× of pipeline on 2 rank(s)" in reason and "waiting 3%" in reason


def test_what_was_measured_is_chosen_before_what_is_only_foretold():
    found = [
        candidate("ddp", 100, source="measured"),
        candidate("fsdp", 90, source="measured"),
        candidate("tensor", 110),
    ]
    best, reason = choice.choose(found, precision_is_open=False)
    assert best.layout == "ddp" and "100 images/s measured; nothing is clearly faster: fsdp" in reason


@pytest.mark.parametrize(("rate", "chosen"), [(110, "fp32"), (130, "bf16")])
def test_a_shorter_format_must_be_worth_it_where_it_alone_was_measured(rate, chosen):
    found = [candidate("ddp", 100), candidate("ddp", rate, precision="bf16", source="measured")]
    assert choice.choose(found, precision_is_open=True)[0].precision == chosen


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(("rate", "chosen"), [(202, "serial"), (220, "ddp")])
def test_in_a_shorter_format_too_another_layout_must_be_clearly_faster(is_open, rate, chosen):
    """Both are twice as fast as serial in fp32, whether that was asked about or not."""
    short = [replace(candidate("serial", 200, precision="bf16", source="measured"), ranks=1)]
    short += [candidate("ddp", rate, precision="bf16", source="measured")]
    whole = [replace(candidate("serial", 100, source="measured"), ranks=1), candidate("fsdp", 90, source="measured")]
    best, reason = choice.choose([*whole, *short] if is_open else short, precision_is_open=is_open)
    assert (best.layout, best.precision) == (chosen, "bf16")
    assert ("of serial on 1 rank(s) in fp32" in reason) == is_open
    if chosen == "serial":
        assert "nothing is clearly faster: ddp on 2 rank(s) in bf16 1.01× of serial on 1 rank(s) in bf16" in reason


def test_another_algorithm_that_fits_is_no_layout_that_does_not():
    found = [
        candidate("local-sgd", 150),
        replace(candidate("ddp", 100, fits=False), reason="takes too much", bytes=2e9),
    ]
    with pytest.raises(
        ConfigError, match=r"nothing fits: ddp on 2 rank\(s\) in fp32 is the smallest and takes too much"
    ):
        choice.choose(found, precision_is_open=True)


@pytest.mark.parametrize(("rate", "chosen"), [(110, "fp32"), (130, "bf16")])
def test_a_shorter_format_must_be_worth_its_accuracy(rate, chosen):
    found = [candidate("ddp", 100), candidate("ddp", rate, precision="bf16")]
    assert choice.choose(found, precision_is_open=True)[0].precision == chosen
    assert choice.choose(found, precision_is_open=False)[0].precision == "bf16"


def test_a_measured_machine_predicts_its_own_steps():
    """Serial, at the batch that was measured: what was measured, and the cropping of its images."""
    calibration = made()
    here = replace(calibration.by_ranks[2].cluster("here"), device=Device("cpu", "made", 1e12, speed=1.0))
    about = question(calibration=calibration, cluster=here, counted=BLOCKS[:2])
    found = choose.predicted(about, "serial", ranks=1, number_format="fp32")
    step_s = 0.03 + 64 * 0.006 + 0.005 + 0.001 + 64 * 1e-4 / 2
    assert found.images_per_s == pytest.approx(64 / step_s)


def test_a_band_is_around_what_is_foretold():
    low, high = band.around(lambda cluster: 100 / (1 + cluster.spread), GPUS)
    assert low == pytest.approx(100 / 1.04 / 1.03) and high == pytest.approx(100 / 1.01 * 1.03)


@pytest.mark.parametrize("field", ["spread", "contention", "steals", "overhead_s", "tensor_s"])
def test_a_band_varies_what_is_not_known_well(field):
    """Half and twice of each."""
    known = replace(GPUS, **{field: 0.4})
    low, high = band.around(lambda cluster: 1 / getattr(cluster, field), known)
    assert (low, high) == pytest.approx((1 / 0.8 / 1.03, 1 / 0.2 * 1.03))


def test_a_process_takes_memory_where_nothing_was_measured():
    """On CPUs of which a file says what they achieve; a GPU's process is not in its memory."""
    base = {}
    for kind in ("cpu", "cuda"):
        cluster = replace(GPUS, device=replace(GPUS.device, kind=kind))
        base[kind] = choose.kept_of(question(cluster=cluster), cluster, "fp32").base
    assert base == {"cpu": choose.PROCESS_BYTES, "cuda": 0.0}
    small = replace(GPUS, device=Device("cpu", "made", 4 * 0.5e9, {"fp32": 1e12}))
    found = choose.predicted(question(cluster=small), "ddp", ranks=4, number_format="fp32")
    assert not found.fits and "too much" in found.reason, "half a gigabyte is not enough for torch itself"


def test_only_ddp_fits_its_buckets_to_the_link():
    """Other layouts of whole models have torch's own, as in a run; what was asked for holds everywhere."""
    slow = replace(GPUS, within=Hop(5e-2, 1e9), nodes=1)
    assert buckets.size_of(parse("ddp", ranks=4), slow, asked_mb=None) == 25 * 2**20
    assert buckets.size_of(parse("replicate=4", ranks=4), slow, asked_mb=None) is None
    assert buckets.size_of(parse("serial", ranks=None), slow, asked_mb=None) is None
    assert buckets.size_of(parse("replicate=4", ranks=4), slow, asked_mb=3.0) == 3 * 2**20
