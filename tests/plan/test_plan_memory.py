"""Bytes of a rank: what divides divides, what is kept is kept; and once against a real step."""

from dataclasses import replace

import pytest

from fanlight.models import zoo
from fanlight.parallel.launch import Pool
from fanlight.parallel.layout import parse
from fanlight.plan import counting, memory
from fanlight.plan.memory import Kept
from fanlight.plan.operations import Asked
from plan.made import chain

BLOCKS = chain(
    8, tensors=(1_000_000,), kept_bytes=1e6, sent_bytes=1e5, pairs=(1e5,), divided=1.0, divided_numbers=1_000_000
)
KEPT = Kept(64)
ASKED = Asked(32)
WITHIN = 0.15  # of the peak resident of a process on a CPU


def of(text: str, ranks: int, *, asked: Asked = ASKED, kept: Kept = KEPT, **more) -> memory.Bytes:
    return memory.of(parse(text, ranks=None if ranks == 1 else ranks, **more), BLOCKS, asked, kept)


def test_serial_holds_all():
    found = of("serial", 1)
    assert found.weights == found.gradients == 8 * 4e6 and found.optimizer == 2 * 8 * 4e6
    assert found.activations == pytest.approx(32 * (8e6 + 2e5))
    assert found.batches == 4 * 32 * 3 * 64**2
    assert found.total == pytest.approx(sum([32e6, 32e6, 64e6, 32 * 8.2e6, 4 * 32 * 3 * 64**2]))


def test_layouts_divide_what_they_divide():
    serial = of("serial", 1)
    ddp, fsdp, tensor, pipe = (of(name, 4) for name in ("ddp", "fsdp", "tensor", "pipeline"))
    assert ddp.weights == serial.weights and ddp.activations == pytest.approx(serial.activations / 4)
    assert fsdp.optimizer == pytest.approx(serial.optimizer / 4) and fsdp.buckets > 0
    assert tensor.weights == pytest.approx(serial.weights / 4) and tensor.activations < serial.activations
    assert pipe.weights == pytest.approx(serial.weights / 4)
    assert of("replicate=2,pipe=2", 4).buckets > 0


def test_the_rank_with_most_rows_counts():
    """10 rows over 4 ranks are 3 on the last, and in two microbatches 2 of each; what is ahead is of whole batches."""
    one, two = (of("ddp", 4, asked=Asked(10, count)) for count in (1, 2))
    assert (one.activations, two.activations) == pytest.approx((3 * 8.2e6, 2 * 8.2e6))
    assert (one.batches, two.batches) == (4 * 3 * 3 * 64**2, 4 * 4 * 3 * 64**2)


def test_shards_keep_whole_gradients_until_the_last_microbatch():
    """shard.py sends their sum once; with one microbatch they go as they come."""
    assert of("fsdp", 4).gradients == 8e6
    assert of("fsdp", 4, asked=Asked(32, 2)).gradients == 32e6


def test_a_gathered_block_is_whole_but_for_what_its_tensor_group_divides():
    """On a GPU two of them, on a CPU all, whose heap does not give one's memory to the next."""
    assert of("fsdp", 4, kept=replace(KEPT, on_device=True)).buckets == 2 * 4e6
    assert of("fsdp", 4).buckets == 4 * 8 * 4e6
    assert of("shard=2,tensor=2", 4).buckets == 4 * 8 * 2e6


def test_frozen_weights_are_held_and_nothing_more_of_them():
    frozen = [replace(block, tensors=(), frozen=1_000_000, kept_bytes=0.0) for block in BLOCKS[:4]] + BLOCKS[4:]
    found = memory.of(parse("serial", ranks=None), frozen, ASKED, KEPT)
    assert found.weights == of("serial", 1).weights
    assert found.gradients == of("serial", 1).gradients / 2 and found.optimizer == of("serial", 1).optimizer / 2


def test_uneven_parts_of_a_batch_count_as_their_largest():
    assert of("ddp", 3, asked=Asked(32)).activations == of("ddp", 3, asked=Asked(33)).activations


def test_gpipe_keeps_every_microbatch_and_1f1b_no_more_than_ranks():
    asked = Asked(32, 16)
    keeps = {name: of("pipeline", 4, asked=asked, schedule=name).activations for name in ("gpipe", "1f1b")}
    assert keeps["gpipe"] / keeps["1f1b"] == pytest.approx(16 / 4, rel=0.1)


def test_less_is_kept_where_it_is_computed_again_and_in_short_formats():
    assert of("serial", 1, recompute=True).activations < of("serial", 1).activations / 4
    short = of("serial", 1, kept=replace(KEPT, is_short=True))
    assert short.activations == pytest.approx(of("serial", 1).activations / 2) and short.copies == 16e6


def test_averages_states_and_devices():
    assert of("serial", 1, kept=replace(KEPT, has_average=True)).average == 32e6
    assert of("serial", 1, kept=replace(KEPT, optimizer="sgd")).optimizer == 32e6
    assert of("serial", 1, kept=replace(KEPT, on_device=True)).batches == 0
    assert of("serial", 1, kept=replace(KEPT, base=7.0)).base == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "number_format"),
    [("resnet18", 64, "fp32"), ("resnet50", 16, "fp32"), ("convnext_atto", 32, "bf16")],
)
def test_a_real_process_takes_about_as_much(name, batch, number_format):
    """What it takes beside a step is measured at 8 rows; the rest is arithmetic."""
    counted = counting.count(zoo.create(name, classes=10, image_px=96, seed=0).model, image_px=96)
    with Pool(1, threads=1, preload=("torch", "timm", "fanlight.plan.measure")) as pool:
        told = pool.run("plan.jobs:peak", model=name, batch=batch, number_format=number_format)[0]
    serial, kept = parse("serial", ranks=None), Kept(96, is_short=number_format != "fp32")
    few, many = (memory.of(serial, counted, Asked(rows), kept) for rows in (8, batch))
    base = told["few_bytes"] - (few.total - few.batches)
    assert base + many.total - many.batches == pytest.approx(told["peak_bytes"], rel=WITHIN)
