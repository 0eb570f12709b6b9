"""Right before fast: what is compared, who is timed how often, and what ratios are of."""

import math

import numpy as np
import pytest
import torch

from fanlight import machine
from fanlight.kernels.rows import Case
from fanlight.scratch.bench import clock, contestants, limits, measured, networks, reported, subjects
from fanlight.scratch.bench.contestants import Contestant, Field, thread_counts
from fanlight.scratch.bench.limits import Limit
from fanlight.scratch.bench.subjects import Subject

FIELD = Field(("numpy", "torch"), 1, False)
WHAT = {"op": "relu", "shape": "3", "direction": "forward", "flop": 0.0, "bytes": 1e9}
LIMITS = [Limit("cpu", 1, "fp32", 1e9, 1e9)]


def test_errors_are_of_whole_results_and_no_number_is_never_right():
    wanted = [np.array([3.0, 4.0]), np.array([0.0])]
    assert clock.error([np.array([3.0, 4.5]), np.array([0.0])], wanted) == pytest.approx(0.1)
    assert clock.error([np.array([3.0, 4.0]), np.array([0.2])], wanted) == pytest.approx(0.2)
    assert math.isnan(clock.error([np.array([3.0, math.nan]), np.array([0.0])], wanted))
    assert math.isnan(clock.error([np.array([3.0, 4.0]), np.array([math.nan])], wanted))
    assert math.isnan(clock.error([np.zeros(3)], wanted))
    assert math.isnan(clock.error([], wanted)), "who gives nothing is not right"


def test_who_is_wrong_or_fails_is_not_timed():
    called = []

    def fails():
        raise RuntimeError("no such kernel\nand more")

    ones = [
        Contestant("numpy", lambda: np.ones(3), 1), Contestant("torch", lambda: called.append(1) or np.ones(3) * 1.1, 1),
        Contestant("numba", fails, 1), Contestant("triton", None, device="cuda", reason="no GPU"),
    ]  # fmt: skip
    off = [measured._error(one, [np.ones(3)]) for one in ones]
    rows = measured._timed(ones, off, most=1e-5, what=WHAT, field=FIELD, limits_=LIMITS, rounds=2)
    assert [row["ms"] is None for row in rows] == [False, True, True, True] and len(called) == 1
    assert rows[1]["reason"] == "wrong: 1.0e-01 off, at most 1e-05 is right" and rows[1]["max_error"] == pytest.approx(
        0.1
    )
    assert rows[2]["reason"] == "RuntimeError: no such kernel" and rows[3]["reason"] == "no GPU"
    assert rows[0]["n"] == 2 and rows[0]["share_of_limit"] == pytest.approx(1e3 / rows[0]["ms"])


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_row_without_a_compiler_says_what_to_install(is_wrapped):
    def fails():
        from torch._inductor import exc

        raise exc.InductorError(exc.InvalidCxxCompiler(), None) if is_wrapped else exc.InvalidCxxCompiler()

    one = Contestant("torch-compiled", fails, 1)
    assert measured._first(one) is None and one.call is None
    assert one.reason == "torch.compile writes C++ and found no compiler for it; install g++, or name one by CXX"


def test_a_reason_has_the_words_below_a_colon():
    assert (
        contestants.reason_of(RuntimeError("backend raised:\n  KeyError: x\n\nmore"))
        == "RuntimeError: backend raised: KeyError: x"
    )
    assert contestants.reason_of(ValueError()) == "ValueError: "


def test_an_epoch_that_fails_is_a_row_and_the_others_go_on(monkeypatch):
    losses = {"numpy": [2.0, 1.0], "torch": [2.0, math.nan]}

    def epoch(backend, device, threads):
        if backend == "numba":
            raise MemoryError("no room")
        return 0.25, losses[backend]

    monkeypatch.setattr(networks, "_epoch", epoch)
    rows = measured.of_epoch(Field(("numpy", "numba", "torch"), 1, False), rounds=1)
    found = {row["kind"]: row for row in rows}
    assert found["numpy"]["ms"] == 250 and found["numba"]["reason"] == "MemoryError: no room"
    assert found["torch"]["ms"] is None and "its losses are nan off NumPy's" in found["torch"]["reason"]


def test_an_epoch_without_numpy_is_compared_with_nothing(monkeypatch):
    monkeypatch.setattr(networks, "_epoch", lambda backend, device, threads: (0.25, [2.0]))
    (row,) = measured.of_epoch(Field(("torch",), 1, False), rounds=1)
    assert row["ms"] == 250 and row["max_error"] is None


def test_a_group_that_nobody_answers_is_known_before():
    def answers(*backends, group, number_format="fp32", has_gpu=False):
        how = {"number_format": number_format, "has_gpu": has_gpu}
        return [name for name in backends if contestants.answers(name, group, **how)]

    every = contestants.BACKENDS
    assert answers(*every, group="loss") == answers(*every, group="step") == list(every)
    assert answers(*every, group="batch") == list(every[1:])
    assert answers(*every, group="epoch") == ["loops", "numpy", "numba", "triton", "torch"]
    assert answers(*every, group="step", number_format="bf16", has_gpu=True) == []
    assert answers(*every, group="loss", number_format="bf16") == ["triton", "torch", "torch-graph"]
    assert answers(*every, group="loss", number_format="bf16", has_gpu=True) == list(every[3:])


def test_who_answers_has_a_contestant(monkeypatch):
    """`contestants.answers` says what the generators do."""
    subject = Subject("loss", "forward", ("cross_entropy",), Case("", (4, 3)))
    given = subjects.calls(subject)
    for name in contestants.BACKENDS:
        for number_format in ("fp32", "bf16"):
            has_any = bool(list(contestants.of(subject, given, Field((name,), 1, False, number_format))))
            assert has_any == contestants.answers(name, "loss", number_format=number_format, has_gpu=False), name


def test_all_take_turns_and_what_is_slow_has_fewer(monkeypatch):
    order, now = [], [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def one(name, takes_s):
        def call():
            order.append(name)
            now[0] += takes_s

        return Contestant("numpy", call, version=name)

    found = clock.measure([one("fast", 0.01), one("middle", 0.02), one("slow", 0.5), one("once", 5.0)], rounds=4)
    assert [len(values) for values in found] == [4, 4, 3, 1]
    assert found[0] == pytest.approx([0.01] * 4) and found[3] == [5.0]
    begins = [name for index, name in enumerate(order[4:]) if index == 0 or order[4:][index - 1] != name]
    assert begins == [
        "fast",
        "middle",
        "slow",
        "middle",
        "slow",
        "fast",
        "slow",
        "fast",
        "middle",
        "middle",
        "fast",
    ] or (begins[0] == "fast" and begins[3] == "middle")


def test_a_part_counts_as_many_times_as_it_fits(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += 0.25

    assert clock.measure([Contestant("loops", call, scale=1024.0)], rounds=5) == [[256.0]]
    assert clock.measure([Contestant("loops", call, timed=lambda: 7.0)], rounds=5) == [[7.0]]


def test_ratios_are_of_the_rounds_that_both_have():
    rows = [
        {"kind": kind, "device": "cpu", "ms": np.median(ms), "rounds_ms": ms, "vs_numpy": None, "vs_torch": None}
        for kind, ms in (
            ("numpy", [10.0, 40.0]),
            ("numba", [1.0, 4.0, 1.0]),
            ("torch", [2.0, 8.0, 2.0]),
            ("torch", [3.0] * 3),
        )
    ]
    measured._compared(rows)
    assert [row["vs_numpy"] for row in rows] == pytest.approx([1, 10, 5, (10 / 3 + 40 / 3) / 2])
    assert rows[1]["vs_torch"] == 2  # the better of two layouts


def test_limits_are_measured_per_thread_count_and_the_slower_one_counts(monkeypatch):
    monkeypatch.setattr(limits, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(limits, "SIDE", 16)
    before = torch.get_num_threads()
    found = limits.of_cpu([1])
    assert torch.get_num_threads() == before
    assert (found[0].device, found[0].threads) == ("cpu", 1) and min(found[0].bytes_per_s, found[0].flop_per_s) > 0
    limit = Limit("cpu", 1, "fp32", 10.0, 100.0)
    assert limit.seconds(bytes_=50, flop=100) == 5 and limit.seconds(bytes_=5, flop=100) == 1


def test_threads_go_in_powers_of_two_up_to_all():
    assert [thread_counts(most) for most in (1, 2, 3, 6, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_theirs_stand_beside_ours_of_the_same_work():
    rows = [
        {"op": "convolution", "direction": direction, "backend": name, "ms": ms, "format": "fp32"}
        for direction, name, ms in (
            ("forward", "numpy, 2 threads", 60.0), ("backward", "numpy, 2 threads", 140.0), ("forward", "numba, 2 threads", 5.0),
            ("backward", "numba, 2 threads", 15.0), ("forward", "triton, tiled", 1.0), ("backward", "loops, 1 thread", None),
        )
    ]  # fmt: skip
    half = [{**row, "ms": 1.0, "format": "bf16"} for row in rows]  # of another format: neither added nor in the way
    convolution = reported.beside([*rows, *half])[0]
    assert [each["seconds"] for each in convolution["ours"]] == [0.2, 0.02]  # forward and backward, or nothing
    assert convolution["ours"][1]["ratio"] == pytest.approx(10)
    assert [round(each["ratio"], 1) for each in convolution["theirs"]] == [0.2, 1.0, 37.9, 78.2]
    step = reported.beside(rows)[3]
    assert step["theirs"][0]["ratio"] is None and step["theirs"][3]["ratio"] == pytest.approx(40.2, abs=0.1)


def test_a_subject_of_no_flop_is_scaled_by_its_numbers():
    subject = Subject("tanh", "forward", ("tanh",), Case("", (4, 6, 5, 5), 6))
    assert subject.part().case.shape == (1, 2, 5, 5) and subject.parts() == 12


@pytest.mark.skipif(machine.cores_usable() < 2, reason="one core")
def test_numpy_s_blas_has_the_threads_and_numba_s_kernels_divide_products_themselves():
    import threadpoolctl

    def of_blas() -> set[int]:
        return {each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"}

    found = {}
    for backend in ("numpy", "numba"):
        with clock.threads(2, backend=backend):
            found[backend] = (of_blas(), torch.get_num_threads())
    assert found["numpy"] == ({2}, 2) and 1 in found["numba"][0] and found["numba"][1] == 2
