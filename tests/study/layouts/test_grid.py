"""Which points there are."""

import pytest

from fanlight.errors import ConfigError
from fanlight.study.layouts import grid


def test_two_cores_without_a_gpu():
    found = grid.points(cores=2, gpus=0)
    alive = [point.name for point in found if not point.reason]
    for precision in ("fp32", "bf16"):
        assert {f"serial-1core-{precision}", f"serial-2cores-{precision}"} <= set(alive)
        assert {
            f"{name}-2-{precision}" for name in ("ddp", "fsdp", "pipeline", "model-parallel", "tensor", "local-sgd")
        } <= set(alive)
    assert len(alive) == 16
    missing = {point.name: point.reason for point in found if point.reason}
    assert missing["serial-1gpu-fp32"] == "no GPU is visible"
    assert missing["dataparallel-1gpus-bf16"] == "splits batches over the GPUs of one process, and 0 can be used"
    assert len({point.name for point in found}) == len(found)


def test_threads_and_cores_follow_the_ranks():
    found = {
        point.name: point for point in grid.points(cores=8, gpus=0, names=["ddp"], precisions=["fp32"], device="cpu")
    }
    assert [(found[f"ddp-{n}-fp32"].threads, found[f"ddp-{n}-fp32"].cores) for n in (2, 4, 8)] == [
        (4, 8),
        (2, 8),
        (1, 8),
    ]
    assert found["serial-1core-fp32"].cores == 1 and found["serial-8cores-fp32"].threads == 8
    over = grid.points(cores=2, gpus=0, names=["ddp"], ranks=[4], precisions=["fp32"], device="cpu")[-1]
    assert (over.ranks, over.threads, over.cores) == (4, 1, 2)


def test_baselines_are_always_there():
    found = grid.points(cores=4, gpus=2, names=["ddp"], precisions=["bf16"])
    names = [point.name for point in found if not point.reason]
    assert names == [
        "serial-1core-bf16", "serial-4cores-bf16", "ddp-2-bf16", "ddp-4-bf16", "serial-1gpu-bf16", "ddp-2gpus-bf16"
    ]  # fmt: skip


def test_a_product_has_its_own_ranks_and_a_name_for_folders():
    found = grid.points(cores=4, gpus=0, names=["replicate=2,pipe=2"], precisions=["fp32"], device="cpu")[-1]
    assert found.ranks == 4 and found.name == "replicate2-pipe2-4-fp32" and not found.reason


def test_what_a_layout_cannot_be_is_its_reason():
    found = grid.points(cores=2, gpus=0, names=["hsdp"], precisions=["fp32"], device="cpu")[-1]
    assert "layout hsdp with ranks 2" in found.reason


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"names": ["dpp"]}, "--layouts 'dpp' does not exist.*Near names: ddp"),
        ({"ranks": [0]}, "--ranks 0: numbers from 1 on"),
        ({"precisions": ["fp8"]}, "--precisions 'fp8': choose fp32, bf16, fp16"),
    ],
)
def test_refusals(asked, said):
    with pytest.raises(ConfigError, match=said):
        grid.points(cores=2, gpus=0, **asked)
