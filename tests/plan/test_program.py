"""Programs of layouts, played: timelines made by hand, closed formulas, one rank for all against every rank."""

import numpy as np
import pytest
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import empty

from fanlight.data import order
from fanlight.parallel import cutting, schedule
from fanlight.parallel.layout import Layout, parse
from fanlight.plan import cost, routes, stages
from fanlight.plan.cluster import Cluster, Device, Hop
from fanlight.plan.cost import Line
from fanlight.plan.operations import Asked, Op
from fanlight.plan.program import APART_STEPS, EXCHANGE_BYTES, EXCHANGE_STEPS, NORM_BYTES, STATISTICS, program
from fanlight.plan.simulate import simulate
from fanlight.study import laws
from fanlight.train import ledger
from plan.made import FREE, chain, machine

LAYOUTS = [
    ("serial", 1), ("ddp", 4), ("fsdp", 4), ("hsdp", 4), ("tensor", 4), ("pipeline", 4), ("model-parallel", 4), ("local-sgd", 4),
    ("replicate=2,pipe=2", 4), ("replicate=2,tensor=2", 4), ("pipe=2,tensor=2", 4), ("shard=2,tensor=2", 4),
]  # fmt: skip


def agreed(bytes_per_s: float, ranks: int = 2, *, steps: int = 1, is_whole: bool = True) -> float:
    """What the step's own sums take, exchanged every so many steps, and the norm of a gradient in parts; without latency."""
    size = EXCHANGE_BYTES / steps + (0 if is_whole else NORM_BYTES)
    return 2 * (ranks - 1) / ranks * size / bytes_per_s


def step_s(text, ranks, blocks, asked, cluster=FREE, **more) -> float:
    return simulate(program(parse(text, ranks=ranks), blocks, asked, cluster, **more)).step_s


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize(("text", "ranks"), LAYOUTS)
def test_one_rank_for_all_takes_as_long_as_every_rank(text, ranks, kind):
    cluster = machine(
        nodes=2, devices=2, latency_s=1e-3, bytes_per_s=1e5, kind=kind, steals=0.3, tensor_s=1e-3, contention=0.1
    )
    blocks = chain(
        6, tensors=(900, 90), sent_bytes=400.0, pairs=(400.0,), divided=0.9, divided_numbers=900, norms=(8,), buffers=16
    )
    asked = Asked(32, 4, bucket_bytes=7000, update_s=1e-6, host_s=0.01, input_s=0.5)
    both = [step_s(text, ranks, blocks, asked, cluster, collapsed=collapsed) for collapsed in (True, False)]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


RAGGED = [
    ("replicate=4,tensor=3", 12), ("tensor=3,replicate=5", 15), ("shard=3,replicate=4", 12), ("fsdp", 12), ("ddp", 13),
    ("replicate=3,pipe=4", 12), ("pipe=3,tensor=3", 9), ("shard=3,tensor=3", 9), ("pipeline", 16),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize(("text", "ranks"), RAGGED)
def test_groups_that_lie_across_nodes_are_waited_for(text, ranks, kind):
    """Three ranks on nodes of eight: two groups stay inside, one does not. The one rank that stands for all waits for it."""
    cluster = Cluster(
        "made", 2, 8, Device(kind), Hop(1e-4, 1e7), Hop(1e-2, 1e5), steals=0.3, tensor_s=1e-3, overhead_s=1e-3
    )
    blocks = chain(
        16,
        tensors=(900, 90),
        sent_bytes=400.0,
        pairs=(400.0,),
        divided=0.9,
        divided_numbers=900,
        norms=(8,),
        buffers=16,
    )
    asked = Asked(60, 4, bucket_bytes=7000, update_s=1e-6, host_s=0.01)
    both = [step_s(text, ranks, blocks, asked, cluster, collapsed=collapsed) for collapsed in (True, False)]
    assert both[0] == pytest.approx(both[1], rel=1e-12)


def test_groups_share_adapters_only_with_those_that_cross():
    """Ranks 6, 7 and 8 are the one group of three that lies on two nodes of eight: nobody sends beside it."""
    layout = parse("replicate=4,tensor=3", ranks=12)
    found = routes.lies(layout, 8, ("tp",))
    assert [found[layout.place(rank)] for rank in range(12)] == [(1, 1)] * 6 + [(2, 1)] * 3 + [(1, 1)] * 3
    assert set(routes.lies(layout, 8, ("dp_replicate",)).flat) == {(2, 3)}
    assert set(routes.lies(parse("hsdp", ranks=16, machines=2), 8, ("dp_replicate",)).flat) == {(2, 8)}


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_groups_lie_where_their_ranks_are(pp, replicate, shard, tp, devices):
    layout = Layout(pp=pp, dp_replicate=replicate, dp_shard=shard, tp=tp)
    for axes in (("tp",), ("dp_shard",), ("dp_replicate",), ("dp_replicate", "dp_shard")):
        found = routes.lies(layout, devices, axes)
        groups = [{rank // devices for rank in group} for group in layout.groups(*axes)]
        across = [nodes for nodes in groups if len(nodes) > 1]
        for group, nodes in zip(layout.groups(*axes), groups):
            beside = max(sum(node in other for other in across) for node in nodes) if len(nodes) > 1 else 1
            assert {found[layout.place(rank)] for rank in group} == {(len(nodes), beside)}


def test_a_step_waits_for_the_rank_with_most_rows():
    assert [step_s("ddp", 4, chain(1), Asked(batch)) for batch in (32, 33, 36)] == pytest.approx([24, 27, 27])


def test_norms_wait_in_line_behind_gradients_on_their_way():
    """The head's gradients leave first; the statistics of the block before it come behind them, and its backward's end waits."""
    blocks = [*chain(1, norms=(8,)), *chain(1, tensors=(1_000_000,))]
    cluster = machine(devices=2, bytes_per_s=1e6)
    ops = program(parse("ddp", ranks=2), blocks, Asked(2, bucket_bytes=4_000_000), cluster)
    found = simulate(ops)
    sent = next(i for i, op in enumerate(ops) if op.name == "all-reduce gradients" and op.seconds > 1)
    met = [i for i, op in enumerate(ops) if op.name == STATISTICS]
    assert len(met) == 2, "one in a forward, one in a backward"
    assert found.begins[met[1]] == pytest.approx(found.ends[sent])
    last = max(i for i, op in enumerate(ops) if op.name == "host")
    assert found.begins[last] >= found.ends[met[1]]


def test_each_of_a_tensor_group_reads_all_its_rows():
    """A node that prepares 10 images a second has 8 for each of two ranks to prepare."""
    cluster = machine(devices=2, bytes_per_s=1e30, images_per_s=10.0)
    blocks = chain(1, forward_s=1e-6, backward_s=1e-6, pairs=(1.0,), divided=1.0)
    assert step_s("tensor", 2, blocks, Asked(8), cluster) == pytest.approx(1.6, rel=0.01)
    assert step_s("ddp", 2, blocks, Asked(8), cluster) == pytest.approx(0.8, rel=0.01)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@given(ranks=st.integers(2, 6), microbatches=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_the_bubble_of_an_even_pipeline_is_the_closed_formula(name, ranks, microbatches):
    layout = parse("pipeline", ranks=ranks, schedule=name)
    found = simulate(program(layout, chain(ranks), Asked(microbatches, microbatches), FREE))
    assert found.step_s == pytest.approx(3 * (microbatches + ranks - 1))
    for rank in range(ranks):
        assert found.idle_s(rank) / found.step_s == pytest.approx(cost.bubble(ranks, microbatches))


@pytest.mark.parametrize("microbatches", [4, 8, 16])
def test_interleaved_stages_shrink_the_bubble(microbatches):
    layout = parse("pipeline", ranks=4, schedule="interleaved", stages_per_rank=2)
    found = simulate(program(layout, chain(8, forward_s=0.5, backward_s=1.0), Asked(microbatches, microbatches), FREE))
    closed = 3 * microbatches / (1 - cost.bubble(4, microbatches, stages_per_rank=2))
    assert found.step_s == pytest.approx(closed)


@given(
    st.sampled_from(["gpipe", "1f1b", "sequential"]), st.integers(2, 4), st.integers(1, 6), st.integers(0, 2**32 - 1)
)
@settings(max_examples=20, deadline=None)
def test_uneven_pipelines_take_the_schedules_own_span(name, ranks, microbatches, seed):
    """Blocks and makespan() are played by two programs that know nothing of each other."""
    draws = np.random.default_rng(seed)
    forward, backward = draws.uniform(1, 3, ranks), draws.uniform(1, 3, ranks)
    blocks = [chain(1, forward_s=f, backward_s=b)[0] for f, b in zip(forward, backward)]
    layout = parse(
        "model-parallel" if name == "sequential" else "pipeline",
        ranks=ranks,
        schedule=None if name == "sequential" else name,
    )
    found = (
        step_s(layout.name, ranks, blocks, Asked(microbatches, microbatches), FREE)
        if name == "sequential"
        else simulate(program(layout, blocks, Asked(microbatches, microbatches), FREE)).step_s
    )
    orders = schedule.orders(name, ranks=ranks, stages_per_rank=1, microbatches=microbatches)
    assert found == pytest.approx(schedule.makespan(orders, forward_s=list(forward), backward_s=list(backward)))


def test_ddp_sends_a_bucket_while_the_next_is_computed():
    """Two blocks, backward 2 s each, gradients of 4,000 bytes each in a bucket of their own, 3 s on their way.

    forward 0–2, backward of the second 2–4 and of the first 4–6; sums 4–7 and 7–10; the optimizer after it."""
    cluster = machine(devices=2, bytes_per_s=4000 / 3)
    asked = Asked(2, bucket_bytes=4000, update_s=1e-3)
    ops = program(parse("ddp", ranks=2), chain(2), asked, cluster)
    found = simulate(ops)
    times = {op.name: (begin, end) for op, begin, end in zip(ops, found.begins, found.ends)}
    assert times["backward b0"] == (4.0, 6.0)
    sums = [(b, e) for op, b, e in zip(ops, found.begins, found.ends) if op.name == "all-reduce gradients"]
    assert sums == [pytest.approx((4, 7)), pytest.approx((7, 10))]
    assert found.step_s == pytest.approx(10 + 2000 * 1e-3 + agreed(4000 / 3))


def test_gradients_that_are_rounded_on_their_way_take_half_as_long():
    cluster = machine(devices=2, bytes_per_s=4000 / 3)
    asked = Asked(2, bucket_bytes=8000, gradient_bytes=2.0)
    assert step_s("ddp", 2, chain(2), asked, cluster) == pytest.approx(6 + 3 + agreed(4000 / 3))


def test_ddp_waits_for_all_it_sends_where_one_bucket_holds_all():
    cluster = machine(devices=2, bytes_per_s=4000 / 3)
    assert step_s("ddp", 2, chain(2), Asked(2, bucket_bytes=8000), cluster) == pytest.approx(6 + 6 + agreed(4000 / 3))


def test_microbatches_send_once():
    cluster = machine(devices=2, bytes_per_s=4000 / 3)
    ops = program(parse("ddp", ranks=2), chain(2), Asked(8, 4, bucket_bytes=4000), cluster)
    assert sum(op.name == "all-reduce gradients" for op in ops) == 2
    assert simulate(ops).step_s == pytest.approx(4 * 6 - 2 + 6 + agreed(4000 / 3))


def test_sending_that_takes_the_core_hides_nothing():
    """6 s of computing and two buckets of 3 s, one after the other; the last has nothing to take anything from."""
    cluster = machine(devices=2, bytes_per_s=4000 / 3, steals=1.0)
    asked = Asked(2, bucket_bytes=4000)
    assert step_s("ddp", 2, chain(2), asked, cluster) == pytest.approx(6 + 2 * 3 + agreed(4000 / 3))


def test_a_message_has_the_librarys_overhead():
    """Forward and backward wait for one each; norm and sums are collectives."""
    usual, slower = (
        step_s("pipeline", 2, chain(2), Asked(1), machine(devices=2, bytes_per_s=1e30, overhead_s=each))
        for each in (0, 0.25)
    )
    assert slower - usual == pytest.approx(2 * 0.25 + 2 * 0.25)


def test_a_message_takes_half_of_what_an_all_reduce_takes_from_each_side():
    """Messages of 1 s take 0.5 s of who computes beside them. Forwards 0–1 and, 0.5 s late, 1.5–2.5 on the first rank; the
    second begins when the first message is there, at 2, so that receiving it took nothing; the second takes 0.5 s of 2–3.

    One microbatch has nothing beside its messages: 1 + 1 + 1, 2 + 1 + 2."""
    cluster = machine(devices=2, bytes_per_s=1000, steals=1.0)
    blocks = chain(2, sent_bytes=1000.0)
    sums = agreed(1000, is_whole=False)
    assert step_s("pipeline", 2, blocks, Asked(1), cluster) == pytest.approx(8 + sums)
    layout = parse("pipeline", ranks=2, schedule="gpipe")
    ops = program(layout, blocks, Asked(2, 2), cluster)
    found = simulate(ops)
    times = [(op.ranks[0], b, e) for op, b, e in zip(ops, found.begins, found.ends) if op.name.startswith("forward")]
    assert times == [(0, 0, 1), (0, 1.5, 2.5), (1, 2, 3), (1, 3.5, 4.5)]


@pytest.mark.parametrize("steals", [0.0, 0.5, 1.0])
def test_what_is_sent_after_all_computing_costs_its_own_time_once(steals):
    cluster = machine(devices=2, bytes_per_s=4000 / 3, steals=steals, contention=0.5)
    one_bucket = step_s("ddp", 2, chain(2), Asked(2, bucket_bytes=8000), cluster)
    assert one_bucket == pytest.approx(6 * 1.5 + 6 + agreed(4000 / 3))


def test_half_of_a_second_of_sending_is_taken_from_computing():
    """The first bucket, 3 s, goes while the second block's 2 s are computed: 1.5 s of them are lost; the second follows."""
    cluster = machine(devices=2, bytes_per_s=4000 / 3, steals=0.5)
    found = step_s("ddp", 2, chain(2), Asked(2, bucket_bytes=4000), cluster)
    assert found == pytest.approx(4 + 1.5 + 2 + 3 + agreed(4000 / 3))


@pytest.mark.parametrize(("kind", "seconds"), [("cpu", 6 + 4 * 1.0 + 2 * 2.0), ("cuda", 6 + 1.0 + 1.0 + 1.0)])
def test_fsdp_gathers_before_every_pass_and_scatters_after_it(kind, seconds):
    """Two blocks of 4,000 bytes; half of it comes in 1 s. gloo gathers when a block is due, four times, and scatters in the time
    of an all-reduce, waited for. A GPU gathers the next block's while it computes, so only the first of a pass is waited for; the
    last block's gradients hide behind nothing."""
    cluster = machine(devices=2, bytes_per_s=2000, kind=kind)
    found = step_s("fsdp", 2, chain(2), Asked(2), cluster)
    assert found == pytest.approx(seconds + agreed(2000, steps=EXCHANGE_STEPS[kind], is_whole=False))


def test_what_sharded_blocks_take_beside_their_messages_is_computing():
    """Once for each of two gathers and once for the scatter of 2 blocks of 4,000 bytes: 0.1 + 0.4 s, and 0.2 + 0.8 s."""
    cluster = machine(devices=2, bytes_per_s=2000)
    asked = Asked(2, gathering=Line(0.1, 1e-4), scattering=Line(0.2, 2e-4))
    more_s = step_s("fsdp", 2, chain(2), asked, cluster) - step_s("fsdp", 2, chain(2), Asked(2), cluster)
    assert more_s == pytest.approx(2 * (2 * 0.5 + 1.0))
    assert step_s("ddp", 2, chain(2), asked, cluster) == step_s("ddp", 2, chain(2), Asked(2), cluster)


def test_tensor_parallel_blocks_compute_a_share_and_add_up_twice():
    """Half of the arithmetic is divided over 2: ¾ of 3 s; 1,000 bytes are added up after forward and backward."""
    cluster = machine(devices=2, bytes_per_s=1000)
    blocks = chain(1, pairs=(1000.0,), divided=0.5, divided_numbers=500)
    assert step_s("tensor", 2, blocks, Asked(1), cluster) == pytest.approx(
        0.75 * 3 + 2 * 1.0 + agreed(1000, is_whole=False)
    )


def test_a_backward_adds_up_the_gradient_of_what_a_pair_was_given():
    """1,000 bytes leave it, and 3,000 entered; of the images that enter the first nobody wants a gradient."""
    cluster = machine(devices=2, bytes_per_s=1000)
    for entered, seconds in ((3000.0, 1.0 + 3.0), (0.0, 1.0)):
        blocks = chain(1, pairs=(1000.0,), pairs_backward=(entered,))
        assert step_s("tensor", 2, blocks, Asked(1), cluster) == pytest.approx(
            3 + seconds + agreed(1000, is_whole=False)
        )


def test_a_short_format_leaves_messages_what_their_numbers_are_left():
    """Between two stages 1,000 bytes are sent there and back: all of them where a piece puts fp32 out, else half."""
    cluster = machine(devices=2, bytes_per_s=1000)
    for share, seconds in ((1.0, 2.0), (0.5, 1.0)):
        blocks = chain(2, sent_bytes=1000.0, sent_short=share)
        for activation_bytes, expected in ((2.0, seconds), (4.0, 2.0)):
            asked = Asked(1, activation_bytes=activation_bytes)
            assert step_s("pipeline", 2, blocks, asked, cluster) == pytest.approx(
                6 + expected + agreed(1000, is_whole=False)
            )


def test_a_short_format_leaves_sums_what_their_numbers_are_left():
    cluster = machine(devices=2, bytes_per_s=1000)
    blocks = chain(1, pairs=(1000.0,), pairs_backward=(3000.0,), pairs_short=(0.5, 1.0))
    found = step_s("tensor", 2, blocks, Asked(1, activation_bytes=2.0), cluster)
    assert found == pytest.approx(3 + 0.5 + 3.0 + agreed(1000, is_whole=False))


@pytest.mark.parametrize(
    ("asked", "ranks", "rows"),
    [(Asked(10), 4, 3), (Asked(10, 3), 2, 2 + 2 + 2), (Asked(10, row_unit=2), 4, 4), (Asked(7, 2), 2, 2 + 2), (Asked(8), 4, 2)],
)  # fmt: skip
def test_the_rank_with_most_rows_is_waited_for(asked, ranks, rows):
    """10 rows over 4 ranks are 2, 3, 2 and 3; in 3 microbatches 3, 3 and 4, and 2 each on a rank of two; pairs stay whole."""
    assert step_s("ddp", ranks, chain(1), asked) == pytest.approx(3 * rows)


@given(st.integers(1, 200), st.integers(1, 6), st.integers(1, 8), st.integers(1, 2))
def test_rows_are_those_that_batches_are_cut_into(units, microbatches, ranks, unit):
    cut = [
        order.rank_slices(units * unit, microbatches=microbatches, rank=rank, ranks=ranks, unit=unit)
        for rank in range(ranks)
    ]
    most = [max(each[m].stop - each[m].start for each in cut) for m in range(microbatches)]
    assert Asked(units * unit, microbatches, unit).rows(ranks) == tuple(most)


def test_synchronised_norms_meet_in_forward_and_backward():
    cluster = machine(devices=2, latency_s=0.25, bytes_per_s=1e30)
    blocks = chain(1, norms=(8, 8))
    ddp = step_s("ddp", 2, blocks, Asked(2), cluster)
    assert ddp == pytest.approx(3 + 4 * 0.25 + 2 * 0.25 + 2 * 0.25)  # norms, one bucket, and the step's own sums


def test_ranks_that_train_apart_pay_a_share_of_a_meeting():
    cluster = machine(devices=2, bytes_per_s=4000)
    assert step_s("local-sgd", 2, chain(2), Asked(2, sync_every=8), cluster) == pytest.approx(
        6 + (2 + agreed(4000)) / 8
    )


def test_sums_are_exchanged_as_often_as_a_run_does():
    assert {"cpu": 1, "cuda": ledger.GPU_STEPS} == EXCHANGE_STEPS and ledger.APART_STEPS == APART_STEPS
    for kind, steps in EXCHANGE_STEPS.items():
        cluster = machine(devices=2, bytes_per_s=8, kind=kind)
        found = [step_s("ddp", 2, chain(1, tensors=()), Asked(2, exchanges=each), cluster) for each in (True, False)]
        assert found == pytest.approx([3 + 8.0 / steps, 3])


@pytest.mark.parametrize(
    ("kind", "sync_every", "steps"),
    [("cpu", 8, 8), ("cpu", 100, 32), ("cuda", 8, 16), ("cuda", 10, 10), ("cuda", 1, 10)],
)
def test_ranks_that_train_apart_exchange_sums_when_they_meet(kind, sync_every, steps):
    cluster = machine(devices=2, bytes_per_s=8, kind=kind)
    found = step_s("local-sgd", 2, chain(1, tensors=()), Asked(2, sync_every=sync_every), cluster)
    assert found == pytest.approx(3 + 8.0 / steps)


@pytest.mark.parametrize(("text", "norms"), [("ddp", 0), ("fsdp", 1), ("pipeline", 1), ("tensor", 1)])
def test_the_norm_of_a_gradient_in_parts_is_added_up(text, norms):
    cluster = machine(devices=2, bytes_per_s=1e30, overhead_s=1.0)
    ops = program(parse(text, ranks=2), chain(2, pairs=(1.0,)), Asked(2), cluster)
    assert [op.seconds for op in ops if op.name == "norm of the gradient"] == [1.0] * norms


def test_no_stage_moves_its_weights_before_all_agree():
    """The second stage ends first, and has most weights to move."""
    blocks = [*chain(1, tensors=(10,)), *chain(1, tensors=(1000,))]
    ops = program(parse("pipeline", ranks=2), blocks, Asked(1, update_s=1e-3), machine(devices=2, bytes_per_s=1e30))
    found = simulate(ops)
    assert found.step_s == pytest.approx(6 + 1.0)
    assert [begin for op, begin in zip(ops, found.begins) if op.name == "optimizer"] == pytest.approx([6.0, 6.0])


def test_input_is_hidden_until_it_takes_longer():
    for input_s, expected in ((2.0, 3.0), (5.0, 5.0)):
        assert step_s("serial", 1, chain(1), Asked(1, input_s=input_s)) == pytest.approx(expected)
    slow = machine(devices=4, images_per_s=0.5)
    assert step_s("ddp", 4, chain(1), Asked(4), slow) == pytest.approx(8.0)


def test_recomputing_costs_another_forward():
    layout = parse("serial", ranks=1, recompute=True)
    assert simulate(program(layout, chain(3), Asked(1), FREE)).step_s == pytest.approx(3 * (1 + 1 + 2))


def test_norms_of_a_recomputed_forward_meet_again():
    cluster = machine(devices=2, latency_s=0.25, bytes_per_s=1e30)
    usual, again = (
        simulate(program(parse("ddp", ranks=2, recompute=on), chain(1, norms=(8, 8)), Asked(2), cluster)).step_s
        for on in (False, True)
    )
    assert again - usual == pytest.approx(1 + 2 * 0.25), "a forward of one row, and two gathers"


def test_the_slowest_rank_is_waited_for():
    """A rank that is drawn slow makes the step slow; the expected largest draw is what the collapsed program has."""
    spread, ranks = 0.05, 16
    cluster = machine(devices=ranks, bytes_per_s=1e30, spread=spread)
    collapsed = step_s("ddp", ranks, chain(2), Asked(ranks), cluster)
    draws = np.random.default_rng(0).normal(1, spread, (300, ranks))
    played = [
        step_s("ddp", ranks, chain(2), Asked(ranks), cluster, collapsed=False, slower=lambda rank, row=row: row[rank])
        for row in draws
    ]
    assert collapsed == pytest.approx(6 * (1 + spread * cost.largest(ranks)))
    assert collapsed == pytest.approx(np.mean(played), rel=3e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_amdahls_law_is_recovered_from_simulated_steps(sigma):
    """A host part that ranks do not share, of a batch that is divided."""
    ranks = [1, 2, 4, 8, 16]
    asked = Asked(64, host_s=sigma * 64 * 3)
    rates = [
        [64 / step_s("ddp" if n > 1 else "serial", n, chain(1, forward_s=1 - sigma, backward_s=2 * (1 - sigma)), asked)]
        * 2
        for n in ranks
    ]
    found = laws.fit("amdahl", ranks, np.array(rates) * [[1.0, 1.0000001]], scaling="strong")
    assert found.parameters[0].value == pytest.approx(sigma, rel=1e-3)


def test_contention_is_gunthers_first_term():
    """Ranks that slow each other by a constant for each neighbour: σ of the universal scalability law."""
    ranks = [1, 2, 4, 8, 16]
    cluster = machine(devices=16, bytes_per_s=1e30, contention=0.03)
    rates = [[1 / step_s("ddp" if n > 1 else "serial", n, chain(1), Asked(48), cluster)] * 2 for n in ranks]
    found = laws.fit("usl", ranks, np.array(rates) * [[1.0, 1.0000001]], scaling="strong")
    values = {each.name: each.value for each in found.parameters}
    assert values["sigma"] == pytest.approx(0.03, rel=1e-2) and values["kappa"] < 1e-4


def test_a_thousand_ranks_one_by_one_take_as_long_as_the_one_that_stands_for_all():
    cluster = machine(nodes=128, devices=8, latency_s=1e-5, bytes_per_s=1e10, kind="cuda")
    blocks = chain(8, tensors=(1000, 500_000))
    every = simulate(program(parse("ddp", ranks=1024), blocks, Asked(32 * 1024), cluster, collapsed=False))
    assert every.step_s == pytest.approx(step_s("ddp", 1024, blocks, Asked(32 * 1024), cluster))


def test_a_program_that_waits_for_itself_is_refused():
    with pytest.raises(ValueError, match="waits for itself"):
        simulate([Op((0,), "compute", 1.0, (1,), "a"), Op((0,), "compute", 1.0, (), "b")])


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.integers(1, 4000), st.integers(1, 4000))
def test_buckets_are_the_reducers_own(numbers, first, further):
    """torch's reducer cuts tensors by the same rule; the arithmetic here must not drift from it."""
    tensors = [empty(n) for n in numbers]
    theirs, _ = dist._compute_bucket_assignment_by_size(tensors, [first, further], [False] * len(numbers))
    assert cutting.filled([4.0 * n for n in numbers], limits=[first, further]) == [list(each) for each in theirs]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.integers(1, 4000))
def test_every_gradient_is_in_one_bucket_that_is_not_too_large(sizes, limit):
    found = cutting.within(sizes, limit=limit)
    assert [index for bucket in found for index in bucket] == list(range(len(sizes)))
    assert all(len(bucket) == 1 or sum(sizes[i] for i in bucket) <= limit for bucket in found)


def test_stages_are_cut_where_costs_balance():
    blocks = [*chain(1, forward_s=3, backward_s=3), *chain(3)]
    assert stages.balanced(blocks, Asked(1), stages=2, rows=1) == [0, 1, 1, 1]
