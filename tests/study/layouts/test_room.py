"""Points for which there is certainly too little memory."""

from types import SimpleNamespace

import pytest

from fanlight.study.layouts import grid, room
from fanlight.study.layouts.recipe import Basis

BASIS: Basis = None  # type: ignore[assignment]
WHOLE = 10**9  # of a model in training


def gpus(layout: str, ranks: int) -> grid.Point:
    return grid.Point(layout, ranks, "fp32", "cuda", 1, ranks)


@pytest.fixture
def memory(monkeypatch):
    """Sets the memory of a GPU; asking how much of it is free fails, as it would make a context in this process."""

    def refuse(*_):
        raise AssertionError("this makes a context")

    def set_to(size: int) -> None:
        monkeypatch.setattr(room.torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=size))

    monkeypatch.setattr(room.torch.cuda, "mem_get_info", refuse)
    monkeypatch.setattr(room, "held", lambda about: WHOLE)
    monkeypatch.setattr(room.machine, "memory_available", lambda: 3 * WHOLE)
    return set_to


def test_what_no_gpu_holds_is_a_reason(memory):
    memory(WHOLE * 3 // 4)
    whole, divided = room.checked([gpus("ddp", 2), gpus("fsdp", 2)], BASIS)
    assert whole.reason == (
        "weights, gradients and the optimizer's state take 1.0 GB at least, and a GPU has 750.0 MB"
    ), whole.reason
    assert divided.reason == "", "each GPU holds half of it"
    memory(WHOLE)
    assert [point.reason for point in room.checked([gpus("ddp", 2), gpus("serial", 1)], BASIS)] == ["", ""]


def test_ranks_on_cpus_share_what_is_free(memory):
    few, many = (grid.Point("ddp", ranks, "fp32", "cpu", 1, ranks) for ranks in (3, 4))
    known = grid.Point("fsdp", 4, "fp32", "cpu", 1, 4, reason="known before")
    found = room.checked([few, many, known], BASIS)  # and no GPU is asked
    assert found[0].reason == "" and found[1].reason.endswith("this machine has 3.0 GB free"), found[1].reason
    assert found[2] == known
