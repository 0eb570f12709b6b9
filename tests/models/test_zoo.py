import re
import socket
import warnings

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from fanlight.errors import ConfigError
from fanlight.models import zoo


def create(name="small-resnet", *, classes=3, image_px=32, seed=0, **options):
    return zoo.create(name, classes=classes, image_px=image_px, seed=seed, **options)


@pytest.mark.parametrize(
    ("name", "image_px", "last"),
    [
        ("small-resnet", 32, "fc"),
        ("weather-lenet", 128, "fc"),
        ("resnet18", 40, "fc"),
        ("vit_tiny_patch16_224", 48, "head"),
        ("convnext_atto", 32, "head.fc"),
        ("googlenet", 32, "fc"),
        ("squeezenet1_1", 32, "classifier.1"),
    ],
)
def test_output_last_layer_and_determinism(name, image_px, last):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    created = create(name, image_px=image_px)
    assert torch.equal(torch.get_rng_state(), before)
    assert created.notes == [] and not created.pretrained
    assert created.model.training
    assert zoo.head(created.model) == last
    torch.manual_seed(6)
    again = create(name, image_px=image_px).model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in created.model.state_dict().items())
    other = create(name, image_px=image_px, seed=1).model
    weight = f"{last}.weight"
    assert not torch.equal(other.state_dict()[weight], again[weight])
    assert other.eval()(torch.zeros(2, 3, image_px, image_px)).shape == (2, 3)


def test_weights_are_fp32_on_the_cpu_whatever_the_defaults_are():
    expected = create().model.state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            model = create().model
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_names_hold_all_three_sources():
    names = zoo.names()
    assert {"small-resnet", "weather-lenet", "resnet50", "vgg19", "inception_v3", "alexnet", "googlenet"} <= set(names)
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smal-resnet", "small-resnet"),
        ("resnet19", "resnet18"),
        ("googlnet", "googlenet"),
        ("resnet18.no_such_tag", "resnet18"),
    ],
)
def test_unknown_names_get_near_ones(name, hint):
    with pytest.raises(ConfigError, match=f"model {name!r} is unknown. Near names: .*{hint}"):
        create(name)


def test_addresses_are_not_names():
    with pytest.raises(ConfigError, match="is unknown"):
        create("local-dir:/somewhere")


@pytest.mark.parametrize(
    ("name", "image_px", "fit"),
    [("inception_v3", 64, 96), ("alexnet", 32, 64), ("vit_tiny_patch16_224", 8, 32), ("weather-lenet", 64, 128)],
)
def test_an_image_size_that_does_not_work_is_refused_with_one_that_does(name, image_px, fit):
    with pytest.raises(ConfigError, match=rf"{name} takes no images of {image_px} px \(.+\); --image-size {fit} works"):
        create(name, image_px=image_px)
    create(name, image_px=fit)


def test_when_no_size_works_it_is_said(monkeypatch):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("never\nsecond line")

    monkeypatch.setitem(zoo.small.NAMES, "broken", lambda classes, image_px: Broken())
    with pytest.raises(
        ConfigError, match=r"broken takes no images of 32 px \(never\); no larger one up to 512 px works"
    ):
        create("broken")


def test_a_network_that_is_no_classifier_is_refused(monkeypatch):
    monkeypatch.setitem(zoo.small.NAMES, "identity", lambda classes, image_px: nn.Identity())
    with pytest.raises(
        ConfigError, match=re.escape("identity gives [1, 3, 32, 32] for one image, a classifier gives [1, 3]")
    ):
        create("identity")


def test_impossible_arguments(tmp_path):
    with pytest.raises(ConfigError, match="got 0 classes and 32 px"):
        create(classes=0)
    with pytest.raises(ConfigError, match="two sources of weights; choose one"):
        create(pretrained=True, weights=tmp_path / "w.pt")


def test_without_a_network_published_weights_are_a_warning_and_a_note(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(zoo, "_answers", lambda address: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked = []  # the hub's own retries take 45 s
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    created = create("resnet18", pretrained=True)
    assert asked == [] and not created.pretrained
    (note,) = created.notes
    assert note.startswith(
        "resnet18 starts from random weights, its published ones could not be had: LocalEntryNotFound"
    )
    assert capsys.readouterr().err.startswith("Warning: resnet18 starts from random weights")
    expected = create("resnet18").model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in created.model.state_dict().items())


def test_a_model_without_published_weights_says_so(monkeypatch, capsys):
    monkeypatch.setattr(zoo, "_answers", lambda address: False)
    created = create("small-resnet", pretrained=True)
    assert not created.pretrained
    assert "no weights are published for it" in created.notes[0]
    assert "no weights are published for it" in capsys.readouterr().err


def test_published_weights_come_through_timms_loading(monkeypatch, tmp_path):
    torch.manual_seed(1)
    published = timm.create_model("resnet18").state_dict()
    safetensors.torch.save_file(published, tmp_path / "model.safetensors")
    monkeypatch.setattr(zoo, "_answers", lambda address: True)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *args, **options: tmp_path / "model.safetensors")
    created = create("resnet18", pretrained=True)
    assert created.pretrained
    assert created.notes == ["published weights of resnet18"]
    state, fresh = created.model.state_dict(), create("resnet18").model.state_dict()
    assert torch.equal(state["layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])
    assert torch.equal(state["fc.weight"], fresh["fc.weight"])


def test_published_weights_come_through_torchvisions_loading(monkeypatch):
    import torchvision

    published = torchvision.models.squeezenet1_1(weights=None).state_dict()
    monkeypatch.setattr(zoo, "_answers", lambda address: True)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **options: published)
    created = create("squeezenet1_1", pretrained=True)
    assert created.pretrained
    assert torch.equal(created.model.state_dict()["features.0.weight"], published["features.0.weight"])
    assert created.model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_googlenet_is_the_same_function_with_published_weights_and_without(monkeypatch):
    """torchvision's knows its inputs' means by an attribute, which it sets for published weights only."""
    import torchvision

    published = torchvision.models.googlenet(weights=None, init_weights=False).state_dict()
    monkeypatch.setattr(zoo, "_answers", lambda address: True)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **options: published)
    trained, rebuilt = create("googlenet", pretrained=True), create("googlenet")
    assert trained.pretrained and not rebuilt.pretrained
    rebuilt.model.load_state_dict(trained.model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(rebuilt.model.eval()(x), trained.model.eval()(x), rtol=0, atol=0)


def test_an_address_that_does_not_answer():
    assert not zoo._answers("http://127.0.0.1:9")


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"state_dict": state}, lambda state: {"model": state}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_from_pt_files(tmp_path, wrap, prefix):
    state = create(seed=7).model.state_dict()
    torch.save(wrap({prefix + key: value for key, value in state.items()}), tmp_path / "w.pt")
    created = create(weights=tmp_path / "w.pt")
    assert created.notes == [f"weights from {tmp_path / 'w.pt'}"]
    assert all(torch.equal(value, state[key]) for key, value in created.model.state_dict().items())


def test_a_head_of_other_classes_is_left_out_and_said(tmp_path):
    state = create(seed=7, classes=5).model.state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    created = create(weights=str(tmp_path / "w.safetensors"))
    assert created.notes[1] == "w.safetensors has a last layer of 5 classes: left out, fc starts from the seed"
    assert torch.equal(created.model.state_dict()["conv1.weight"], state["conv1.weight"])
    assert torch.equal(created.model.state_dict()["fc.weight"], create().model.state_dict()["fc.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv1.weight"), r"1 weights are missing \(conv1.weight\)"),
        (lambda state: state.update(a=torch.ones(1)), r"1 weights are not of this model \(a\)"),
        (
            lambda state: state.update({"conv1.weight": torch.ones(1)}),
            r"1 weights have other shapes \(conv1.weight; conv1.weight: \[1\] in the file, \[32, 3, 3, 3\] in .*\)",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if key.startswith("layer1")],
            r"24 weights are missing \(layer1.0.bn1.bias, layer1.0.bn1.num_batches_tracked, .*, …\)",
        ),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, change, message):
    state = create().model.state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=f"w.pth: {message}; the file should be of the same --model"):
        create(weights=tmp_path / "w.pth")


def test_quantised_weights_are_refused(tmp_path):
    state = create().model.state_dict()
    state["conv1.weight"] = state["conv1.weight"].to(torch.int8)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w\.pt: conv1\.weight are torch\.int8, as if quantised; give floating ones"):
        create(weights=tmp_path / "w.pt")


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda value: value.to("meta")])
def test_weights_that_are_not_plain_numbers_are_refused(tmp_path, change):
    state = create().model.state_dict()
    state["fc.weight"] = change(state["fc.weight"])
    torch.save(state, tmp_path / "w.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch checks sparse tensors, and says that this is slow
        with pytest.raises(ConfigError, match=r"w\.pt: fc\.weight are sparse, or names without numbers; give dense"):
            create(weights=tmp_path / "w.pt")


@pytest.mark.parametrize("value", [torch.nan, torch.tensor(1e300, dtype=torch.float64)])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = create().model.state_dict()
    state["conv1.weight"] = torch.zeros_like(state["conv1.weight"], dtype=torch.float64) + value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w\.pt: conv1\.weight hold numbers that are not finite in float32; give"):
        create(weights=tmp_path / "w.pt")


def test_a_head_that_is_a_single_number_is_refused(tmp_path):
    state = create().model.state_dict()
    state["fc.bias"] = torch.zeros(())
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"1 weights have other shapes \(fc\.bias; fc\.bias: \[\] in the file"):
        create(weights=tmp_path / "w.pt")


def test_files_that_hold_no_weights_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match=r"w\.safetensors cannot be read as"):
        create(weights=tmp_path / "w.safetensors")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ConfigError, match=r"empty\.pt cannot be read as \.pt: EOFError"):
        create(weights=tmp_path / "empty.pt")
    (tmp_path / "w.pt").write_bytes(b"not weights at all")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pt")  # a pickle of classes, which loading would have to run
    for name in ("w.pt", "code.pt"):
        with pytest.raises(
            ConfigError, match=rf"{name} is damaged, or holds Python objects .*; save `model.state_dict\(\)`"
        ):
            create(weights=tmp_path / name)
    torch.save({3: torch.zeros(2)}, tmp_path / "number.pt")
    with pytest.raises(ConfigError, match=r"number\.pt holds no weights"):
        create(weights=tmp_path / "number.pt")
    torch.save({"epoch": 3}, tmp_path / "odd.pt")
    with pytest.raises(ConfigError, match=r"odd\.pt holds no weights"):
        create(weights=tmp_path / "odd.pt")
    (tmp_path / "w.onnx").touch()
    with pytest.raises(ConfigError, match=r"should end in \.safetensors, \.pt or \.pth"):
        create(weights=tmp_path / "w.onnx")
    with pytest.raises(ConfigError, match=r"absent\.pt is no file"):
        create(weights=tmp_path / "absent.pt")


def test_heads_that_cannot_be_named():
    with pytest.raises(ConfigError, match="ReLU has no last layer with weights"):
        zoo.head(nn.ReLU())
    with pytest.raises(ConfigError, match="has several last layers"):
        zoo.head(create("deit_tiny_distilled_patch16_224").model)


def test_parameters_text():
    model = nn.Linear(1000, 2)
    assert zoo.parameters_text(model) == "2,002 parameters, 8.0 kB"
    model.weight.requires_grad_(False)
    assert zoo.parameters_text(model) == "2,002 parameters, 2 of them trained, 8.0 kB"


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "regnety_002", "seresnet50", "gcresnet33ts", "tresnet_m"])
def test_residual_branches_of_networks_from_scratch_are_open(name):
    def gains(model: nn.Module) -> list[torch.Tensor]:
        return [module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    closed, found = gains(timm.create_model(name, num_classes=3)), gains(create(name, image_px=64).model)
    assert any(not gain.any() for gain in closed)  # else zoo._open_branches can go
    assert len(found) == len(closed) and all((gain == 1).all() for gain in found)
