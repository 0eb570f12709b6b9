import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.parallel.layout import Layout, parse

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
        ("fsdp", 4, "layout 'fsdp' does not exist; layouts that exist: serial, ddp."),
        ("seriall", 1, "layout 'seriall' does not exist; layouts that exist: serial, ddp. Near names: serial."),
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
