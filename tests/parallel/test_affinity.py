"""Cores of the ranks of one machine."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.parallel import affinity
from fanlight.parallel.launch import Pool


@given(st.sets(st.integers(0, 300), min_size=1), st.integers(1, 40))
def test_shares_are_disjoint_and_together_all(cores, ranks):
    parts = affinity.shares(sorted(cores), ranks)
    assert len(parts) == ranks
    assert [core for part in parts for core in part] == sorted(cores)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.fixture
def topology(tmp_path):
    """Two processors of two cores of two hardware threads, numbered as Linux does: siblings are 4 apart."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
        (folder / "physical_package_id").write_text(f"{cpu % 2}\n")
    return tmp_path


def test_hardware_threads_of_a_core_and_cores_of_a_processor_stay_together(topology):
    order = affinity.in_order(range(8), cpus=topology)
    assert order == [0, 4, 2, 6, 1, 5, 3, 7]
    assert affinity.shares(order, 2) == [[0, 4, 2, 6], [1, 5, 3, 7]]
    assert affinity.shares(order, 4) == [[0, 4], [2, 6], [1, 5], [3, 7]]
    assert affinity.in_order({6, 2, 5}, cpus=topology) == [2, 6, 5]


def test_without_a_topology_each_cpu_is_a_core(tmp_path):
    assert affinity.in_order({9, 3, 10}, cpus=tmp_path) == [3, 9, 10]


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)), min_size=1))
def test_the_kernels_sets_are_read_as_they_were_written(ranges):
    text = ",".join(f"{low}-{low + more}" if more else str(low) for low, more in ranges) + "\n"
    assert affinity.numbers(text) == [cpu for low, more in ranges for cpu in range(low, low + more + 1)]


def test_some_cores_are_whole_ones_first(topology):
    """Two hardware threads of one core are not what somebody means who asks for two cores."""
    assert affinity.some(range(8), 2, cpus=topology) == [0, 2]
    assert affinity.some(range(8), 4, cpus=topology) == [0, 2, 1, 3]
    assert affinity.some(range(8), 5, cpus=topology) == [0, 2, 1, 3, 4]
    assert sorted(affinity.some({4, 6, 1}, 9, cpus=topology)) == [1, 4, 6]


def test_some_cores_may_begin_anywhere(topology):
    assert affinity.some(range(8), 3, first=6, cpus=topology) == [5, 7, 0]


@pytest.mark.parametrize(("quota", "moves"), [(4, True), (64, False)])
def test_containers_with_a_quota_do_not_all_take_the_first_cores(monkeypatch, quota, moves):
    monkeypatch.setattr(affinity.machine, "cores_usable", lambda: quota)
    firsts = set()
    for number in range(20):
        monkeypatch.setattr(affinity.platform, "node", lambda number=number: f"container-{number}")
        firsts.add(affinity._first(64))
    assert firsts <= set(range(64)) and (len(firsts) > 10 if moves else firsts == {0})


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, ""),
        ({"OMP_PROC_BIND": "true"}, "OMP_PROC_BIND is set"),
        ({affinity.SWITCH: "off"}, "FANLIGHT_AFFINITY is off"),
    ],
)
def test_why_ranks_are_left_alone(environment, why):
    assert affinity.unbound(environment) == why


def of_ranks(monkeypatch, ranks, *, cores=8, threads=1, held=None, **environment):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000, 1000 + cores)), raising=False)
    return affinity.of_ranks(ranks, threads=threads, cores=held, environment=environment)


def test_ranks_divide_the_cores_that_they_are_held_to(monkeypatch):
    assert of_ranks(monkeypatch, 2, held=2) == [[1000], [1001]]
    assert of_ranks(monkeypatch, 2, held=4, threads=2) == [[1000, 1001], [1002, 1003]]
    assert of_ranks(monkeypatch, 1, held=3, threads=3) == [[1000, 1001, 1002]]
    assert of_ranks(monkeypatch, 1, held=1, FANLIGHT_AFFINITY="off") is None
    assert of_ranks(monkeypatch, 2, held=2, threads=2) is None  # fewer cores than threads


def test_ranks_divide_the_usable_cores(monkeypatch):
    expected = [[1000, 1001, 1002, 1003], [1004, 1005, 1006, 1007]]
    assert of_ranks(monkeypatch, 2) == of_ranks(monkeypatch, 2, FANLIGHT_AFFINITY="on") == expected


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (1, {}), (9, {}), (4, {"threads": 3}), (2, {"FANLIGHT_AFFINITY": "off"}), (2, {"OMP_PROC_BIND": "close"}),
        (2, {"OMP_PLACES": "cores"}), (2, {"GOMP_CPU_AFFINITY": "0-3"}), (2, {"KMP_AFFINITY": "compact"}),
    ],
)  # fmt: skip
def test_ranks_stay_unbound(monkeypatch, ranks, options):
    assert of_ranks(monkeypatch, ranks, **options) is None


def test_a_system_without_affinity_leaves_ranks_unbound(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert affinity.of_ranks(2, threads=1, environment={}) is None


def test_a_switch_that_is_neither_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="FANLIGHT_AFFINITY is 'no'; use on or off"):
        of_ranks(monkeypatch, 2, FANLIGHT_AFFINITY="no")


def test_ranks_and_their_threads_keep_to_their_cores(pool):
    kept = pool(2)
    if kept.cores is None:
        pytest.skip("ranks are not bound here: one core, another system, or threads that are bound already")
    assert kept.run("parallel.stall_jobs:cores") == [[sorted(part)] * 2 for part in kept.cores]
    assert not set(kept.cores[0]) & set(kept.cores[1])


def test_one_process_is_held_to_one_core_with_its_threads():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")
    with Pool(1, threads=1, cores=1, preload=()) as held:
        if held.cores is None:
            pytest.skip("ranks are not bound here")
        assert held.run("parallel.stall_jobs:cores") == [[held.cores[0]] * 2] and len(held.cores[0]) == 1


def test_ranks_on_gpus_stay_unbound():
    with Pool(2, device="cuda", threads=1, preload=()) as pool:
        assert pool.cores is None
