"""Recomputing changes no bit of outputs, gradients and statistics, and keeps less."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.models import keyed, recompute, zoo
from fanlight.models.freeze import freeze, train_mode


class Block(nn.Module):
    def __init__(self, momentum: float | None):
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.drop, self.act = nn.BatchNorm2d(8, momentum=momentum), nn.Dropout(0.3), nn.ReLU()

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return x + scale * self.second(self.drop(self.act(self.norm(self.first(x)))))


class Net(nn.Module):
    """Blocks with norms, one of them by the plain average, keyed dropout and an option."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList([Block(0.1), Block(None), Block(0.1)])
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(x, scale=0.5 + number)
        return self.fc(x.mean((2, 3)))


def network(name: str) -> nn.Module:
    if name != "net":
        return zoo.create(name, classes=4, image_px=32, seed=0).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def step(model: nn.Module, keys: keyed.Keys, *, microbatches: int = 2, between: Any = None) -> dict[str, Any]:
    """Gradients, statistics and outputs of two microbatches, and the bytes that the graph of one kept."""
    random, kept = torch.Generator().manual_seed(1), {}
    outputs = []
    train_mode(model)
    for number in range(microbatches):
        x = torch.randn(4, 3, 32, 32, generator=random)
        keys.set(seed=0, epoch=number, samples=torch.arange(4))

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs.append(model(x))
        if between is not None:
            between()
        (outputs[-1] ** 2).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    return {"gradients": gradients, "buffers": buffers, "outputs": outputs, "bytes": sum(kept.values())}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for kind in ("gradients", "buffers"):
        assert found[kind].keys() == expected[kind].keys()
        assert [name for name, value in found[kind].items() if not value.equal(expected[kind][name])] == []
    assert all(torch.equal(*pair) for pair in zip(found["outputs"], expected["outputs"], strict=True))


@pytest.mark.parametrize(
    "name", ["net", "small-resnet", "resnet18", "test_efficientnet", "convnext_atto", "vit_tiny_patch16_224"]
)
def test_no_bit_differs_and_less_is_kept(name):
    plain, model = network(name), network(name)
    plain_keys, keys = keyed.install(plain), keyed.install(model)
    names = [list(model.state_dict()), list(dict(model.named_parameters()))]
    assert recompute.install(model, keys) >= 3
    assert [list(model.state_dict()), list(dict(model.named_parameters()))] == names
    expected, found = step(plain, plain_keys), step(model, keys)
    same(found, expected)
    assert any(value.any() for value in found["gradients"].values())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert found["bytes"] - weights < 0.5 * (expected["bytes"] - weights)


def test_keys_that_are_set_before_the_backward_do_not_reach_it():
    plain, model = network("net"), network("net")
    plain_keys, keys = keyed.install(plain), keyed.install(model)
    recompute.install(model, keys)

    def elsewhere():
        keys.set(seed=9, epoch=9, samples=torch.arange(4))

    expected, found = step(plain, plain_keys), step(model, keys, between=elsewhere)
    same(found, expected)
    after = keyed.Keys()
    after.set(seed=9, epoch=9, samples=torch.arange(4))
    assert torch.equal(keys.now, after.now)


def test_statistics_move_once_and_the_norms_are_put_back():
    model = network("net")
    recompute.install(model, keys := keyed.install(model))
    step(model, keys)
    assert [block.norm.momentum for block in model.blocks] == [0.1, None, 0.1]
    assert [int(block.norm.num_batches_tracked) for block in model.blocks] == [2, 2, 2]


def test_evaluation_and_frozen_networks_compute_once(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing is to be computed again")

    monkeypatch.setattr(recompute, "checkpoint", refuse)
    model = network("net")
    recompute.install(model, keys := keyed.install(model))
    x = torch.randn(2, 3, 32, 32)
    model.eval()
    model(x)
    train_mode(model)
    keys.set(seed=0, epoch=0, samples=torch.arange(2))
    with torch.no_grad():
        model(x)
    freeze(model)
    train_mode(model)
    model(x).sum().backward()
    assert model.fc.weight.grad is not None


def test_a_copy_recomputes_its_own_blocks():
    model = network("net")
    recompute.install(model, keyed.install(model))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.blocks[0].first.weight.zero_()
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model.eval()(x), twin.eval()(x))


def test_random_numbers_of_no_key_are_drawn_again():
    class Functional(Block):
        def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
            return nn.functional.dropout(super().forward(x), self.drop_rate, self.training)

    models = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Net()
            model.blocks = nn.ModuleList(Functional(0.1) for _ in range(2))
        for block in model.blocks:
            block.drop_rate = 0.25
        models.append(model)
    plain_keys, keys = (keyed.install(model) for model in models)
    recompute.install(models[1], keys)
    results = []
    for model, own in zip(models, (plain_keys, keys)):
        torch.manual_seed(3)
        results.append(step(model, own, microbatches=1))
    same(results[1], results[0])


@pytest.mark.parametrize("name", ["lenet5", "alexnet"])
def test_a_network_without_blocks_is_refused(name):
    model = zoo.create(name, classes=3, image_px=64, seed=0).model
    with pytest.raises(
        ConfigError, match=r"has no blocks that repeat, .*leave --recompute out, use more --microbatches"
    ):
        recompute.install(model, keyed.install(model))
