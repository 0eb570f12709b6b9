"""What a study is expected to take, before anything of it ran."""

import pytest

from fanlight.study.layouts import estimate, grid
from fanlight.study.layouts.recipe import Basis

CPU = grid.Point("serial", 1, "fp32", "cpu", 1, 1)
GPU = grid.Point("serial", 1, "fp32", "cuda", 1, 1)
GPUS = grid.Point("ddp", 2, "fp32", "cuda", 1, 2)


@pytest.fixture
def no_step(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a step of a core says nothing about GPUs")

    monkeypatch.setattr(estimate.recipe, "config_of", refuse)


@pytest.mark.usefixtures("no_step")
def test_gpus_are_not_guessed_by_a_cores_step():
    basis: Basis = None  # type: ignore[assignment]
    found = estimate.seconds([GPU, GPUS], basis, block_s=1.0, repeats=1)
    assert found[GPU.name] == found[GPUS.name] and found[GPU.name].run_s < 60
    assert estimate.words([GPU, GPUS], found, rounds=1, limit_s=None).startswith(
        "2 of 2 points can run here, 1 round: about"
    )


@pytest.mark.usefixtures("no_step")
def test_points_that_cannot_run_take_no_time():
    basis: Basis = None  # type: ignore[assignment]
    left_out = grid.Point("ddp", 2, "fp32", "cpu", 1, 2, reason="one core")
    assert estimate.seconds([left_out], basis, block_s=1.0, repeats=1) == {left_out.name: (0.0, 0.0)}
