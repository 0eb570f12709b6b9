import copy

import pytest
import timm
import torch
from torch import nn

from fanlight.models import keyed

MANY = 100_000


def keys_of(samples, *, seed=1, epoch=0):
    keys = keyed.Keys()
    keys.set(seed=seed, epoch=epoch, samples=torch.as_tensor(samples))
    return keys


def splitmix64(state: int) -> int:
    """The published step, in Python's integers: the reference of the int64 tensors."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def test_reference_is_the_published_generator():
    assert splitmix64(1234567) == 6457827717110365317  # first output of splitmix64.c with this seed


def test_uniforms_are_the_published_hash_and_stay_as_they_are():
    key = keyed._DOMAIN
    for word in (5, 3, 77):
        key = splitmix64(key + word)
    key = splitmix64(key + 2)
    expected = [splitmix64(key + 0x9E3779B97F4A7C15 * i) >> 40 for i in range(4)]
    uniforms = keys_of([77], seed=5, epoch=3).uniforms(2, rows=1, count=4)
    assert (uniforms * 2**24).long().tolist() == [expected]


def test_uniforms_are_uniform_and_differ_in_every_word():
    base = keys_of([0, 1]).uniforms(0, rows=2, count=MANY)
    assert base.dtype == torch.float32
    assert base.min() >= 0 and base.max() < 1
    counts = torch.histc(base, bins=10, min=0, max=1) / base.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.003, rtol=0)  # 4.5 sigma
    others = [
        keys_of([0, 1], epoch=1).uniforms(0, rows=2, count=MANY),
        keys_of([0, 1], seed=2).uniforms(0, rows=2, count=MANY),
        keys_of([0, 1]).uniforms(1, rows=2, count=MANY),
        base.flip(0),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([base.ravel(), other.ravel()]))[0, 1]) < 0.012


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 4, 4), (8, 7, 6)])
@pytest.mark.parametrize("kind", ["element", "channel", "path"])
def test_parts_of_a_batch_drop_what_the_whole_batch_drops(kind, shape):
    samples, x = torch.arange(100, 108), torch.rand(shape) + 1
    keys = keyed.Keys()
    if kind == "path":
        layer: nn.Module = keyed.KeyedDropPath(0.5, draw=3, keys=keys)
    else:
        layer = keyed.KeyedDropout(0.5, draw=3, keys=keys, whole_channels=kind == "channel")
    keys.set(seed=1, epoch=2, samples=samples)
    whole = layer(x)
    assert 0 < (whole == 0).sum() < whole.numel()
    for rows in (slice(0, 3), slice(3, 4), slice(4, 8)):
        keys.set(seed=1, epoch=2, samples=samples[rows])
        assert torch.equal(layer(x[rows]), whole[rows])
    order = torch.randperm(8)
    keys.set(seed=1, epoch=2, samples=samples[order])
    assert torch.equal(layer(x[order]), whole[order])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_scale(p):
    layer = keyed.KeyedDropout(p, draw=0, keys=keys_of([3]))
    y = layer(torch.ones(1, MANY))
    assert abs((y == 0).float().mean() - p) < 0.006  # 4 sigma
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - p)))
    path = keyed.KeyedDropPath(p, draw=0, keys=keys_of(torch.arange(MANY)), scale=False)
    y = path(torch.ones(MANY, 2))
    assert abs((y == 0).float().mean() - p) < 0.006
    assert torch.equal(y[:, 0], y[:, 1])
    assert set(y.unique().tolist()) == {0.0, 1.0}


def test_whole_channels_drop_whole_channels():
    y = keyed.KeyedDropout(0.5, draw=0, keys=keys_of(range(20)), whole_channels=True)(torch.ones(20, 6, 4, 4))
    assert torch.equal(y.amax((2, 3)), y.amin((2, 3)))


def test_edges_of_p_dtype_and_mode():
    keys = keyed.Keys()
    x = torch.randn(2, 3)
    assert keyed.KeyedDropout(0.5, draw=0, keys=keys).eval()(x) is x
    assert keyed.KeyedDropPath(0.5, draw=0, keys=keys).eval()(x) is x
    assert keyed.KeyedDropout(0.0, draw=0, keys=keys)(x) is x
    keys.set(seed=0, epoch=0, samples=torch.tensor([1, 2]))
    assert torch.equal(keyed.KeyedDropout(1.0, draw=0, keys=keys)(x), torch.zeros(2, 3))
    assert keyed.KeyedDropout(0.5, draw=0, keys=keys)(x.bfloat16()).dtype == torch.bfloat16


def test_wrong_keys_are_errors():
    layer = keyed.KeyedDropout(0.5, draw=0, keys=keyed.Keys())
    with pytest.raises(RuntimeError, match=r"ran before its keys were set: call Keys\.set"):
        layer(torch.ones(2, 3))
    layer.keys.set(seed=0, epoch=0, samples=torch.arange(3))
    with pytest.raises(ValueError, match="got 2 rows, its keys are of 3 samples"):
        layer(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"int64 \[B\], got torch.float32 \[3\]"):
        layer.keys.set(seed=0, epoch=0, samples=torch.ones(3))


def test_install_replaces_in_module_order_and_leaves_weights_alone():
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 4), nn.Dropout(0.0), nn.Sequential(nn.Dropout2d(0.2)))
    names = list(model.state_dict())
    keyed.install(model.eval())
    assert [type(model[0]), type(model[2]), type(model[3][0])] == [keyed.KeyedDropout, nn.Dropout, keyed.KeyedDropout]
    assert (model[0].draw, model[3][0].draw) == (0, 1)
    assert not model[0].training
    assert model[3][0].whole_channels
    assert list(model.state_dict()) == names
    assert keyed.unkeyed(model) == []


def test_a_timm_model_gives_the_same_rows_in_any_batch():
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=3, drop_path_rate=0.5, drop_rate=0.5)
    keys = keyed.install(model)
    assert keyed.unkeyed(model) == []
    x, samples = torch.randn(4, 3, 32, 32), torch.arange(4)
    keys.set(seed=0, epoch=0, samples=samples)
    whole = model(x)
    for rows in (slice(0, 1), slice(1, 4)):
        keys.set(seed=0, epoch=0, samples=samples[rows])
        torch.testing.assert_close(model(x[rows]), whole[rows], rtol=1e-4, atol=1e-5)  # summation order of convolutions
    keys.set(seed=0, epoch=1, samples=samples)
    assert not torch.allclose(model(x), whole)
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))


def test_what_cannot_be_keyed_is_listed():
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, attn_drop_rate=0.1, proj_drop_rate=0.1)
    keyed.install(vit)
    assert keyed.unkeyed(vit) == ["blocks.0.attn", "blocks.1.attn"]
    efficientnet = timm.create_model("efficientnet_b0", drop_rate=0.2)
    keyed.install(efficientnet)
    assert keyed.unkeyed(efficientnet) == [""]
    others = nn.Sequential(
        nn.AlphaDropout(0.1), nn.LSTM(2, 2, 2, dropout=0.1), nn.MultiheadAttention(2, 1, dropout=0.1)
    )
    keyed.install(others)
    assert keyed.unkeyed(others) == ["0", "1", "2"]


def test_torchvisions_stochastic_depth():
    from torchvision.ops import StochasticDepth

    model = nn.Sequential(StochasticDepth(0.1, "row"), StochasticDepth(0.1, "batch"))
    keyed.install(model)
    assert isinstance(model[0], keyed.KeyedDropPath)
    assert keyed.unkeyed(model) == ["1"]
