"""What ranks measure for `fanlight verify`: on one rank in this process, with steps that are wrong on purpose."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fanlight import console
from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.parallel import comm
from fanlight.recipes import assemble
from fanlight.train import contract, proof, verify
from fanlight.train.training import Training

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")
STEPS = 3


def config_of(colours: Path, **flags: object) -> Config:
    keys = {"model.name": "small-resnet", "data.image_px": 16, "train.batch_size": 8, "train.microbatches": 2}
    return assemble(str(colours), recipe=None, config=None, flags={**keys, **flags}, values=[])


def prepared(config: Config, out: Path) -> Path:
    with console.quiet():
        return verify._prepared(config, dtype="fp32", device="cpu", threads=1, out=out, command="test")


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache_folder, colours) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        return prepared(config_of(colours), tmp_path_factory.mktemp("verify") / "run")


def trainings(run: Path, *, dtype: str = "fp32") -> tuple[Training, Training]:
    """The serial run as a layout that is compared with itself."""
    one, other = (proof._training(comm.alone(), run, {}, dtype=dtype) for _ in range(2))
    return one, other


class Spoilt:
    """A training's step whose gradients or sums are changed afterwards, at step `at` (None: at every one)."""

    def __init__(self, t: Training, change, *, at: int | None):
        self._step, self._change, self._at, self._calls = t.step, change, at, 0

    def __getattr__(self, name: str):
        return getattr(self._step, name)

    def __call__(self, *args, **given):
        sums = self._step(*args, **given)
        if self._at in (None, self._calls):
            self._change(self._step.parts, sums)
        self._calls += 1
        return sums


def scale_gradients(factor: float):
    def change(parts, sums) -> None:
        for part in parts:
            for p in part.parameters():
                p.grad.mul_(factor)

    return change


def count(column: int):
    def change(parts, sums) -> None:
        sums[column] += 1

    return change


def test_the_serial_run_is_equal_to_itself(run, tmp_path):
    found, same = proof._lockstep(*trainings(run), tmp_path / "shared.safetensors", steps=STEPS)
    assert found == [dict.fromkeys(proof.ERRORS, 0.0)] * STEPS and same


@pytest.mark.parametrize("at", [0, STEPS - 1, None])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_never_equal(run, tmp_path, at, value):
    t, serial = trainings(run)
    t.step = Spoilt(t, scale_gradients(value), at=at)
    found, same = proof._lockstep(t, serial, tmp_path / "shared.safetensors", steps=STEPS)
    assert [not np.isfinite(step["gradient_error"]) for step in found] == [at in (None, n) for n in range(STEPS)]
    assert same and not np.isfinite(contract.worst(found)["gradient_error"])
    judged = contract.judge(found, [dict.fromkeys(proof.ERRORS, 1.0)] * STEPS, dtype="fp32")  # however high a floor is
    assert len(judged.broken) == 1 and judged.is_certain


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_gradients_that_are_too_large_are_so_at_every_step(run, tmp_path, dtype):
    t, serial = trainings(run, dtype=dtype)
    t.step = Spoilt(t, scale_gradients(1.05), at=None)
    found, _ = proof._lockstep(t, serial, tmp_path / "shared.safetensors", steps=STEPS)
    assert [step["gradient_error"] for step in found] == [pytest.approx(0.05, rel=1e-4)] * STEPS


@pytest.mark.parametrize(("column", "is_same"), [(1, True), (2, False)], ids=["hits", "rows"])
def test_rounding_may_choose_the_class_and_not_the_rows(run, tmp_path, column, is_same):
    t, serial = trainings(run)
    t.step = Spoilt(t, count(column), at=1)
    _, same = proof._lockstep(t, serial, tmp_path / "shared.safetensors", steps=STEPS)
    assert same is is_same


def test_every_step_has_a_floor_of_its_own(run):
    found = proof.rank_floor(comm.alone(), run=str(run), dtype="fp32", steps=STEPS)
    assert len(found["losses"]) == len(found["step_floors"]) == STEPS
    assert all(0 < step["gradient_error"] < 1e-4 for step in found["step_floors"])
    assert len({step["gradient_error"] for step in found["step_floors"]}) == STEPS
    assert 0 < found["noise_floor"] < 1e-4


def test_a_serial_run_that_diverges_is_no_measure(colours, own_place):
    run = prepared(config_of(colours, **{"optim.lr": 1e30}), own_place / "run")
    message = (
        r"the serial run diverges at step \d, where .* is not finite: .* optim.lr is 1e\+30; use a lower one, "
        r"--set optim.lr=1e\+29"
    )
    with pytest.raises(ConfigError, match=message):
        proof.rank_floor(comm.alone(), run=str(run), dtype="fp32", steps=STEPS)


@pytest.mark.parametrize("what", ["gradient", "weights"])
def test_what_is_not_finite_is_named(run, what):
    serial, _ = trainings(run)
    given = {what: {"fc.weight": torch.tensor([1.0, torch.nan])}}
    name = "the gradient of fc.weight" if what == "gradient" else "fc.weight"
    with pytest.raises(ConfigError, match=rf"diverges at step 8, where {name} is not finite"):
        proof._check_finite(serial, step=7, loss=1.0, **given)
    with pytest.raises(ConfigError, match="where its loss is not finite"):
        proof._check_finite(serial, step=7, loss=float("nan"))
    proof._check_finite(serial, step=7, loss=1.0, weights={"count": torch.tensor([1])})


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_loss_that_is_nan_is_the_drift(place):
    losses = [1.0, 2.0, 3.0]
    assert proof._drift([1.0, 2.0, 3.3], losses) == pytest.approx(0.1)
    losses[place] = float("nan")
    assert np.isnan(proof._drift(losses, [1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), True),
        (torch.tensor(0.0), torch.tensor(-0.0), False),
        (torch.tensor(3), torch.tensor(3), True),
        (torch.tensor(0.0), torch.tensor(0), False),
        (torch.ones(2, 3), torch.ones(3, 2), False),
        (torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last), True),
        (torch.empty(0), torch.empty(0), True),
    ],
)
def test_bits_are_compared_as_bytes(one, other, is_same):
    assert proof._same_bits(one, other) is is_same
