"""The average against its formula; a model that lends its tensors and has them back."""

import pytest
import torch
from torch import nn

from fanlight.train.ema import Average, decay_at


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).double()
    return model.to(memory_format=torch.channels_last)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def move(model: nn.Module, *, seed: int) -> None:
    """As a training step does: weights, statistics and the count of batches, all in place."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=random, dtype=p.dtype))
    model(torch.randn(3, 3, 4, 4, generator=random, dtype=torch.float64))


def test_the_decay_warms_up():
    found = [decay_at(step, most=0.99) for step in range(2000)]
    assert found[0] == 0.1 and found[10] == 11 / 20
    assert found == sorted(found)
    assert [decay * (10 + step) - 1 for step, decay in enumerate(found[:800])] == pytest.approx(range(800))
    assert set(found[900:]) == {0.99}
    assert decay_at(0, most=0.05) == 0.05


def test_an_average_is_its_formula():
    model = network()
    average, expected = Average([model], decay=0.5), state(model)
    for step in range(12):
        move(model, seed=step)
        average.update(step)
        decay = decay_at(step, most=0.5)
        expected = {name: decay * mean + (1 - decay) * model.state_dict()[name] for name, mean in expected.items()}
    names = set(expected) - {"1.num_batches_tracked"}  # a count has no average
    assert average.tensors().keys() == {f"ema.{name}" for name in names}
    for name in names:
        torch.testing.assert_close(average.tensors()[f"ema.{name}"], expected[name], rtol=1e-13, atol=1e-14)


def test_inside_the_model_is_the_average_and_afterwards_itself():
    model = network()
    average = Average([model], decay=0.9)
    for step in range(3):
        move(model, seed=step)
        average.update(step)
    before, mean = state(model), {name: value.clone() for name, value in average.tensors().items()}
    held = list(model.parameters())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    outside = model.eval()(x)

    def fail() -> None:
        with average.in_place():
            inside.update(state(model))
            assert not torch.equal(model(x), outside)
            raise ZeroDivisionError

    inside: dict[str, torch.Tensor] = {}
    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(inside[name], mean.get(f"ema.{name}", before[name])) for name in inside)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, mean[name]) for name, value in average.tensors().items())
    assert all(a is b for a, b in zip(model.parameters(), held))  # what an optimizer holds is still the model's
    assert torch.equal(model(x), outside)


def test_frozen_weights_have_no_average():
    model = network()
    model[0].requires_grad_(False)
    average = Average([model], decay=0.9)
    assert {name.split(".")[1] for name in average.tensors()} == {"1", "3"}


def test_restoring_is_exact():
    """Through contiguous tensors, as files hold them."""
    models = network(), network()
    first, second = (Average([model], decay=0.9) for model in models)
    for step in range(4):
        move(models[0], seed=step)
        first.update(step)
    second.restore(
        {name: value.clone(memory_format=torch.contiguous_format) for name, value in first.tensors().items()}
    )
    models[1].load_state_dict(models[0].state_dict())
    for step in range(4, 7):
        for model, average in zip(models, (first, second)):
            move(model, seed=step)
            average.update(step)
    assert all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())
    assert second.tensors()["ema.0.weight"].is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(KeyError, match=r"ema.0.weight"):
        second.restore({})


def test_several_parts_are_averaged_under_their_own_names():
    model = network()
    parts = [nn.ModuleDict({"0": model[0]}), nn.ModuleDict({"1": model[1], "3": model[3]})]
    average = Average(parts, decay=0.9)
    assert average.tensors().keys() == Average([model], decay=0.9).tensors().keys()
