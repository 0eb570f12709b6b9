"""Which points there are."""

import pytest

from fanlight.errors import ConfigError
from fanlight.parallel import layout as layouts
from fanlight.study.layouts import grid


def test_two_cores_without_a_gpu():
    found = grid.points(cores=2, gpus=0)
    alive = [point.name for point in found if not point.reason]
    for precision in ("fp32", "bf16"):
        assert {f"serial-1core-{precision}", f"serial-2cores-{precision}"} <= set(alive)
        assert {
            f"{name}-2-{precision}" for name in ("ddp", "fsdp", "pipeline", "model-parallel", "tensor", "local-sgd")
        } <= set(alive)
    assert len(alive) == 16  # of these two cores a study has had the same points ever since
    missing = {point.name: point.reason for point in found if point.reason}
    assert missing["serial-1gpu-fp32"] == "no GPU is visible"
    assert missing["dataparallel-1gpus-bf16"] == "splits batches over the GPUs of one process, and 0 can be used"
    assert "use --ranks 4" in missing["hsdp-2-fp32"]
    assert missing["diloco-2-fp32"].startswith("left out of the default grid: ")
    assert {point.layout for point in found} == set(layouts.NAMES), "every layout is a row"
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
        "serial-1core-bf16", "serial-4cores-bf16", "ddp-2-bf16", "ddp-4-bf16", "ddp-2x1-bf16", "serial-1gpu-bf16",
        "ddp-2gpus-bf16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cores", "serial", "ranks"),
    [
        (1, {1}, set()), (2, {1, 2}, {2}), (3, {1, 2, 3}, {2, 3}), (4, {1, 2, 4}, {2, 4}), (6, {1, 2, 4, 6}, {2, 4, 6}),
        (8, {1, 2, 4, 8}, {2, 4, 8}), (64, {1, 8, 16, 32, 64}, {8, 16, 32, 64}),
    ],
)  # fmt: skip
def test_serial_and_ddp_have_a_curve(cores, serial, ranks):
    """One process on some of the cores, and ranks of one thread: so many numbers of cores as laws of scaling need."""
    found = grid.points(cores=cores, gpus=0, precisions=["fp32"], device="cpu")
    assert {point.cores for point in found if point.layout == "serial"} == serial
    ones = [point for point in found if point.layout == "ddp" and point.threads == 1]
    assert {point.ranks for point in ones} == ranks and all(point.cores == point.ranks for point in ones)
    everybody = {point.ranks for point in found if point.layout == "ddp" and point.cores == cores}
    assert everybody == {point.ranks for point in found if point.layout == "fsdp" and point.cores == cores}
    assert len({point.name for point in found}) == len(found)
    assert all((point.ranks, point.threads) == (point.cores, 1) for point in found if "x1" in point.name)


@pytest.mark.parametrize("asked", [{"ranks": [2, 4]}, {"threads": 1}, {"names": ["fsdp"]}])
def test_a_curve_is_of_what_was_left_open(asked):
    found = grid.points(cores=8, gpus=0, precisions=["fp32"], device="cpu", **asked)
    assert not [point.name for point in found if point.names_threads]
    assert {point.cores for point in found if point.layout == "serial"} == {1, 8}


def test_layouts_of_more_ranks_are_measured_where_there_are_as_many():
    found = {point.name: point for point in grid.points(cores=8, gpus=0, precisions=["fp32"], device="cpu")}
    assert "use --ranks 4" in found["hsdp-2-fp32"].reason
    assert not found["hsdp-4-fp32"].reason and not found["hsdp-8-fp32"].reason
    assert [name for name in found if name.startswith("diloco")] == ["diloco-8-fp32"]
    assert "--layouts diloco" in found["diloco-8-fp32"].reason
    asked = grid.points(cores=8, gpus=0, names=["diloco"], precisions=["fp32"], device="cpu")
    assert [point.ranks for point in asked if point.layout == "diloco" and not point.reason] == [2, 4, 8]


def test_points_of_a_kept_study_keep_their_names():
    """They have no word of threads in them: a study that was begun before goes on."""
    before = {"layout": "ddp", "ranks": 2, "precision": "fp32", "device": "cpu", "threads": 1, "cores": 2, "reason": ""}
    assert grid.Point(**before).name == "ddp-2-fp32"


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


def test_layouts_for_which_there_are_too_few_gpus_are_a_row_each():
    found = [
        point for point in grid.points(cores=4, gpus=1) if point.device == "cuda" and point.layout != "dataparallel"
    ]
    alive = [point.name for point in found if not point.reason]
    assert alive == ["serial-1gpu-fp32", "serial-1gpu-bf16"]
    lacking = {point.name: point.reason for point in found if point.reason}
    assert lacking["ddp-2gpus-fp32"] == "takes 2 GPUs at least, and 1 can be used"
    assert len(lacking) == len(layouts.NAMES) - 2, "one each, not one of every precision"


def test_a_parallel_layout_on_one_rank_is_refused():
    with pytest.raises(ConfigError, match="--ranks 1 with --layouts ddp: it takes 2 ranks"):
        grid.points(cores=2, gpus=0, names=["serial", "ddp"], ranks=[1])
    assert len(grid.points(cores=2, gpus=0, names=["serial"], ranks=[1], precisions=["fp32"], device="cpu")) == 2


def test_more_ranks_than_a_machine_holds_are_refused_at_once():
    with pytest.raises(ConfigError, match="--ranks 99999999999: a study starts them all on this machine, at most 1024"):
        grid.points(cores=2, gpus=0, names=["ddp"], ranks=[2, 99_999_999_999])
    with pytest.raises(ConfigError, match="--layouts replicate=64,pipe=32 is 2048 ranks: a study starts them all"):
        grid.points(cores=2, gpus=0, names=["replicate=64,pipe=32"])
