import pytest
import timm
import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.models import cut, small

FAMILIES = {  # name → cuts, all of them at blocks
    "resnet18": 8,
    "resnet50": 16,
    "convnext_atto": 12,
    "efficientnet_b0": 16,
    "mobilenetv3_small_100": 12,
    "vit_tiny_patch16_224": 12,
    "small-resnet": 6,
    "small-cnn": 3,
    "small-grid": 3,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in small.NAMES:
        return small.NAMES[name](5, 32)
    return timm.create_model(name, num_classes=5, **({"img_size": 32} if name.startswith("vit") else {}))


SLOW = ("resnet50", "efficientnet_b0")  # of the kinds of resnet18 and mobilenetv3_small_100


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES])
def family(request):
    return request.param, build(request.param), torch.randn(3, 3, 32, 32)


def test_cuts_lie_after_every_block(family):
    name, model, example = family
    assert len(cut.cuts(model, example)) == FAMILIES[name]
    assert cut.cuts(model, example) == cut.blocks(model)


def test_stages_hold_the_models_own_tensors_under_their_own_names(family):
    _, model, example = family
    names = cut.cuts(model, example)
    parts = cut.stages(model, names[:: len(names) // 3], example)
    held = [item for part in parts for item in part.named_parameters()]
    own = dict(model.named_parameters())
    assert sorted(name for name, _ in held) == sorted(own)
    assert all(parameter is own[name] for name, parameter in held)
    assert sorted(key for part in parts for key in part.state_dict()) == sorted(model.state_dict())


def test_check_accepts_and_leaves_everything_as_it_was(family):
    _, model, example = family
    parts = cut.stages(model, cut.cuts(model, example)[1:4], example)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    random_state = torch.get_rng_state()
    cut.check(model, parts, example)
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_gradients_and_statistics_through_stages_are_the_models(family):
    name, model, example = family
    twin = build(name)
    parts = cut.stages(twin, cut.cuts(twin, example)[::2], example)
    model(example).square().sum().backward()
    chained = example
    for part in parts:
        chained = part(chained)
    chained.square().sum().backward()
    for key, parameter in twin.named_parameters():
        assert torch.equal(parameter.grad, dict(model.named_parameters())[key].grad), key
    for key, buffer in twin.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[key]), key


def test_stages_take_any_batch_size_and_pass_modes_on():
    model = build("vit_tiny_patch16_224")
    parts = cut.stages(model, ["blocks.5"], torch.randn(2, 3, 32, 32))
    for part in parts:
        part.eval()
    assert not model.blocks[0].training
    assert not model.blocks[11].norm1.training
    example = torch.randn(7, 3, 32, 32)
    assert torch.equal(parts[1](parts[0](example)), model.eval()(example))


def test_no_cut_is_one_stage():
    model = build("small-resnet")
    (whole,) = cut.stages(model, [], torch.randn(2, 3, 32, 32))
    cut.check(model, [whole], torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["lenet5", "scratch-cnn", "weather-lenet"])
def test_a_model_without_blocks_is_cut_between_layers(name):
    image_px = 128 if name == "weather-lenet" else 32
    model, example = small.NAMES[name](4, image_px), torch.randn(2, 3, image_px, image_px)
    assert cut.blocks(model) == []
    names = cut.cuts(model, example)
    assert {"features.0", "features.1"} <= set(names)
    assert "fc" not in names
    cut.check(model, cut.stages(model, names, example), example)


def test_check_works_with_dropout():
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, img_size=32, proj_drop_rate=0.3, drop_path_rate=0.2
    )
    example = torch.randn(4, 3, 32, 32)
    cut.check(model, cut.stages(model, ["blocks.3", "blocks.7"], example), example)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.second(self.first(x).relu())


class Toy(nn.Module):
    """Three blocks and a head; `way` is what makes it hard to cut."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.fc = nn.Linear(3, 2)
        self.unused = nn.Linear(2, 2) if way == "unused weights" else None
        if way == "shared weights":
            self.blocks[2].first = self.blocks[0].first

    def forward(self, x):
        a = self.blocks[0](x)
        if self.way == "values" and a.sum() > 0:
            a = -a
        b = self.blocks[1](a)
        if self.way == "in place":
            b.add_(1)
        c = self.blocks[2](b)
        if self.way == "long skip":
            c = c + a
        if self.way == "mode" and self.training:
            c = c * 2
        return self.fc(c.mean((2, 3)))


EXAMPLE = torch.randn(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("plain", ["blocks.0", "blocks.1", "blocks.2"]),
        ("long skip", ["blocks.0"]),
        ("shared weights", ["blocks.2"]),
        ("in place", ["blocks.0", "blocks.2"]),
    ],
)
def test_cuts_where_one_tensor_is_live_and_nothing_is_shared(way, expected):
    model = Toy(way)
    assert cut.cuts(model, EXAMPLE) == expected
    cut.check(model, cut.stages(model, expected, EXAMPLE), EXAMPLE)


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("values", "torch.fx cannot follow its forward: symbolically traced variables"),
        ("mode", "different things in training and in eval mode"),
        ("unused weights", r"2 of its parameters and buffers belong to no stage or to several \(unused.weight"),
    ],
)
def test_a_family_that_cannot_be_cut_is_refused_by_name(way, why):
    with pytest.raises(ConfigError, match=f"Toy cannot be cut into stages: .*{why}.*; use a layout without `pipe`"):
        cut.stages(Toy(way), [], EXAMPLE)


def test_check_refuses_stages_that_compute_something_else():
    model = Toy("plain")
    parts = cut.stages(model, ["blocks.0"], EXAMPLE)
    with pytest.raises(ConfigError, match=r"Toy .* compute something else in training mode"):
        cut.check(model, [*parts[:1], nn.Sequential(nn.Tanh(), parts[1])], EXAMPLE)
    with pytest.raises(ConfigError, match=r"Toy .* do not run: .*"):
        cut.check(model, parts[::-1], EXAMPLE)


def test_cuts_that_do_not_exist_or_are_out_of_order():
    model = Toy("plain")
    with pytest.raises(
        ConfigError,
        match=r"Toy cannot be cut after 'block.0'. Near names: .*blocks.0.* It can be cut after blocks.0, .*",
    ):
        cut.stages(model, ["block.0"], EXAMPLE)
    for at in (["blocks.1", "blocks.0"], ["blocks.1", "blocks.1"]):
        with pytest.raises(ConfigError, match=r"distinct and in the model's order, got blocks\.1, blocks\.[01]"):
            cut.stages(model, at, EXAMPLE)


def test_an_example_of_another_shape_is_named():
    with pytest.raises(ConfigError, match=r"SmallResNet .* does not run on images of shape \[2, 1, 8, 8\]"):
        cut.cuts(build("small-resnet"), torch.randn(2, 1, 8, 8))
