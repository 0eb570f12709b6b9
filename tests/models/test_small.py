import pytest
import torch

from fanlight.errors import ConfigError
from fanlight.models import small, small_grid


@pytest.mark.parametrize(
    ("name", "image_px", "parameters"),
    [
        ("weather-lenet", 256, 108_517),
        ("scratch-cnn", 28, 502_122),
        ("lenet5", 32, 62_006),
        ("small-resnet", 32, 696_618),
        ("small-cnn", 32, 1_972_802),
        ("small-grid", 64, 145_898),
    ],
)
def test_each_gives_one_output_per_class_and_has_the_expected_parameters(name, image_px, parameters):
    model = small.NAMES[name](11 if name == "weather-lenet" else 10, image_px)
    assert model(torch.randn(2, 3, image_px, image_px)).shape == (2, model.fc.out_features)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_weather_lenet_has_the_reference_shapes_at_256_px():
    shapes, x = [], torch.zeros(1, 3, 256, 256)
    for layer in small.WeatherLeNet(11).eval().features:
        x = layer(x)
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.AvgPool2d, torch.nn.AdaptiveAvgPool2d)):
            shapes.append(tuple(x.shape[1:3]))
    assert shapes == [(6, 253), (6, 50), (16, 46), (16, 23), (32, 16), (32, 4), (120, 1)]


def test_weather_lenet_pools_at_256_px_as_the_reference_does():
    x = torch.randn(1, 32, 16, 16)
    torch.testing.assert_close(torch.nn.AdaptiveAvgPool2d(4)(x), torch.nn.AvgPool2d(4)(x))


def test_weather_lenet_works_from_103_px():
    model = small.WeatherLeNet(11).eval()
    assert model(torch.zeros(1, 3, 103, 103)).shape == (1, 11)
    with pytest.raises(RuntimeError, match="Kernel size"):
        model(torch.zeros(1, 3, 102, 102))


@pytest.mark.parametrize(("name", "smallest_px"), [("scratch-cnn", 8), ("lenet5", 16), ("small-cnn", 4)])
def test_smallest_images(name, smallest_px):
    assert small.NAMES[name](3, smallest_px)(torch.zeros(2, 3, smallest_px, smallest_px)).shape == (2, 3)
    with pytest.raises(
        ConfigError, match=f"{name} takes images of {smallest_px} px and more, got {smallest_px - 1} px"
    ):
        small.NAMES[name](3, smallest_px - 1)


def test_a_fresh_basic_block_is_its_shortcut():
    block = small.SmallResNet(2).layer1[0]
    x = torch.rand(2, 32, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_small_cnn_begins_with_whitened_patches():
    """Over patches as photographs have them, in their own basis, every output has a deviation below 1, and most near it."""
    model = small.SmallCNN(10, image_px=32)
    filters_KD = model.whiten.weight[:12].flatten(1).double()
    basis_KD = filters_KD / filters_KD.norm(dim=1, keepdim=True)
    torch.testing.assert_close(basis_KD @ basis_KD.T, torch.eye(12, dtype=torch.float64), atol=1e-6, rtol=0)
    variances_K = torch.tensor(small._PATCH_VARIANCES, dtype=torch.float64).flatten()
    covariance_DD = basis_KD.T @ torch.diag(variances_K) @ basis_KD
    deviations_K = torch.diag(filters_KD @ covariance_DD @ filters_KD.T).sqrt()
    assert (deviations_K < 1).all() and deviations_K.median() > 0.8
    torch.testing.assert_close(model.whiten.weight[12:], -model.whiten.weight[:12])


def test_small_cnn_hands_on_what_it_sees_before_it_learns():
    convolution = small.SmallCNN(10, image_px=32).groups[1].conv1
    x = torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(convolution(x)[:, :64], x)


@pytest.mark.parametrize(("stream", "across"), [(0, 43), (1, 53)])
def test_small_grid_has_cells_of_8_pixels(stream, across):
    """Of edges they see five pixels more to every side, those that an edge is compared with."""
    model = small.NAMES["small-grid"](10, 64).eval()
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    features = model.forward_features(x)
    assert features.shape == (1, 128, 16, 16)
    features.chunk(model.streams, 1)[stream][0, :, 8, 8].sum().backward()
    for other in (2, 3):
        seen = x.grad.abs().sum((0, 1, other)).nonzero().flatten()
        assert (int(seen.min()), int(seen.max())) == (64 - across // 2, 64 + across // 2)


def test_edges_know_no_colour():
    """A thing of any colour on any ground has the same edges, nearly, and flat parts have none."""
    shape = torch.zeros(1, 1, 32, 32)
    shape[..., 8:24, 10:20] = 1.0
    edges = small_grid.ColoursAndEdges()
    grounds = [torch.tensor(rgb).view(1, 3, 1, 1) for rgb in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.5, 0.9))]
    things = [torch.tensor(rgb).view(1, 3, 1, 1) for rgb in ((1.0, 0.0, 0.0), (0.1, 0.9, 0.3), (-1.5, 0.4, 2.0))]
    found = [edges(ground + (thing - ground) * shape)[:, 3:] for ground in grounds for thing in things]
    for each in found:
        assert each.shape == (1, 3, 32, 32)
        assert (each - found[0]).abs().mean() < 0.05 * found[0].abs().mean()
        assert each[0, 0, 16, 10] > 0 > each[0, 0, 2, 2], "an edge, and none"
        assert each[0, 1, 16, 10] > each[0, 2, 16, 10], "an upright one"
    assert torch.equal(edges(x := torch.rand(1, 3, 8, 8))[:, :3], x)
    for order in (torch.channels_last, torch.contiguous_format):
        assert edges(x.contiguous(memory_format=order)).is_contiguous(memory_format=order)
    assert edges(torch.zeros(2, 3, 8, 8)).isfinite().all()
