import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.parallel.layout import AXES, Layout, parse

degrees = st.integers(1, 5)
layouts = st.builds(Layout, pp=degrees, dp_replicate=degrees, dp_shard=degrees, tp=degrees)


@given(layouts)
def test_every_part_of_the_data_is_seen_by_as_many_ranks_as_share_a_copy(layout: Layout):
    seen = [layout.data_rank(rank) for rank in range(layout.ranks)]
    assert sorted(seen) == sorted(list(range(layout.data_ranks)) * (layout.pp * layout.tp))


@given(layouts)
def test_ranks_are_numbered_pp_replicate_shard_tp_from_outermost_to_innermost(layout: Layout):
    rank = 0
    for _ in range(layout.pp):
        for replica in range(layout.dp_replicate):
            for shard in range(layout.dp_shard):
                for _ in range(layout.tp):
                    assert layout.data_rank(rank) == replica * layout.dp_shard + shard
                    rank += 1
    assert rank == layout.ranks


@given(st.integers(2, 300))
def test_ddp_gives_each_rank_its_own_part(ranks: int):
    layout = parse("ddp", ranks=ranks)
    assert (layout.name, layout.ranks, layout.data_ranks) == ("ddp", ranks, ranks)
    assert [layout.data_rank(rank) for rank in range(ranks)] == list(range(ranks))


@pytest.mark.parametrize("ranks", [None, 1])
def test_serial_is_one_process(ranks):
    assert parse("serial", ranks=ranks) == Layout()


@pytest.mark.parametrize(
    ("text", "ranks", "message"),
    [
        ("serial", 2, "layout serial with ranks 2: serial is one process; use --layout ddp or --ranks 1"),
        ("ddp", 1, "layout ddp with ranks 1: ddp is two or more processes; use --ranks 2 or --layout serial"),
        ("ddp", None, "layout ddp with ranks None: ddp is two or more processes; use --ranks 2 or --layout serial"),
        ("ddp", 0, "ranks: 0 processes cannot train; use --ranks 1 or more"),
        (
            "seriall",
            1,
            "layout 'seriall' does not exist; layouts that exist: serial, ddp, fsdp, hsdp, model-parallel, ",
        ),
        ("fsdp", 1, "layout fsdp with ranks 1: fsdp is two or more processes; use --ranks 2 or --layout serial"),
        ("hsdp", 2, "layout hsdp with ranks 2: each of 2 copies is sharded over two or more ranks; use --ranks 4, "),
        ("hsdp", 5, "layout hsdp with ranks 5: each of 2 copies is sharded over two or more ranks; use --ranks 4, "),
        ("dataparallel", 2, "layout dataparallel with ranks 2: dataparallel is one process; use --layout ddp, which"),
        ("pipe=2,pip=2", 4, "layout 'pipe=2,pip=2': 'pip' is no degree; use pipe, replicate, shard, tensor, as in "),
        ("pipe=2,pipe=2", 4, "layout 'pipe=2,pipe=2' says pipe twice; leave one out"),
        ("pipe=two", 2, "layout 'pipe=two': pipe=two is no number of ranks; write pipe=2"),
        ("pipe=0", 2, "layout 'pipe=0': pipe=0 is no number of ranks; write pipe=2"),
        (
            "pipe=2,tensor=2",
            2,
            "layout 'pipe=2,tensor=2' is 4 ranks, the product of its degrees, and there are 2; start 4 of them",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_way_out(text, ranks, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, ranks=ranks)
    assert str(caught.value).startswith(message)


def test_degrees_count_from_one():
    with pytest.raises(ConfigError, match="tp is 0; it counts ranks"):
        Layout(tp=0)


@pytest.mark.parametrize("rank", [-1, 6])
def test_a_rank_outside_the_layout_is_an_error(rank):
    with pytest.raises(ValueError, match="is not one of the 6 ranks"):
        Layout(pp=2, dp_shard=3).data_rank(rank)


@pytest.mark.parametrize(
    ("text", "ranks", "degrees", "schedule"),
    [
        ("fsdp", 3, (1, 1, 3, 1), ""), ("hsdp", 4, (1, 2, 2, 1), ""), ("model-parallel", 2, (2, 1, 1, 1), "sequential"),
        ("pipeline", 4, (4, 1, 1, 1), "1f1b"), ("tensor", 2, (1, 1, 1, 2), ""), ("local-sgd", 2, (1, 2, 1, 1), ""),
        ("diloco", 4, (1, 4, 1, 1), ""), ("dataparallel", 1, (1, 1, 1, 1), ""),
        ("replicate=2,pipe=2", 4, (2, 2, 1, 1), "1f1b"), ("shard=2,tensor=2", None, (1, 1, 2, 2), ""),
        ("tensor=2, pipe=3", 6, (3, 1, 1, 2), "1f1b"),
    ],
)  # fmt: skip
def test_names_and_products(text, ranks, degrees, schedule):
    layout = parse(text, ranks=ranks)
    assert (layout.pp, layout.dp_replicate, layout.dp_shard, layout.tp) == degrees
    assert (layout.name, layout.schedule, layout.stages_per_rank) == (text, schedule, 1)


@given(layouts)
def test_a_rank_and_its_place_are_each_others_inverse(layout: Layout):
    assert [layout.rank_at(layout.place(rank)) for rank in range(layout.ranks)] == list(range(layout.ranks))


@given(layouts, st.sets(st.sampled_from(AXES)))
def test_groups_part_the_ranks(layout: Layout, axes):
    groups = layout.groups(*axes)
    assert sorted(rank for group in groups for rank in group) == list(range(layout.ranks))
    for group in groups:
        for rank in group:
            assert layout.peers(rank, *axes) == group
            same = [
                layout.place(rank)[i] == layout.place(group[0])[i] for i, axis in enumerate(AXES) if axis not in axes
            ]
            assert all(same)


def test_hsdp_keeps_a_copy_on_each_machine():
    assert parse("hsdp", ranks=12, machines=3).dp_replicate == 3


@pytest.mark.parametrize(
    ("text", "schedule", "each", "expected"),
    [
        ("pipeline", None, None, ("1f1b", 1)), ("pipeline", "gpipe", None, ("gpipe", 1)),
        ("pipeline", None, 3, ("interleaved", 3)), ("pipeline", "interleaved", None, ("interleaved", 2)),
        ("model-parallel", "sequential", 1, ("sequential", 1)), ("replicate=1,pipe=2", "gpipe", None, ("gpipe", 1)),
    ],
)  # fmt: skip
def test_schedules(text, schedule, each, expected):
    layout = parse(text, ranks=2, schedule=schedule, stages_per_rank=each)
    assert (layout.schedule, layout.stages_per_rank) == expected
    assert layout.stages == 2 * expected[1]


@pytest.mark.parametrize(
    ("text", "schedule", "each", "message"),
    [
        ("ddp", "gpipe", None, "layout ddp has no pipeline to schedule; leave --pipeline-schedule and --stages-per-rank out"),
        ("model-parallel", "1f1b", None, "layout model-parallel has no pipeline to schedule"),
        ("pipeline", "zero-bubble", None, "execution.pipeline_schedule is 'zero-bubble'; use one of gpipe, 1f1b, interleaved"),
        ("pipeline", "1f1b", 2, "schedule 1f1b with 2 stage(s) per rank: interleaved is two or more, the others one"),
        ("pipeline", "interleaved", 1, "schedule interleaved with 1 stage(s) per rank: interleaved is two or more"),
    ],
)  # fmt: skip
def test_schedules_that_do_not_fit(text, schedule, each, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, ranks=2, schedule=schedule, stages_per_rank=each)
    assert str(caught.value).startswith(message)
