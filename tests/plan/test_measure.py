"""What is measured of a machine, and what is made of it."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fanlight.parallel import comm, link
from fanlight.parallel.link import Sending
from fanlight.plan import calibration, choose, cluster, cost, measure, pools, sharding, turns, waiting
from fanlight.plan.calibration import Calibration, Measured, Piece, Steps
from fanlight.plan.choose import Question
from fanlight.plan.cluster import Hop
from fanlight.plan.cost import Line
from fanlight.plan.program import program
from fanlight.plan.simulate import simulate
from plan import jobs
from plan.made import chain


def step(total: float, forward: float, backward: float, optimizer: float) -> dict[str, float]:
    parts = {"forward": forward, "backward": backward, "optimizer": optimizer, "copy": 0.0}
    return {"total": total, "rest": total - sum(parts.values()), **parts}


def made(*, alone: float = 1.1) -> Calibration:
    steps = Steps(Line(0.01, 0.002), Line(0.02, 0.004), 0.005, 0.001, alone, 0.1, (1.4, 1.2), (1.0, 1.0), 0.02, 1.5)
    one = Measured(1, 2, {"fp32": replace(steps, alone=1.0)}, 400, 500, 8, sizes=(4, 16))
    passes = (Line(1e-3, 1e-9), Line(4e-3, 4e-9))
    two = Measured(2, 1, {"fp32": steps}, 400, 500, 8, 1e-5, 8e-5, 1e9, 0.5, (4, 16), passes)
    return Calibration("f", 9.0, {"fp32": [Piece(1.0, 3.0, 0.25), Piece(3.0, 5.0, 0.5)]}, {1: one, 2: two}, 1e-4)


def turn(few, many, *, alone=None, joined=(), apart=None) -> dict:
    return {"silent": [few, many], "alone": alone, "joined": list(joined), "apart": apart}


FEW, MANY = step(3.5, 1, 2, 0.25), step(6.5, 2, 4, 0.25)


def test_steps_of_two_batches_make_lines():
    first = [
        turn(FEW, MANY, alone=step(3.0, 0.8, 1.7, 0.25), joined=[step(7.0, 1, 2, 0.25), step(7.8, 2, 4, 0.25)])
    ] * 3
    other = [turn(FEW, MANY, joined=[step(6.0, 1, 2, 0.25), step(7.15, 2, 4, 0.25)])] * 3
    found = measure._steps([[first, other]], rows=[8, 16], microbatches=1)
    assert (found.forward.at(8), found.forward.at(16)) == pytest.approx((1, 2))
    assert (found.backward.at(8), found.backward.at(32)) == pytest.approx((2, 8))
    assert found.optimizer_s == 0.25 and found.rest_s == pytest.approx(0.25)
    assert found.alone == pytest.approx(6 / 5) and found.noise == 0
    assert found.joined == pytest.approx((7 / 3.5, 7.8 / 6.5)), "all wait for the slowest"
    parts = measure._steps([[first, other]], rows=[4, 8], microbatches=2)
    assert (parts.forward.at(4), parts.forward.at(8), parts.optimizer_s) == pytest.approx((0.5, 1, 0.25))


def test_norms_that_nobody_shares_are_quicker():
    """By as much as they were measured to be, each pass by itself; what is replicated has the shared ones."""
    rows = [turn(FEW, MANY, alone=FEW, joined=[FEW, MANY], apart=step(5.0, 1.6, 3.2, 0.25))] * 3
    found = measure._steps([[rows, rows]], rows=[8, 16], microbatches=1)
    assert found.norms == pytest.approx((2 / 1.6, 4 / 3.2))
    told = made(alone=1.0)
    told.by_ranks[2].steps["fp32"] = replace(told.by_ranks[2].steps["fp32"], norms=(1.25, 2.0))
    about = Question(jobs.config(), chain(2), 0, told.by_ranks[2].cluster("here"), told, 16)
    for name, factors in (("ddp", (1, 1)), ("pipeline", (1.25, 2)), ("local-sgd", (1.25, 2))):
        layout = choose.layout_of(about, name, ranks=2, machines=about.cluster)
        blocks = choose.blocks_of(about, layout, number_format="fp32")
        assert sum(b.forward.at(10) for b in blocks) == pytest.approx(0.03 / factors[0]), name
        assert sum(b.backward.at(10) for b in blocks) == pytest.approx(0.06 / factors[1]), name


def test_norms_shared_by_nodes_of_one_rank_take_what_they_take_here():
    """One rank a node was measured alone, with norms of its own."""
    told = made(alone=1.0)
    told.by_ranks[2].steps["fp32"] = replace(told.by_ranks[2].steps["fp32"], norms=(1.25, 2.0))
    alone, shared = (
        told.blocks(chain(2), ranks=1, number_format="fp32", are_norms_shared=shared) for shared in (False, True)
    )
    assert sum(b.forward.at(10) for b in alone) == pytest.approx(0.03)
    assert sum(b.forward.at(10) for b in shared) == pytest.approx(0.03 * 1.25)
    assert sum(b.backward.at(10) for b in shared) == pytest.approx(0.06 * 2.0)


@pytest.mark.parametrize(("devices", "ranks"), [(1, 1), (2, 4), (8, 4), (64, 4)])
def test_a_described_device_is_like_all_cores_or_like_one(devices, ranks):
    """Whatever number of them is nearest to what this machine has."""
    told = made(alone=1.0)
    slow = Steps(Line(0.0, 0.02), Line(0.0, 0.04), 0.005, 0.001, 1.0, 0.1)
    told = replace(told, by_ranks={1: told.by_ranks[1], 4: replace(told.by_ranks[2], ranks=4, steps={"fp32": slow})})
    node = cluster.Cluster("a file's", 2, devices, cluster.Device(speed=1.0), Hop(0, 1e9), Hop(0, 1e9))
    about = Question(jobs.config(), chain(2), 0, node, told, 16)
    layout = choose.layout_of(about, "pipeline", ranks=2, machines=node)
    blocks = choose.blocks_of(about, layout, number_format="fp32")
    expected = told.by_ranks[ranks].steps["fp32"].forward.at(10)
    assert sum(b.forward.at(10) for b in blocks) == pytest.approx(expected)


def test_a_file_that_says_no_overhead_has_the_librarys_as_it_was_measured():
    """1.5 times (1e-5 s + 8e-5 s over one hop): of CPUs like these, not of GPUs, and not where the file says one."""
    told = made()
    file = cluster.parse(
        "nodes: 2\ndevice: {kind: cpu, count: 1, memory: 16 GB, speed: 1}\nlinks: {between: {latency: 1ms, bandwidth: 1 Gbit/s}}",
        where="a file",
    )

    def overhead_s(described, found=told) -> float:
        about = Question(jobs.config(), chain(2), 0, described, found, 16)
        return choose.machines_of(about, ranks=2, number_format="fp32").overhead_s

    assert overhead_s(file) == pytest.approx(1.5 * 9e-5)
    assert overhead_s(replace(file, overhead_s=3e-6)) == 3e-6
    assert overhead_s(replace(file, device=replace(file.device, kind="cuda"))) == 0
    assert overhead_s(file, found=None) == 0
    assert overhead_s(file, found=replace(told, by_ranks={1: told.by_ranks[1]})) == 0, "a machine of one core"


def test_a_slow_window_among_others_changes_nothing():
    """Neither times nor what ranks cost each other: ratios are of steps of the same window."""

    def window(slower: float) -> list:
        def at(row):
            return {name: slower * value for name, value in row.items()}

        few, many = at(FEW), at(MANY)
        alone, joined = at(step(6.0, 1.6, 3.4, 0.25)), [at(step(4.8, 1, 2, 0.25)), at(step(7.8, 2, 4, 0.25))]
        return [[turn(few, many, alone=alone, joined=joined)] * 2, [turn(few, many, joined=joined)] * 2]

    found = measure._steps([window(1), window(3), window(1)], rows=[8, 16], microbatches=1)
    calm = measure._steps([window(1)], rows=[8, 16], microbatches=1)
    assert replace(found, noise=0.0) == calm and found.noise > 0


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


def test_one_slow_message_of_a_moment_is_not_what_messages_take(monkeypatch):
    """Every fourth takes a hundred times as long, as cores that fall asleep make it; a large one is sent as often as is asked."""
    now, sent = [0.0], []

    def send(what: str, seconds: float) -> None:
        sent.append(what)
        now[0] += seconds * (100 if sent.count(what) % 4 == 2 and what != "large" else 1)

    def reduce(buffer, **_) -> None:
        send("large" if buffer.numel() * 4 > link.SMALL_BYTES else "small", 1e-4 if buffer.numel() * 4 < 1e6 else 1e-2)

    monkeypatch.setattr(link, "_now", lambda device: now[0])
    monkeypatch.setattr(link.dist, "all_reduce", lambda buffer, async_op=False, **_: reduce(buffer) or Done())
    monkeypatch.setattr(link.dist, "all_gather", lambda *_, **__: send("gather", 1e-4))
    found = link.sweep(comm.alone(), compute=lambda: None, repeats=1)
    assert list(found.all_reduce_s.values()) == pytest.approx([1e-4, 1e-2]) and found.gather_s == pytest.approx(1e-4)
    assert sent.count("large") == 4, "alone and beside computing, and each once to open connections"


class Done:
    """A message that is there."""

    def wait(self) -> None:
        pass


def test_large_networks_are_measured_on_fewer_rows():
    assert turns.sizes_of(64, least=4, step=Line(0.01, 1e-4), turns=8) == [16, 64]
    step = Line(0.01, 0.03)
    few, many = turns.sizes_of(64, least=4, step=step, turns=8)
    assert 4 <= few < many < 64
    assert 3 * 8 * (step.at(few) + step.at(many)) <= 1.2 * turns.BUDGET_S
    assert turns.sizes_of(64, least=4, step=Line(0.0, 9.0), turns=8) == [4, 8], "less than that makes no line"
    assert turns.sizes_of(64, least=4, step=Line(9.0, 1e-4), turns=8) == [4, 8], "nor where every step is long"


def test_only_what_was_not_measured_is_measured(tmp_path, monkeypatch):
    """Kept by number of ranks: a question about further ones measures those alone."""
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(measure.machine, "cores_usable", lambda: 4)
    monkeypatch.setattr(measure.inputs, "seconds", lambda config: 1e-4)
    opened, on = [], set()

    class NoPool:
        def __init__(self, ranks, *, device, **_):
            opened.append(ranks)
            on.add(device)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        is_open = True

        def close(self):
            pass

        def run(self, job, **_):
            return [{"pieces": {"fp32": [[1.0, 3.0, 0.0], [1.0, 2.0, 0.0]]}, "sizes": [8, 32]}]

    monkeypatch.setattr(pools, "Pool", NoPool)
    monkeypatch.setattr(measure, "_of", lambda *_, ranks, threads: replace(made().by_ranks[2], ranks=ranks))
    config = jobs.config(model__name="resnet18", train__batch_size=32)

    def calibrate(**more):
        opened.clear()
        found = measure.calibrate(config, chain(2), classes=3, precisions=["fp32"], **more)
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
    idle_s = one.overhead_s + one.latency_s + 1e6 / one.bytes_per_s
    assert cost.all_reduce_s(1e6, path) == pytest.approx(one.steps["fp32"].sending * idle_s)


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
    disturbed = [turn(each, each, alone=each, joined=[each, each]) for each in busy]
    found = measure._steps([[disturbed, disturbed]], rows=[8, 16], microbatches=1)
    assert (found.forward.at(16), found.backward.at(16), found.alone, *found.joined) == pytest.approx((2, 4, 1, 1, 1))
    slow = [turn(each, each, alone=step(0.6, 0.2, 0.4, 0), joined=[each, each]) for each in calm]
    assert measure._steps([[slow, slow]], rows=[8, 16], microbatches=1).alone == 2, (
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


def test_a_full_disk_keeps_no_part_of_a_calibration(tmp_path, monkeypatch, capsys):
    def write_text(path, text, **_):
        path.write_bytes(text.encode()[:100])
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(Path, "write_text", write_text)
    calibration.write(tmp_path / "plans" / "a.json", made())
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "plans").iterdir())


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
    assert measure.fingerprint(config.with_value("execution.bucket_mb", 4.0), **about) != same, (
        "real steps send in them"
    )
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
    first = [answer["first"] for answer in answers]
    windows = [[answer["windows"][at] for answer in answers] for at in range(2)]
    for window in windows:
        for answer in window:
            rows = answer["steps"]["fp32"]
            assert 1 <= len(rows) <= turns.TURNS_MOST
            for row in [each for taken in rows for each in (*taken["silent"], *taken["joined"])]:
                assert row["forward"] > 0 and row["backward"] > 0 and row["total"] > 0
    found = measure._of(first, windows, ranks=ranks, threads=1)
    steps = found.steps["fp32"]
    assert steps.forward.at(32) > 0 and found.peak_bytes >= found.base_bytes > 1e7
    few, many = found.sizes  # 16 and 64, or less on a machine that is busy
    assert turns.ROWS_LEAST * ranks <= few <= 16 and 2 * few <= many <= 64
    if ranks > 1:
        assert found.bytes_per_s > 0 and 0 <= found.steals <= 1.5 and found.latency_s >= 0
        assert min(steps.joined) >= 1 and all(answer["sent"] > 0 for answer in answers), "some steps are real ones"
        assert steps.norms != (1.0, 1.0), "small-resnet has norms that ranks share"
        assert found.passes != Measured(2, 1, {}, 0, 0, 0).passes, "hooks around shards are measured"
    else:
        shares = measure._shares(windows)["fp32"]
        assert len(shares) >= 2 and all(piece.forward_s > 0 and piece.backward_s > 0 for piece in shares)


@pytest.mark.parametrize(
    ("spread", "sending", "ranks"), [(0.0, 1.0, 2), (0.08, 1.0, 2), (0.05, 2.5, 2), (0.05, 0.3, 2), (0.3, 1.5, 4)]
)
def test_real_steps_are_foretold_as_they_were_measured(spread, sending, ranks):
    """What made steps longer than silent ones comes back out of how much longer they were, at two sizes."""
    told, config, counted = made(), jobs.config(model__name="resnet18", train__batch_size=16), chain(2, norms=(8,))
    plain = replace(told.by_ranks[2].steps["fp32"], spread=0.0, sending=1.0)
    several = replace(told.by_ranks[2], ranks=ranks, latency_s=2e-3, bytes_per_s=2e6, steps={"fp32": plain})
    here = replace(told, by_ranks={1: told.by_ranks[1], ranks: several})

    def joined(batch: int) -> float:
        about = Question(config, counted, 0, several.cluster("here"), here, batch)
        layout = choose.layout_of(about, "ddp", ranks=ranks, machines=about.cluster)
        asked = choose.asked_of(about, layout, batch=batch, number_format="fp32", machines=about.cluster)
        asked = replace(asked, input_s=0.0, host_s=plain.rest_s / plain.alone, exchanges=False)
        machines = replace(several, steps={"fp32": replace(plain, spread=spread, sending=sending)}).cluster("here")
        blocks = choose.blocks_of(about, layout, number_format="fp32")
        silent_s = plain.forward.at(batch / ranks) + plain.backward.at(batch / ranks) + plain.optimizer_s + plain.rest_s
        return simulate(program(layout, blocks, asked, machines)).step_s / silent_s

    real = replace(plain, joined=tuple(joined(batch) for batch in several.sizes))
    here.by_ranks[ranks] = replace(several, steps={"fp32": real})
    found = waiting.fitted(here, config, counted).by_ranks[ranks].steps["fp32"]
    assert (found.spread, found.sending) == pytest.approx((spread, sending), rel=0.01, abs=1e-4)
    assert found.missed < 1e-3


@pytest.mark.parametrize("joined", [(1.0, 1.0), (40.0, 1.0), (1.0, 3.0)])
def test_what_no_spread_and_sending_foretell_makes_the_band_wider(joined):
    """Steps quicker than they could be, or far slower: the bound is taken, and by how much it misses."""
    told = made(alone=1.0)
    told.by_ranks[2].steps["fp32"] = replace(told.by_ranks[2].steps["fp32"], joined=joined, noise=0.01)
    told.by_ranks[1].steps["fp32"] = replace(told.by_ranks[1].steps["fp32"], noise=0.01)
    config, counted = jobs.config(train__batch_size=16), chain(2, tensors=(4_000_000,))
    told = waiting.fitted(told, config, counted)
    missed = told.by_ranks[2].steps["fp32"].missed
    assert missed > 0.05 and told.by_ranks[1].steps["fp32"].missed == 0
    node = replace(told.by_ranks[2].cluster("here"), device=cluster.Device("cpu", "made", 1e12, speed=1.0))
    about = Question(config, counted, 1000, node, told, 16)
    widths = {}
    for name, ranks in (("serial", 1), ("ddp", 2)):
        found = choose.predicted(about, name, ranks=ranks, number_format="fp32")
        widths[name] = found.band[1] / found.images_per_s
    assert widths["serial"] < 1.04 and widths["ddp"] >= 1 + missed


def test_how_long_ranks_wait_is_of_steps_that_recompute_nothing():
    """As they were measured, and as they are kept for a plan of either."""
    told, counted = made(), chain(2, norms=(8,))
    plain, again = (
        waiting.fitted(told, jobs.config(train__batch_size=16, execution__recompute=on), counted)
        for on in (False, True)
    )
    assert again == plain and plain.by_ranks[2].steps["fp32"].spread > 0


def test_what_is_solved_has_bounds():
    assert waiting.solved(lambda x: 1 + x, 0.9, 0, 1.5) == 0, "a step that is foretold too slow waits for nobody"
    assert waiting.solved(lambda x: 1 + x, 9.0, 0, 1.5) == 1.5
    assert waiting.solved(lambda x: 1 + x, 1.25, 0, 1.5) == pytest.approx(0.25, abs=1e-4)


def test_what_sharding_takes_beside_its_messages():
    """Two sizes make a line; the messages' own time is not in it, and noise does not make it negative."""
    path = cost.Route(2, 1, Hop(1e-4, 1e9), Hop(1e-4, 1e9), overhead_s=1e-4)
    small, large = sharding.SIZES

    def passes(fixed_s: float, per_byte_s: float) -> sharding.Passes:
        forward = {size: cost.gather_s(size, path) + fixed_s + per_byte_s * size for size in sharding.SIZES}
        backward = {
            size: forward[size] + cost.scatter_s(size, path) + 2 * (fixed_s + per_byte_s * size) for size in forward
        }
        return sharding.Passes(forward, backward)

    several = sharding.lines([passes(2e-3, 1e-9), passes(9e-3, 9e-9), passes(2e-3, 1e-9)])
    gathering, scattering = sharding.beyond(several, path)
    assert (gathering.fixed_s, gathering.row_s) == pytest.approx((2e-3, 1e-9))
    assert (scattering.fixed_s, scattering.row_s) == pytest.approx((4e-3, 2e-9))
    nothing, _ = sharding.beyond(
        sharding.lines([sharding.Passes({small: 0.0, large: 0.0}, {small: 0.0, large: 0.0})]), path
    )
    assert nothing.at(large) == 0
