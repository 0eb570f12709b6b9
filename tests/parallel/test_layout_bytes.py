"""What ranks of every layout hold, in bytes: parameters, gradients, states of the optimizer, activations (docs/layouts/)."""

from typing import Any

import numpy as np
import pytest

from fanlight.models import small
from parallel import micro
from parallel.test_layouts import LAYOUTS, caller, values  # noqa: F401  (a fixture, `call`)
from parallel.test_parity import folder  # noqa: F401  (a fixture)


def rows_of_shard(count: int, *, rank: int, ranks: int) -> int:
    """⌈n/R⌉ of a first dimension of n, the last ranks fewer or none."""
    each = -(-count // ranks)
    return min(count, (rank + 1) * each) - min(count, rank * each)


@pytest.mark.parametrize("kind", ["parameters", "gradients", "optimizer"])
@pytest.mark.parametrize("layout", ["fsdp", "fsdp-4", "gpipe", "1f1b", "tensor", "tensor-4"])
def test_ranks_hold_what_the_formula_says(call, layout, kind):
    net = "micro-convnext"
    found = [answer[kind] for answer in call(LAYOUTS[layout][0], "held_bytes", values=values(net, layout))]
    shapes = [tuple(p.shape) for p in small.NAMES[net](3, 16).parameters()]
    each, ranks = 4, len(found)  # bytes; SGD's momentum is one state a parameter
    whole = sum(int(np.prod(shape)) for shape in shapes) * each
    if layout.startswith("fsdp"):
        for rank, count in enumerate(found):
            rows = [rows_of_shard(shape[0], rank=rank, ranks=ranks) for shape in shapes]
            assert count == sum(n * int(np.prod(shape[1:])) for n, shape in zip(rows, shapes)) * each
    elif layout.startswith("tensor"):
        hidden = 4 * micro.WIDTH
        divided = 4 * (hidden * micro.WIDTH + hidden + micro.WIDTH * hidden) * each  # fc1 with its bias, fc2 without
        assert found == [whole - divided + divided // ranks] * ranks
    else:
        assert sum(found) == whole and min(found) > 0


ACTIVATIONS_RTOL = 0.05  # the loss and the mean over places are a last stage's alone


def saved(call, layout: str, **more: Any) -> list[dict[str, Any]]:
    given = values("micro-vit", layout, **more) | {"train.batch_size": 16}
    return call(LAYOUTS[layout][0] if layout else 1, "saved_bytes", values=given)


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "fsdp-4", "hsdp"])
def test_activations_are_of_a_ranks_rows(call, layout):
    whole = saved(call, "", **{"train.microbatches": 4})[0]["bytes"]
    found = saved(call, layout, **{"train.microbatches": 4})
    for answer in found:
        assert answer["bytes"] == pytest.approx(whole / len(found), rel=ACTIVATIONS_RTOL)


@pytest.mark.parametrize("layout", ["gpipe", "1f1b", "model-parallel"])
def test_activations_of_a_pipeline_are_of_its_layers_and_what_is_in_flight(call, layout):
    whole = saved(call, "", **{"train.microbatches": 4})[0]["bytes"]
    found = saved(call, layout, **{"train.microbatches": 4})
    assert sum(answer["bytes"] / answer["in flight"] for answer in found) == pytest.approx(whole, rel=ACTIVATIONS_RTOL)
    ranks = len(found)
    flights = {
        "gpipe": [4] * ranks,
        "1f1b": [min(4, ranks - rank) for rank in range(ranks)],
        "model-parallel": [1] * ranks,
    }
    assert [answer["in flight"] for answer in found] == flights[layout]


def test_tensor_parallel_ranks_keep_a_share_of_what_lies_between(call):
    whole = saved(call, "", **{"train.microbatches": 4})[0]["bytes"]
    two, four = (saved(call, layout, **{"train.microbatches": 4})[0]["bytes"] for layout in ("tensor", "tensor-4"))
    between = 2 * (whole - two)  # what is divided, by half of it that is gone
    assert four == pytest.approx(whole - 3 / 4 * between, rel=ACTIVATIONS_RTOL) and two < 0.8 * whole
