"""What pieces ask for is what the model really has, keeps and multiplies."""

import copy
import time
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.models import freeze, zoo
from fanlight.parallel import balance, comm, tensor
from fanlight.plan import counting, dividing

PX = 64


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return zoo.create("resnet18", classes=10, image_px=PX, seed=0).model


@pytest.fixture(scope="module")
def pieces(network):
    return counting.count(network, image_px=PX)


def test_pieces_hold_every_parameter_once(network, pieces):
    assert sum(block.numbers for block in pieces) == sum(p.numel() for p in network.parameters())
    assert [n for block in pieces for n in block.tensors] == [p.numel() for p in network.parameters()]
    assert sum(block.buffers for block in pieces) == sum(b.numel() for b in network.buffers())
    assert sum(len(block.norms) for block in pieces) == 20


def test_arithmetic_is_the_known_one():
    """ResNet-18 at 224 px: 1.814 G multiply-adds of convolutions and the last layer (He et al. 2016, table 1: 1.8)."""
    with torch.device("meta"):
        model = timm.create_model("resnet18", num_classes=1000)
    assert sum(block.flop for block in counting.count(model, image_px=224)) == pytest.approx(2 * 1.814e9, rel=1e-3)


def test_counting_on_the_meta_device_is_counting_on_the_cpu(network, pieces):
    """The same bytes that a real forward keeps; neither buffers nor modes change."""
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    network.eval()
    real = counting.count_on(network, torch.randn(counting.ROWS, 3, PX, PX))
    assert [replace(each, kept_short=0.5) for each in pieces] == real
    assert not network.training and all(torch.equal(b, buffers[name]) for name, b in network.named_buffers())
    network.train()


def test_bytes_that_are_kept_are_those_that_autograd_saves(network, pieces):
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(x):
        if x.untyped_storage().data_ptr() not in weights and x.dim() > 1:
            kept[x.untyped_storage().data_ptr()] = x.nbytes
        return x

    x = torch.randn(counting.ROWS, 3, PX, PX)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        y = network(x)
    whole = sum(kept.values()) / counting.ROWS
    assert sum(block.kept_bytes for block in pieces) == pytest.approx(whole, rel=0.15)
    assert y.shape == (counting.ROWS, 10)


def test_what_is_frozen_keeps_nothing_for_a_backward(network, pieces):
    frozen = copy.deepcopy(network)
    freeze.freeze(frozen)
    found = counting.count(frozen, image_px=PX)
    assert sum(block.numbers for block in found) == 512 * 10 + 10
    assert sum(block.frozen + block.numbers for block in found) == sum(p.numel() for p in network.parameters())
    assert not any(block.norms for block in found), "they use the statistics that they have, and share none"
    assert [block.backward_flop > 0 for block in found] == [False] * (len(found) - 1) + [True]
    assert [block.timed(1e9).backward.at(8) > 0 for block in found] == [False] * (len(found) - 1) + [True]
    assert sum(block.kept_bytes for block in found) < 0.01 * sum(block.kept_bytes for block in pieces)


def test_a_backward_asks_for_twice_a_forward_but_for_the_images_gradient(pieces):
    """One product for the weights' gradient and one for the input's, which nobody wants of images."""
    assert pieces[0].backward_flop < 2 * pieces[0].flop
    for block in pieces[1:]:
        assert block.backward_flop == pytest.approx(2 * block.flop)


def test_what_is_kept_of_a_row_is_counted_whatever_its_first_dimension():
    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(PX, PX)

        def forward(self, x):
            return self.layer(x.flatten(0, 2)).relu().view(len(x), -1)  # [B·3·P, P]

    (block,) = counting.count(Folded(), image_px=PX)
    assert block.kept_bytes == pytest.approx(4 * 3 * PX * PX * 2), "the layer's input and what relu gives"


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_bytes_kept_in_bf16_are_those_that_autograd_saves(name):
    px = 224 if name.startswith("vit") else PX
    model = zoo.create(name, classes=10, image_px=px, seed=0).model
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    sizes = []
    for rows in (2, 3):
        kept: dict[int, int] = {}

        def keep(x, kept=kept):
            if x.untyped_storage().data_ptr() not in own:
                kept[x.untyped_storage().data_ptr()] = x.nbytes
            return x

        x = torch.randn(rows, 3, px, px)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            y = model(x)  # noqa: F841 - what is kept lives as long as it
        sizes.append(sum(kept.values()))
    found = counting.count(model, image_px=px)
    assert sum(b.kept_bytes * b.kept_short for b in found) == pytest.approx(sizes[1] - sizes[0], rel=0.15)
    assert len({b.kept_short for b in found}) > 1, "pieces differ in what they leave in four bytes"


def test_pairs_of_divided_layers_are_found(pieces):
    assert [len(block.pairs) for block in pieces] == [1] * 8 + [0]
    for block in pieces[:8]:
        assert 0 < block.divided_numbers < block.numbers
        assert 0.5 < block.divided <= 1
    assert pieces[0].pairs == (64 * (PX // 4) ** 2 * 4,)


@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_tiny_patch16_224"])
def test_bytes_of_pairs_are_those_that_tensor_parallelism_adds_up(name, is_short):
    """A group of one adds nothing up, and hands over what a larger one would."""
    px = 224 if name.startswith("vit") else PX
    model = zoo.create(name, classes=10, image_px=px, seed=0).model
    pieces = counting.count(model, image_px=px)
    sums: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comm.dist, "all_reduce", lambda x, group: sums.append(x.nbytes))
        tensor.divide(model, group=None, rank=0, ranks=1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_short):
            y = model(torch.randn(2, 3, px, px))
        forward, _ = sum(sums), sums.clear()
        y.float().sum().backward()
    short = [block.pairs_short if is_short else (1.0, 1.0) for block in pieces]
    assert forward == sum(2 * sum(b.pairs) * share for b, (share, _) in zip(pieces, short))
    assert sum(sums) == sum(2 * sum(b.pairs_backward) * share for b, (_, share) in zip(pieces, short))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_bytes_sent_in_bf16_are_those_that_stages_put_out(name):
    """A transformer's residual stream stays in fp32, as its position embedding is."""
    px = 224 if name.startswith("vit") else PX
    model = zoo.create(name, classes=10, image_px=px, seed=0).model
    pieces = counting.count(model, image_px=px)
    x = torch.randn(2, 3, px, px)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for block, (_, segment) in zip(pieces, counting.segments(model, x)):
            x = segment(x)
            assert 2 * block.sent_bytes * block.sent_short == x.nbytes
    assert {block.sent_short for block in pieces[:-1]} == {1.0 if name.startswith("vit") else 0.5}


def test_nothing_is_added_up_for_a_gradient_that_nobody_wants(network):
    frozen = copy.deepcopy(network)
    freeze.freeze(frozen)
    found = counting.count(frozen, image_px=PX)
    assert all(any(block.pairs) and not any(block.pairs_backward) for block in found[:-1])


def test_a_division_is_refused_in_trainings_words():
    refused = dividing.refusals(zoo.create("deit_tiny_patch16_224", classes=4, image_px=224, seed=0).model.to("meta"))
    assert [refused(ranks) for ranks in (1, 2, 3)] == ["", "", ""]
    assert "has only 3 heads" in refused(4) and "use another --layout or --model" in refused(4)


def test_seconds_of_divided_layers_are_those_between_first_and_second():
    class BasicBlock(nn.Module):  # the name that tensor parallelism knows
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1, self.conv2 = nn.Conv2d(3, 3, 1), Slow(), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv2(self.bn1(self.conv1(x)))

    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return x

    segment = nn.Sequential(BasicBlock(), Slow(), BasicBlock())
    with dividing.divided_s(segment) as spent:
        segment(torch.zeros(1, 3, 8, 8))
    assert len(spent) == 2 and min(spent) >= 0.02
    segment(torch.zeros(1, 3, 8, 8))
    assert len(spent) == 2, "nothing is left on the layers"


def test_pieces_are_those_that_training_makes_stages_of():
    """Nine layers, of which three have weights: three stages at most, and as many pieces."""
    layers = [nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(4 * (PX - 4) ** 2, 5), nn.Identity())
    pieces = counting.count(model, image_px=PX)
    assert [block.numbers for block in pieces] == [112, 148, 20 * (PX - 4) ** 2 + 5]
    example = torch.zeros(2, 3, PX, PX)
    names, _ = balance.choose(model, example, stages=3, device=torch.device("cpu"))
    assert [block.name for block in pieces] == [*names, "head"]
    with pytest.raises(ConfigError, match="at most 3 stages"):
        balance.choose(model, example, stages=4, device=torch.device("cpu"))


def test_what_cannot_be_cut_is_one_piece():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3 * PX * PX, 4)

        def forward(self, x):
            return self.layer(x.flatten(1)) if x.sum() > 0 else self.layer(x.flatten(1) * 2)

    assert [name for name, _ in counting.segments(Odd(), torch.ones(2, 3, PX, PX))] == ["whole"]
