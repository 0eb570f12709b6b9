"""Networks by name: our own small ones, then timm's, then those that only torchvision has; and by one line of text.

Weights are made whole, on the CPU, in fp32, from a seed; the global random state is neither read nor moved.
"""

import contextlib
import functools
import pickle
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fanlight import console
from fanlight.errors import ConfigError, near
from fanlight.models import captioner, line, line_net, small, told, weights_file

HUB_TIMEOUT_S = 5.0  # for the hub's first answer, and for each read of a download outside it
LARGEST_TRIED_PX = 512  # when an image size does not work, larger ones are tried up to this
_WRONG_SIZE = (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError)  # what networks raise then
_WAY = "the file should be of the same --model and image size"
_Build = Callable[..., nn.Module]  # of image_px and pretrained


@dataclass(frozen=True)
class Created:
    """A network, and what the caller must know of its weights."""

    model: nn.Module
    notes: list[str]  # one sentence each: what was loaded, dropped, or could not be had
    pretrained: bool  # published weights were really loaded


def create(
    name: str,
    *,
    classes: int,
    image_px: int,
    seed: int,
    pretrained: bool = False,
    weights: Path | str | None = None,
    longest: int = captioner.LONGEST,
) -> Created:
    """The network `name` for images [B, 3, image_px, image_px] and outputs [B, classes], on the CPU, in training mode.

    Of a captioner (`resnet18+lstm`), `classes` are the words of its vocabulary, `longest` the most of a caption with START and
    END; published weights, and a file of a network's weights, are its encoder's.
    ConfigError: an unknown name, an image size that the network cannot take, a weights file that does not fit it.
    Published weights that cannot be had are a warning and a note, and the weights are random.
    """
    if classes < 1 or image_px < 1:
        raise ConfigError(f"a network needs 1 class and 1 px at least, got {classes} classes and {image_px} px")
    if pretrained and weights is not None:
        raise ConfigError(f"model.pretrained and model.weights={weights} name two sources of weights; choose one")
    if captioner.is_name(name):
        return _captioner(
            name, words=classes, image_px=image_px, seed=seed, pretrained=pretrained, weights=weights, longest=longest
        )
    build = functools.partial(_seeded, _builder(name, classes), seed)
    model = _checked(name, build, classes=classes, image_px=image_px)
    if weights is not None:
        return Created(model, notes=_load(model, Path(weights)), pretrained=False)
    if not pretrained:
        return Created(model, notes=[], pretrained=False)
    published = _published(build, image_px=image_px, fresh=model)
    if isinstance(published, nn.Module):
        return Created(published, notes=[f"published weights of {name}"], pretrained=True)
    what = f"{name} starts from random weights, its published ones could not be had"
    console.warn(what, why=published, do="Connect once so that the hub's cache keeps them, or give --weights FILE")
    return Created(model, notes=[f"{what}: {published}"], pretrained=False)


def check_name(name: str) -> None:
    """ConfigError, with near names, where there is no such network: before anything is packed or written."""
    _builder(captioner.parse(name).encoder if captioner.is_name(name) else name, 1)


def names() -> list[str]:
    """Every name that `create` knows, sorted; with `+lstm` or `+transformer` most are captioners (captioner.py)."""
    return sorted({*small.NAMES, *_timm_names(), *_torchvision_names()})


def head(model: nn.Module) -> str:
    """Name of the last layer, the one that has an output per class."""
    last = getattr(model, "get_classifier", None)
    if last is None:
        layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        if not layers:
            raise ConfigError(f"{type(model).__name__} has no last layer with weights; choose another --model")
        return layers[-1]
    classifier = last()
    found = [name for name, module in model.named_modules() if module is classifier]
    if not found:
        raise ConfigError(f"{type(model).__name__} has several last layers; choose another --model")
    return found[0]


def parameters_text(model: nn.Module) -> str:
    """`11,181,642 parameters, 44.7 MB`, and how many of them are trained where it is not all."""
    sizes = [(parameter.numel(), parameter) for parameter in model.parameters()]
    count = sum(size for size, _ in sizes)
    trained = sum(size for size, parameter in sizes if parameter.requires_grad)
    part = "" if trained == count else f", {trained:,} of them trained"
    return f"{count:,} parameters{part}, {console.bytes_text(sum(size * p.element_size() for size, p in sizes))}"


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _builder(name: str, classes: int) -> _Build:
    if name in small.NAMES:
        return lambda image_px, *, pretrained: small.NAMES[name](classes, image_px)
    if line.is_text(name):
        text = line.parse(name)
        return lambda image_px, *, pretrained: line_net.build(text, image=(3, image_px, image_px), classes=classes)
    import timm

    base, _, tag = name.partition(".")
    is_address = ":" in name or "/" in name  # of a hub or a folder, which could run code of others
    if not is_address and timm.is_model(base) and (not tag or timm.models.is_model_pretrained(name)):
        return functools.partial(_timm_model, name, classes)
    if name in _torchvision_names():
        return functools.partial(_torchvision_model, name, classes)
    raise ConfigError(f"model {name!r} is unknown.{near(name, names())} `fanlight.models.zoo.names()` lists all")


def _captioner(
    name: str, *, words: int, image_px: int, seed: int, pretrained: bool, weights: Path | str | None, longest: int
) -> Created:
    """A captioner whose encoder is made as the network alone would be."""
    asked = captioner.parse(name)
    path = None if weights is None else Path(weights)
    keys = [] if path is None else [key for key in _read(path) if key.startswith(("decoder.", "module.decoder."))]
    is_whole = bool(keys)
    if path is not None and is_whole:
        captioner.check_weights(keys, name=name, path=path)
    alone = None if is_whole else path
    made = create(asked.encoder, classes=2, image_px=image_px, seed=seed, pretrained=pretrained, weights=alone)

    def build(px: int, *, pretrained: bool) -> nn.Module:
        return captioner.build(made.model, asked, words=words, longest=longest, image_px=px)

    model = _seeded(build, seed, image_px)
    if path is not None and is_whole:
        return Created(model, notes=_load(model, path), pretrained=False)
    return Created(model, notes=made.notes[:1], pretrained=made.pretrained)  # the others are of its head


def _seeded(build: _Build, seed: int, image_px: int, *, pretrained: bool = False) -> nn.Module:
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too, now or later
        torch.set_default_dtype(torch.float32)
        try:
            return build(image_px, pretrained=pretrained)
        finally:
            torch.set_default_dtype(dtype)


def _timm_model(name: str, classes: int, image_px: int, *, pretrained: bool) -> nn.Module:
    import timm

    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=classes, img_size=image_px)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, pretrained=pretrained, num_classes=classes)  # convolutions take any size
    if not pretrained:
        _open_branches(model)
    return model


@torch.no_grad()
def _open_branches(model: nn.Module) -> None:
    """Residual branches begin with a gain of 1, as torchvision's do. timm sets the last batch norm of each to 0 (Goyal et
    al. 2017), which steadies large batches over long runs (docs/decisions/013)."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine and not norm.weight.any():
            norm.weight.fill_(1.0)


def _torchvision_model(name: str, classes: int, image_px: int, *, pretrained: bool) -> nn.Module:
    import torchvision

    options: dict[str, Any] = {"weights": "DEFAULT", "progress": False} if pretrained else {"num_classes": classes}
    if name == "googlenet" and not pretrained:  # its auxiliary heads go away by themselves where weights are loaded
        options |= {"aux_logits": False, "init_weights": True}
    if name == "googlenet":  # its published weights are for other means and deviations, and it is an attribute that
        options["transform_input"] = True  # knows it, not the weights: so it is the same whatever they are
    if name.startswith("vit_"):
        options["image_size"] = image_px
    model = torchvision.models.get_model(name, **options)
    if pretrained:
        last = head(model)
        old = model.get_submodule(last)
        kind = (
            nn.Linear(old.in_features, classes)
            if isinstance(old, nn.Linear)
            else nn.Conv2d(old.in_channels, classes, 1)
        )
        parent, _, child = last.rpartition(".")
        setattr(model.get_submodule(parent), child, kind)
    return model


def _checked(name: str, build: _Build, *, classes: int, image_px: int) -> nn.Module:
    """A network that gives [1, classes] for one image of `image_px`, or a ConfigError with a size that works."""
    try:
        model = build(image_px)
        shape = _output_shape(model, image_px, device="cpu")
    except ConfigError:
        raise
    except _WRONG_SIZE as error:
        fit = _next_size(build, image_px)
        none = f"no larger one up to {LARGEST_TRIED_PX} px works; try another --model"
        way = f"--image-size {fit} works" if fit else none
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{name} takes no images of {image_px} px ({reason}); {way}") from error
    if shape != [1, classes]:
        raise ConfigError(f"{name} gives {shape} for one image, a classifier gives [1, {classes}]; try another --model")
    return model


def refusal(model: nn.Module, image_px: int, *, classes: int) -> str:
    """Why this very network, made for images of another side perhaps, takes none of `image_px`; empty where it does."""
    wanted = [1, classes]
    if isinstance(model, captioner.Captioner):  # of one word, and of the image
        wanted = [1, 1, 1 + (model.decoder.detector is not None), classes]
    try:
        shape = _output_shape(model, image_px, device="cpu")
    except _WRONG_SIZE as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return "" if shape == wanted else f"it gives {shape} for one image"


def _output_shape(model: nn.Module, image_px: int, *, device: str) -> list[int] | str:
    image = torch.zeros(1, 3, image_px, image_px, dtype=torch.float32, device=device)
    model.eval()
    with torch.no_grad(), told.standing_in(model):
        output = model(image)
    model.train()
    return list(output.shape) if isinstance(output, Tensor) else type(output).__name__


def _next_size(build: _Build, image_px: int) -> int | None:
    """The first larger multiple of 32 px that works, tried with shapes only."""
    for px in range(image_px // 32 * 32 + 32, LARGEST_TRIED_PX + 1, 32):
        with contextlib.suppress(*_WRONG_SIZE, ConfigError):
            _output_shape(build(px).to("meta"), px, device="meta")
            return px
    return None


def _published(build: _Build, *, image_px: int, fresh: nn.Module) -> nn.Module | str:
    """The network with its published weights, or why they cannot be had."""
    try:
        with _short_patience():
            model = build(image_px, pretrained=True)
    except Exception as error:  # of hub, cache, download and file formats: many libraries' errors
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    loaded = model.state_dict()
    drawn = {key: value for key, value in fresh.state_dict().items() if value.ndim > 1}  # gains may have been opened
    if all(torch.equal(value, loaded[key]) for key, value in drawn.items()):  # both are of the same seed
        return "nothing was loaded: no weights are published for it"
    return model


@contextlib.contextmanager
def _short_patience() -> Iterator[None]:
    """Without a network the hub's client retries for most of a minute; here it then looks into its cache only."""
    from huggingface_hub import constants

    offline, timeout_s = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    socket.setdefaulttimeout(HUB_TIMEOUT_S)  # torchvision's downloads have no other
    constants.HF_HUB_OFFLINE = offline or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout_s)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _load(model: nn.Module, path: Path) -> list[str]:
    """Puts the file's weights into the model; the notes say what was left out."""
    state = {key.removeprefix("module."): value for key, value in _read(path).items()}
    own = model.state_dict()
    different = [key for key in state if key in own and state[key].shape != own[key].shape]
    integers = [key for key in state if key in own and own[key].is_floating_point() > state[key].is_floating_point()]
    hollow = [key for key, value in state.items() if value.layout != torch.strided or value.is_meta]
    if hollow:
        raise ConfigError(f"{path}: {_few(hollow)} are sparse, or names without numbers; give dense weights")
    if integers:  # torch would take them for fractions
        raise ConfigError(
            f"{path}: {_few(integers)} are {state[integers[0]].dtype}, as if quantised; give floating ones"
        )
    notes = []
    if (
        different
        and all(state[key].ndim for key in different)
        and all(key.rpartition(".")[0] == head(model) for key in different)
    ):
        count = len(state[different[0]])
        notes.append(f"{path.name} has a last layer of {count} classes: left out, {head(model)} starts from the seed")
        for key in [key for key in state if key.rpartition(".")[0] == head(model)]:
            state[key] = own[key]
    elif different:
        key = different[0]
        shapes = f"{list(state[key].shape)} in the file, {list(own[key].shape)} in the model"
        raise ConfigError(
            f"{path}: {len(different)} weights have other shapes ({_few(different)}; {key}: {shapes}); {_WAY}"
        )
    for what, keys in ("missing", own.keys() - state.keys()), ("not of this model", state.keys() - own.keys()):
        if keys:
            raise ConfigError(f"{path}: {len(keys)} weights are {what} ({_few(sorted(keys))}); {_WAY}")
    model.load_state_dict(state)
    broken = [key for key, value in model.named_parameters() if not value.isfinite().all()]
    if broken:  # training would blame its first step
        raise ConfigError(f"{path}: {_few(broken)} hold numbers that are not finite in float32; give other weights")
    return [f"weights from {path}", *notes]


def _read(path: Path) -> dict[str, Tensor]:
    weights_file.check(path)
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # of `weights_only`; torch's text would tell the user to go without it
        raise ConfigError(
            f"{path} is damaged, or holds Python objects beside weights, which can run code and are not read; "
            "save `model.state_dict()` instead, best as .safetensors"
        ) from None
    except Exception as error:  # each format has errors of its own
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"{path} cannot be read as {path.suffix}: {why}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    ):
        raise ConfigError(
            f"{path} holds no weights: expected names and tensors, or those under `state_dict` or `model`"
        )
    return content


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
