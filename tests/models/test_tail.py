import threading

import pytest
import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.models import tail, zoo

EXAMPLE = torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize(
    "name", ["small-resnet", "resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "alexnet"]
)
def test_the_tail_of_the_features_is_the_model(name):
    px = 64 if name == "alexnet" else 32
    model, x = zoo.create(name, classes=3, image_px=px, seed=0).model, torch.rand(2, 3, px, px)
    tail.check(model, x)
    assert model.training
    model.eval()
    assert torch.equal(tail.Tail(model)(tail.features(model, x)), model(x))
    assert tail.Tail(model).last is model.get_submodule(zoo.head(model))
    assert not model.get_submodule(zoo.head(model))._forward_pre_hooks


def test_a_head_that_is_a_convolution():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Flatten())
    tail.check(model, EXAMPLE)
    assert torch.equal(tail.Tail(model)(tail.features(model, EXAMPLE)), model(EXAMPLE))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.fc(x.mean((2, 3))))


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(x.flatten(2).mT.reshape(-1, 3)).view(len(x), -1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.Softmax(1)),
            "Sequential computes more after its last",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Unflatten(1, (4, -1))),
            "computes more after its last layer",
        ),
        (Twice(), "Twice uses its last layer 2 times in a forward"),
        (Patches(), "Patches gives its last layer 2048 rows for 2 images"),
    ],
)
def test_what_is_not_one_row_per_image_to_the_outputs_is_refused(model, why):
    with pytest.raises(ConfigError, match=why):
        tail.check(model, EXAMPLE)


def test_a_last_layer_of_zeros_hides_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.Tanh())
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    with pytest.raises(ConfigError, match="computes more"):
        tail.check(model, EXAMPLE)


def test_threads_get_their_own_features():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    meet, found = threading.Barrier(4, timeout=30), {}
    with tail.watching(model) as newest:

        def work(number: int) -> None:
            model(torch.full((1, 4), float(number)))
            meet.wait()
            found[number] = newest()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {number: float(value[0, 0]) for number, value in found.items()} == {number: number for number in range(4)}
