"""What tensor parallelism divides, what it leaves whole, what it refuses. Equality with serial is in test_layouts.py."""

import pytest
import torch
from timm.layers import BlurPool2d
from timm.models.convnext import ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.vision_transformer import Block
from torch import nn

from fanlight.errors import ConfigError
from fanlight.models import small
from fanlight.parallel import comm, tensor
from parallel import micro

CHANNELS = 16


class Own(nn.Module):
    """A block that the table does not know."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        return self.b(self.a(x))


def of(*blocks: nn.Module) -> nn.Module:
    return nn.ModuleDict({"body": nn.Sequential(*blocks)})


def grouped() -> nn.Module:
    return Bottleneck(CHANNELS, 4, cardinality=4, base_width=64)


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (grouped, r"'body\.0' of class Bottleneck .* its conv2 is a grouped convolution, whose channels belong together"),
        (lambda: BasicBlock(CHANNELS, CHANNELS, stride=2, aa_layer=BlurPool2d,
                            downsample=nn.Conv2d(CHANNELS, CHANNELS, 1, 2)), r"its aa \(BlurPool2d\) mixes the channels between"),
        (lambda: BasicBlock(CHANNELS, CHANNELS, norm_layer=lambda c, **_: nn.GroupNorm(4, c)),
         r"its bn1 is GroupNorm, which is no norm per channel"),
        (lambda: ConvNeXtBlock(CHANNELS, use_grn=True), r"its mlp\.\w+ .* mixes the channels between mlp\.fc1 and mlp\.fc2"),
        (lambda: Block(CHANNELS, num_heads=4, proj_drop=0.1), r"its mlp\.drop1 drops elements of the channels in between"),
        (lambda: Block(CHANNELS, num_heads=4, qk_norm=True), r"its attn has q_norm, whose weights all heads share"),
        (lambda: Block(CHANNELS, num_heads=1), r"it has only 1 heads"),
        (lambda: Bottleneck(CHANNELS, 1), r"it has only 1 hidden channels"),
    ],
    ids=["grouped", "blur", "group-norm", "grn", "dropout", "qk-norm", "heads", "narrow"],
)  # fmt: skip
def test_what_would_compute_something_else_is_refused_by_name(block, why):
    with pytest.raises(ConfigError, match=f"cannot be divided over 2 ranks: .*{why}|{why}"):
        tensor.divide(of(block(), block()), group=None, rank=0, ranks=2)


def test_a_network_without_known_blocks_is_refused():
    message = (
        r"layout with tensor=2: ModuleDict has no block that can be divided \(its blocks: Own; can be: BasicBlock, "
    )
    with pytest.raises(ConfigError, match=message):
        tensor.divide(of(Own(), Own()), group=None, rank=0, ranks=2)


def test_unknown_blocks_stay_whole_and_it_is_said():
    model = of(Own(), Own(), Block(CHANNELS, num_heads=4), Block(CHANNELS, num_heads=4))
    found = tensor.divide(model, group=None, rank=0, ranks=2)
    assert (found.divided, found.whole) == (2, {"Own": 2})
    assert found.notes == ("2 blocks of class Own stay whole on every rank: tensor parallelism does not know them",)
    assert not [name for name in found.held if name.startswith(("body.0", "body.1"))]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("net", micro.NAMES)
def test_the_ranks_parts_are_the_whole(net, ranks):
    whole = small.NAMES[net](3, 16)
    filled = {
        name: torch.full_like(value, -1.0) for name, value in whole.state_dict().items() if value.is_floating_point()
    }
    for rank in range(ranks):
        torch.manual_seed(0)
        model = small.NAMES[net](3, 16)
        model.load_state_dict(whole.state_dict())
        division = tensor.divide(model, group=None, rank=rank, ranks=ranks)
        assert model.state_dict().keys() == whole.state_dict().keys()
        for name, value in model.state_dict().items():
            if name in division.held:
                tensor.held.put(value, division.held[name], into=filled[name])
            elif name in filled:
                filled[name].copy_(value)
    assert all(torch.equal(filled[name], whole.state_dict()[name]) for name in filled)


def test_a_division_that_computes_something_else_is_noticed():
    """By comparison with the whole model, before a step is trained."""
    torch.manual_seed(0)
    model, x = small.NAMES["micro-vit"](3, 16), torch.randn(2, 3, 16, 16)
    expected = tensor.outputs(model, x)
    tensor.check(model, expected, x)
    with torch.no_grad():
        model.get_parameter("blocks.1.mlp.fc1.weight").mul_(-1)
    with pytest.raises(ConfigError, match="Micro, divided over ranks, computes something else"):
        tensor.check(model, expected, x)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4, 5), (2, 1, 4, 5)])
def test_dense_views_share_memory(shape):
    for x in (torch.randn(shape), torch.randn(shape[::-1]).permute(*reversed(range(len(shape))))):
        view = comm.dense(x)
        assert view.is_contiguous() and view.data_ptr() == x.data_ptr() and view.numel() == x.numel()
    with pytest.raises(ValueError, match="has gaps and cannot be sent as it is"):
        comm.dense(torch.randn(4, 6)[:, ::2])
