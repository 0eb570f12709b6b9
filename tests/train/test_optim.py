"""What moves weights: decay by shape, the rate by step, clipping, the fp16 loss scale, and an exact restore."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fanlight import config as configuration
from fanlight.errors import ConfigError
from fanlight.train.optim import SCALE_LEAST, SCALE_START, Optimizer, _of_torch, seconds_per_parameter

STEPS = 10
SGD = configuration.Optim(
    name="sgd", lr=0.1, weight_decay=0.5, clip_norm=None, schedule="constant", warmup_share=0.0, momentum=0.9
)
ADAMW = configuration.Optim(
    name="adamw", lr=0.1, weight_decay=0.5, clip_norm=None, schedule="constant", warmup_share=0.0
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).double()
    return model.to(memory_format=torch.channels_last)


def fill(model: nn.Module, *, step: int, scale: float = 1.0) -> None:
    """A gradient that depends on the step alone."""
    random = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=random, dtype=p.dtype) * scale)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def run(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        fill(model, step=step, scale=optimizer.loss_scale)
        optimizer.update(step)


@pytest.mark.parametrize("config", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_only_weights_of_two_and_more_dimensions_decay(config):
    model = network()
    optimizer = Optimizer([model], config, steps=STEPS, scaled=False)
    before = weights(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.update(0)
    shares = [float((after / old).mean()) for old, after in zip(before, weights(model)) if old.abs().min() > 0]
    shrunk = 1 - 0.1 * 0.5 * (1.9 if config.name == "sgd" else 1)  # Nesterov's first step is 1 + momentum long
    assert shares == pytest.approx([shrunk, 1, 1, shrunk, 1])  # the norm's bias is 0


def test_sgd_is_nesterovs_formula_at_the_rate_of_the_step():
    config = replace(SGD, schedule="cosine", warmup_share=0.3, weight_decay=0.0)
    model = network()
    optimizer = Optimizer([model], config, steps=STEPS, scaled=False)
    expected, velocity = weights(model), [0.0] * 6
    for step in range(STEPS):
        fill(model, step=step)
        gradients = [p.grad.clone() for p in model.parameters()]
        optimizer.update(step)
        velocity = [0.9 * v + g for v, g in zip(velocity, gradients)]
        expected = [p - optimizer.lr(step) * (g + 0.9 * v) for p, g, v in zip(expected, gradients, velocity)]
    assert len({optimizer.lr(step) for step in range(STEPS)}) == STEPS
    torch.testing.assert_close(weights(model), expected, rtol=1e-13, atol=1e-14)


def test_adamw_first_moves_every_weight_by_the_rate():
    model = network()
    before = weights(model)
    optimizer = Optimizer([model], replace(ADAMW, weight_decay=0.0), steps=STEPS, scaled=False)
    run(model, optimizer, range(1))
    for old, new in zip(before, weights(model)):
        torch.testing.assert_close((new - old).abs(), torch.full_like(old, 0.1), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("norm", "expected"), [(1e-3, 1e-3), (0.5, 0.5), (1e6, None)])
def test_clipping_is_by_the_global_norm(norm, expected):
    model = network()
    before = weights(model)
    config = replace(SGD, clip_norm=norm, weight_decay=0.0, momentum=0.0)
    optimizer = Optimizer([model], config, steps=STEPS, scaled=False)
    fill(model, step=0)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    optimizer.update(0)
    moved = torch.cat([(old - new).flatten() for old, new in zip(before, weights(model))]) / 0.1
    assert float(moved.norm()) == pytest.approx(expected or float(gradient.norm()), rel=1e-5)
    assert float(torch.dot(moved, gradient) / moved.norm() / gradient.norm()) == pytest.approx(1)


def test_gradients_are_gone_after_a_step():
    model = network()
    optimizer = Optimizer([model], SGD, steps=STEPS, scaled=False)
    run(model, optimizer, range(1))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("config", [replace(SGD, clip_norm=0.5), ADAMW], ids=["sgd", "adamw"])
def test_the_loss_scale_changes_no_step(config):
    """Powers of two: not in the last bit."""
    plain, scaled = network(), network()
    for model, is_scaled in (plain, False), (scaled, True):
        optimizer = Optimizer([model], config, steps=STEPS, scaled=is_scaled)
        assert optimizer.loss_scale == (SCALE_START if is_scaled else 1)
        run(model, optimizer, range(4))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters()))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_step_that_overflowed_is_skipped_whole(value):
    model = network()
    optimizer = Optimizer([model], ADAMW, steps=STEPS, scaled=True)
    run(model, optimizer, range(2))
    before, state = weights(model), {name: value.clone() for name, value in optimizer.tensors().items()}
    fill(model, step=2, scale=optimizer.loss_scale)
    model[0].weight.grad[0, 0, 0, 0] = value
    optimizer.update(2)
    assert optimizer.loss_scale == SCALE_START / 2
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before))
    assert all(torch.equal(value, state[name]) for name, value in optimizer.tensors().items())
    assert all(p.grad is None for p in model.parameters())
    run(model, optimizer, range(3, 4))
    assert not torch.equal(weights(model)[0], before[0])


def test_the_loss_scale_doubles_after_good_steps_in_a_row(monkeypatch):
    monkeypatch.setattr("fanlight.train.optim.SCALE_PATIENCE", 3)
    model = network()
    optimizer = Optimizer([model], SGD, steps=STEPS, scaled=True)
    scales = []
    for step in range(9):
        fill(model, step=step)
        if step == 4:
            model[3].bias.grad[0] = float("inf")
        optimizer.update(step)
        scales.append(optimizer.loss_scale / SCALE_START)
    assert scales == [1, 1, 2, 2, 1, 1, 1, 2, 2]  # the overflow begins the count again


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("scaled", [False, True])
def test_an_update_tells_the_norm_before_clipping(clip, scaled):
    model = network()
    optimizer = Optimizer([model], replace(SGD, clip_norm=clip), steps=STEPS, scaled=scaled)
    fill(model, step=0)
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    fill(model, step=0, scale=optimizer.loss_scale)
    assert float(optimizer.update(0)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("config", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_unscaled_overflow_moves_nothing_and_is_told_for_the_ledger_to_end_the_run(value, config, clip):
    model = network()
    optimizer = Optimizer([model], replace(config, clip_norm=clip), steps=STEPS, scaled=False)
    run(model, optimizer, range(2))
    before, state = weights(model), {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    fill(model, step=2)
    model[0].weight.grad[0, 0, 0, 0] = value
    assert not torch.isfinite(optimizer.update(2))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before))  # nothing moved
    assert all(torch.equal(tensor, state[name]) for name, tensor in optimizer.tensors().items())
    assert optimizer.loss_scale == 1


def test_gradients_that_overflow_at_any_loss_scale_are_told():
    """Skipped steps are norm 0 and no news, until no scale is left to try."""
    model = network()
    optimizer = Optimizer([model], SGD, steps=STEPS, scaled=True)
    before, told = weights(model), []
    while not told or told[-1] == 0:
        fill(model, step=len(told))
        model[3].bias.grad[0] = float("nan")
        told.append(float(optimizer.update(len(told))))
    assert len(told) == 29 and optimizer.loss_scale == SCALE_LEAST / 2
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before))


@pytest.mark.parametrize(
    "config", [SGD, replace(SGD, momentum=0.0), ADAMW, replace(SGD, schedule="onecycle", clip_norm=1.0)]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_restoring_is_exact(config, scaled):
    """Through contiguous tensors, as files hold them."""
    whole = network()
    first = Optimizer([whole], config, steps=STEPS, scaled=scaled)
    run(whole, first, range(3))
    kept = {name: value.clone(memory_format=torch.contiguous_format) for name, value in first.tensors().items()}
    model, scalars = network(seed=1), first.scalars()
    model.load_state_dict(whole.state_dict())
    run(whole, first, range(3, 6))
    second = Optimizer([model], config, steps=STEPS, scaled=scaled)
    second.restore(kept)
    second.restore_scalars(scalars)
    assert second.scalars() == scalars
    assert second.tensors().keys() == kept.keys()
    run(model, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters()))
    assert all(torch.equal(first.tensors()[name], value) for name, value in second.tensors().items())


@pytest.mark.parametrize(("config", "states"), [(SGD, {"momentum_buffer"}), (ADAMW, {"step", "exp_avg", "exp_avg_sq"})])
def test_state_is_named_by_parameter_and_restored_in_its_memory_format(config, states):
    model = network()
    first, second = (Optimizer([model], config, steps=STEPS, scaled=False) for _ in range(2))
    assert first.tensors() == {}
    run(model, first, range(1))
    expected = {f"optim.{name}.{state}" for name, _ in model.named_parameters() for state in states}
    assert first.tensors().keys() == expected
    second.restore({name: value.contiguous() for name, value in first.tensors().items()})
    formats = {name: value.stride() for name, value in first.tensors().items()}
    assert {name: value.stride() for name, value in second.tensors().items()} == formats
    first.tensors()["optim.0.weight." + sorted(states)[0]].zero_()
    assert second.tensors()["optim.0.weight." + sorted(states)[0]].any()  # a copy


def test_frozen_parameters_have_no_state_and_do_not_move():
    model = network()
    model[0].requires_grad_(False)
    optimizer = Optimizer([model], ADAMW, steps=STEPS, scaled=False)
    before = weights(model)
    for p in model[3].parameters():
        p.grad = torch.ones_like(p)
    optimizer.update(0)
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(model))]
    assert moved == [False, False, False, False, True, True]  # the norm had no gradient
    assert {name.split(".")[1] for name in optimizer.tensors()} == {"3"}


@pytest.mark.parametrize("config", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_an_open_rate_trains_nothing_and_is_no_optimizer(config):
    config = replace(config, lr=None)
    with pytest.raises(AssertionError):
        Optimizer([network()], config, steps=STEPS, scaled=False)
    with pytest.raises(AssertionError):
        _of_torch([{"params": list(network().parameters())}], config)
    assert 0 < seconds_per_parameter(config, torch.device("cpu")) < 1e-3  # no rate is needed to measure


def test_unknown_optimizers_are_refused():
    with pytest.raises(ConfigError, match=r"optim.name is 'adam'; use one of sgd, adamw"):
        Optimizer([network()], replace(SGD, name="adam"), steps=STEPS, scaled=False)
