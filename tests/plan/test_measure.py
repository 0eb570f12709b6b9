"""What is measured of a machine, and what is made of it."""

import json
from dataclasses import replace

import pytest

from fanlight.parallel.link import Sending
from fanlight.plan import calibration, cost, measure
from fanlight.plan.calibration import Calibration, Measured, Piece, Steps
from fanlight.plan.cost import Line
from plan import jobs
from plan.made import chain


def step(total: float, forward: float, backward: float, optimizer: float) -> dict[str, float]:
    parts = {"forward": forward, "backward": backward, "optimizer": optimizer, "copy": 0.0}
    return {"total": total, "rest": total - sum(parts.values()), **parts}


def made(*, alone: float = 1.1) -> Calibration:
    steps = Steps(Line(0.01, 0.002), Line(0.02, 0.004), 0.005, 0.001, alone, 0.02)
    one = Measured(1, 2, {"fp32": replace(steps, alone=1.0)}, 400, 500, 8)
    two = Measured(2, 1, {"fp32": steps}, 400, 500, 8, 1e-5, 8e-5, 1e9, 0.5)
    return Calibration("f", 9.0, {"fp32": [Piece(1.0, 3.0, 0.25), Piece(3.0, 5.0, 0.5)]}, {1: one, 2: two}, 1e-4)


def test_steps_of_two_batches_make_lines():
    answers = [
        {"times": [[step(3.5, 1, 2, 0.25)] * 3, [step(6.5, 2, 4, 0.25)] * 3], "alone": [step(6.0, 1.6, 3.4, 0.25)] * 3},
        {"times": [[step(3.5, 1, 2, 0.25)] * 3, [step(6.5, 2, 4, 0.25)] * 3], "alone": []},
    ]
    found = measure._steps(answers, rows=[8, 16], microbatches=1)
    assert (found.forward.at(8), found.forward.at(16)) == pytest.approx((1, 2))
    assert (found.backward.at(8), found.backward.at(32)) == pytest.approx((2, 8))
    assert found.optimizer_s == 0.25 and found.rest_s == pytest.approx(0.25)
    assert found.alone == pytest.approx(6 / 5) and found.spread == 0
    parts = measure._steps(answers, rows=[4, 8], microbatches=2)
    assert (parts.forward.at(4), parts.forward.at(8), parts.optimizer_s) == pytest.approx((0.5, 1, 0.25))


@pytest.mark.parametrize("ranks", [2, 4])
def test_overhead_latency_and_bandwidth_come_back_out_of_what_they_make(ranks):
    overhead_s, hop = 5e-5, cost.hop_of(6e-5, 2e9, ranks=ranks)
    path = cost.Route(ranks, 1, hop, hop, overhead_s=overhead_s)
    sizes = {size: cost.ring_s(size, path) for size in (4 << 10, 256 << 10, 4 << 20)}
    overhead, latency, rate = cost.collective(sizes, cost.gather_s(0, path))
    assert (overhead, latency, rate) == pytest.approx((overhead_s, 6e-5, 2e9), rel=1e-6)


def test_blocks_take_together_what_whole_steps_take():
    """In proportion to the pieces; as if each rank computed alone, since a program slows neighbours itself."""
    told = made(alone=1.25)
    blocks = told.blocks(chain(2), ranks=2, number_format="fp32")
    assert sum(b.forward.at(10) for b in blocks) == pytest.approx(0.03 / 1.25)
    assert sum(b.backward.at(10) for b in blocks) == pytest.approx(0.06 / 1.25)
    assert blocks[1].forward.at(10) == pytest.approx(3 * blocks[0].forward.at(10))
    assert [b.divided for b in blocks] == [0.25, 0.5], "of time, as it was measured, not of arithmetic"
    cluster = told.by_ranks[2].cluster("here")
    assert cost.contended(cluster, 2) == pytest.approx(1.25) and cluster.is_measured and cluster.steals == 0.5


def test_neighbours_are_those_of_the_number_format():
    """What is divided out of a format's steps is what is multiplied in again, whatever the other format's neighbours cost."""
    calibration = made(alone=1.1)
    both = calibration.by_ranks[2]
    both.steps["bf16"] = replace(both.steps["fp32"], alone=1.3, spread=0.05)
    told = {name: both.cluster("here", number_format=name) for name in both.steps}
    assert {name: cost.contended(each, 2) for name, each in told.items()} == pytest.approx({"fp32": 1.1, "bf16": 1.3})
    assert (told["fp32"].spread, told["bf16"].spread) == (0.02, 0.05)


@pytest.mark.parametrize(
    ("beside_s", "sent_s", "expected"),
    [(1.0, 0.1, 0), (1.05, 0.1, 0.5), (1.1, 0.1, 1), (4.0, 4.0, 0), (4.5, 4.0, 0.5), (0.9, 0.1, 0), (9, 0.1, 1.5)],
)
def test_sending_steals_what_neither_hides(beside_s, sent_s, expected):
    """Of computing that takes 1 s alone. On a slow link the sending is the longer of the two."""
    assert Sending({}, 0, beside_s, 1.0, sent_s).steals == pytest.approx(expected)


def test_large_networks_are_measured_on_fewer_rows():
    assert measure._sizes(64, least=4, row_s=1e-4, turns=8) == [16, 64]
    few, many = measure._sizes(64, least=4, row_s=0.05, turns=8)
    assert 4 <= few < many < 64
    assert 8 * 0.05 * (few + 2 * many) <= 1.2 * measure.BUDGET_S
    assert measure._sizes(64, least=4, row_s=9.0, turns=8) == [4, 8], "less than that makes no line"


def test_only_what_was_not_measured_is_measured(tmp_path, monkeypatch):
    """Kept by number of ranks: a question about further ones measures those alone."""
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(measure.machine, "cores_usable", lambda: 4)
    monkeypatch.setattr(measure, "_input_s", lambda config: 1e-4)
    opened, on = [], set()

    class NoPool:
        def __init__(self, ranks, *, device, **_):
            opened.append(ranks)
            on.add(device)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, job, **_):
            return [{"pieces": {"fp32": [[1.0, 3.0, 0.0]]}}]

    monkeypatch.setattr(measure, "Pool", NoPool)
    monkeypatch.setattr(measure, "_of", lambda answers, *, ranks, threads: replace(made().by_ranks[2], ranks=ranks))
    config = jobs.config(model__name="resnet18", train__batch_size=32)

    def calibrate(**more):
        opened.clear()
        found = measure.calibrate(config, classes=3, precisions=["fp32"], **more)
        return list(opened), sorted(found.by_ranks)

    assert calibrate() == ([1, 4], [1, 4])
    assert calibrate(ranks=[2, 64]) == ([2], [1, 2, 4]), "64 ranks have no cores here"
    assert calibrate(ranks=[2]) == ([], [1, 2, 4])
    assert calibrate(anew=True) == ([1, 4], [1, 4])
    assert on == {"cpu"}
    monkeypatch.setattr(measure.devices, "gpus_visible", lambda: 2)
    monkeypatch.setattr(measure.torch.cuda, "get_device_name", lambda index: "made")
    config = config.with_value("execution.device", "cuda")
    on.clear()
    assert calibrate(ranks=[2, 4]) == ([1, 2], [1, 2]), "one rank a GPU; what CPUs were measured to do is not theirs"
    assert on == {"cuda"}


def test_what_was_measured_on_gpus_is_a_cluster_of_them():
    one = replace(made().by_ranks[2], ranks=4, gpu="made", gpu_bytes=8e10)
    found = one.cluster("here")
    assert (found.device.kind, found.device.name, found.memory_bytes, found.devices) == ("cuda", "made", 8e10, 4)
    path = cost.route(found, [0, 1, 2, 3])
    assert cost.all_reduce_s(1e6, path) == pytest.approx(one.overhead_s + one.latency_s + 1e6 / one.bytes_per_s)


def test_what_another_machine_or_power_state_measured_is_not_used(monkeypatch):
    config = replace(jobs.config(model__name="resnet18"), asked=frozenset())
    about = {"classes": 3, "precisions": ["fp32"], "cores": 2}
    here = measure.fingerprint(config, **about)
    changes = {
        "power": lambda: {"scaling_governor": ["powersave"]},
        "describe": lambda: {"cpu": "another"},
        "cores": lambda: [0, 7],
    }
    for name, other in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(measure.machine, name, other)
            assert measure.fingerprint(config, **about) != here, name
    with monkeypatch.context() as patch:
        patch.setattr(measure.torch, "__version__", "0.0")
        assert measure.fingerprint(config, **about) != here
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert measure.fingerprint(config, **about) != here
    threads = replace(config.with_value("execution.threads", 1), asked=frozenset({"execution.threads"}))
    assert measure.threads_of(threads, ranks=1, cores=2) == 1
    assert measure.fingerprint(threads, **about) != here


def test_what_disturbs_some_steps_changes_nothing():
    calm = [step(6.0, 2, 4, 0)] * 3
    busy = [*calm, step(60.0, 20, 40, 0), step(90.0, 40, 50, 0)]
    found = measure._steps([{"times": [busy, busy], "alone": busy}] * 2, rows=[8, 16], microbatches=1)
    assert (found.forward.at(16), found.backward.at(16), found.alone) == pytest.approx((2, 4, 1))
    slow = [{"times": [calm, calm], "alone": [step(0.6, 0.2, 0.4, 0)] * 3}] * 2
    assert measure._steps(slow, rows=[8, 16], microbatches=1).alone == 2, (
        "two ranks cannot slow each other more than twofold"
    )


def test_a_calibration_is_kept_and_read_again(tmp_path):
    calibration.write(tmp_path / "plans" / "a.json", made())
    assert calibration.read(tmp_path / "plans" / "a.json") == made()


def test_a_calibration_that_was_changed_is_measured_anew(tmp_path, capsys):
    path = tmp_path / "a.json"
    calibration.write(path, made())
    whole = path.read_text()
    for before, after in (
        ('"took_s": 9.0', '"took_s": 8.0'),
        ('"fp32"', '"bf16"'),
        ('"rest_s": 0.001', '"rest_s": NaN'),
    ):
        assert before in whole
        path.write_text(whole.replace(before, after))
        assert calibration.read(path) is None
        assert f"{path} is damaged" in capsys.readouterr().out
    path.write_bytes(b"\xff\0")
    assert calibration.read(path) is None


def test_a_cache_that_takes_nothing_costs_a_warning(tmp_path, capsys):
    (tmp_path / "plans").write_text("a file where the folder should be")
    calibration.write(tmp_path / "plans" / "a.json", made())
    told = capsys.readouterr().err
    assert "cannot be kept" in told and "measures again" in told and "FANLIGHT_CACHE" in told


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"by_ranks": {"1": {}}}', '{"by_ranks": []}', None])
def test_what_cannot_be_read_is_measured_anew(tmp_path, text):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    assert calibration.read(tmp_path / "a.json") is None


def test_a_fingerprint_is_of_what_changes_the_times():
    about = {"classes": 3, "precisions": ["fp32"], "cores": 2}
    config = jobs.config(model__name="resnet18", train__batch_size=32)
    same = measure.fingerprint(config, **about)
    assert measure.fingerprint(config.with_value("train.seed", 7), **about) == same
    assert measure.fingerprint(config.with_value("train.epochs", 7), **about) == same
    for other in (
        "model.name=resnet34",
        "train.batch_size=16",
        "data.image_px=64",
        "train.microbatches=2",
        "optim.name=sgd",
    ):
        key, value = other.split("=")
        assert measure.fingerprint(config.with_value(key, value), **about) != same, key
    assert measure.fingerprint(config, **{**about, "cores": 4}) != same


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_measure_steps_pieces_and_links(pool, ranks):
    answers = pool(ranks).run("plan.jobs:measured", model="small-resnet", image_px=16, batch=64)
    json.dumps(answers)
    for answer in answers:
        few, many = answer["steps"]["fp32"]["times"]
        assert len(few) == len(many) == measure.REPEATS
        assert all(row["forward"] > 0 and row["backward"] > 0 and row["total"] > 0 for row in few + many)
    found = measure._of(answers, ranks=ranks, threads=1)
    assert found.steps["fp32"].forward.at(32) > 0 and found.peak_bytes >= found.base_bytes > 1e7
    if ranks > 1:
        assert found.bytes_per_s > 0 and 0 <= found.steals <= 1.5 and found.latency_s >= 0
    else:
        assert len(answers[0]["pieces"]["fp32"]) >= 2
        assert all(forward > 0 and backward > 0 for forward, backward, _ in answers[0]["pieces"]["fp32"])
