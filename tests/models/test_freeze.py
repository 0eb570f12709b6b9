import copy

import pytest
import torch
from torch import nn

from fanlight.models import zoo
from fanlight.models.freeze import freeze, train_mode, trainable, unfreeze


@pytest.fixture
def model() -> nn.Module:
    model = zoo.create("resnet18", classes=3, image_px=32, seed=0).model
    freeze(model)
    return model


def test_only_the_last_layer_is_trained(model):
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["fc.weight", "fc.bias"]
    assert trainable(model) == 512 * 3 + 3


@pytest.mark.parametrize("mode", [nn.Module.train, train_mode, lambda model: train_mode(copy.deepcopy(model))])
def test_a_training_step_moves_no_frozen_statistics(model, mode):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    mode(model)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert model.fc.training
    assert not model.bn1.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_copy_is_frozen_by_itself(model):
    twin = copy.deepcopy(model)
    twin.bn1.training = True
    twin.train()
    assert not twin.bn1.training


def test_norms_exchanged_after_freezing_stay_in_eval_mode(model):
    model.bn1 = nn.BatchNorm2d(64).requires_grad_(False)
    train_mode(model)
    assert not model.bn1.training


def test_norms_that_are_trained_are_in_training_mode():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].requires_grad_(False)
    train_mode(model)
    assert [layer.training for layer in model] == [False, True, True]


def test_unfreezing_takes_all_of_it_back():
    whole = zoo.create("resnet18", classes=3, image_px=32, seed=0).model
    whole.layer1[0].conv1.weight.requires_grad_(False)  # as a model's own fixed weights
    freeze(whole)
    unfreeze(whole)
    train_mode(whole)
    assert [name for name, p in whole.named_parameters() if not p.requires_grad] == ["layer1.0.conv1.weight"]
    assert all(module.training for module in whole.modules())
    whole.eval().train()
    assert whole.bn1.training


def test_dropout_before_the_last_layer_stands_still():
    frozen = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    freeze(frozen)
    train_mode(frozen)
    x = torch.randn(5, 3)
    assert torch.equal(frozen(x), frozen(x))
    assert frozen[2].training
