from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fanlight.data.engines import chunks

COSTS = st.lists(st.floats(0.1, 1e9), max_size=200)


@given(COSTS, st.floats(0.1, 1e9))
def test_every_item_is_in_one_slice_and_only_a_single_one_is_above_the_limit(costs: list[float], most: float) -> None:
    parts = chunks.cut(costs, most=most)
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(len(costs)))
    for part in parts:
        assert part.stop - part.start == 1 or sum(costs[part]) <= most * (1 + 1e-9)
    for part, after in pairwise(parts):  # none could be joined with its neighbour's first
        assert sum(costs[part]) + costs[after.start] > most * (1 - 1e-9)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 1000)), max_size=60), st.integers(1, 2000))
def test_results_of_a_slice_fit(items: list[tuple[float, int]], size_most: int) -> None:
    costs, sizes = [cost for cost, _ in items], [size for _, size in items]
    parts = chunks.cut(costs, most=1e9, sizes=sizes, size_most=size_most)
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(len(costs)))
    assert all(part.stop - part.start == 1 or sum(sizes[part]) <= size_most for part in parts)


@given(st.lists(st.floats(1e5, 1e9), min_size=1, max_size=300), st.integers(1, 8))
def test_workers_end_together(costs: list[float], workers: int) -> None:
    """Each worker takes the next slice: none is later than an equal share by more than one slice."""
    most = chunks.task_cost(sum(costs), workers)
    parts = chunks.largest_first(chunks.cut(costs, most=most), costs)
    loads = [0.0] * workers
    for part in parts:
        loads[loads.index(min(loads))] += sum(costs[part])
    assert max(loads) <= sum(costs) / workers + max(most, max(costs)) * (1 + 1e-9)
    assert max(loads) - min(loads) <= max(most, max(costs)) * (1 + 1e-9)


def test_a_folder_of_large_photos_is_not_one_task() -> None:
    costs = [1e6] * 1000 + [5e7] * 100
    parts = chunks.cut(costs, most=chunks.task_cost(sum(costs), 4))
    assert max(sum(costs[part]) for part in parts) <= 2e8 and len(parts) >= 4 * chunks.TASKS_PER_WORKER
