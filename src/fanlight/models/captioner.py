"""Captioners: a network of images whose last grid of features is read by a decoder of words. b images of side P, k captions
of each, L words of one, V words of the vocabulary, F numbers of a grid cell.

By name `<network>+<decoder>`: `resnet18+lstm`, `small-cnn+transformer`; the decoder's width and layers may follow it:
`resnet50+transformer512x6`; `resnet18+plain-lstm` is without word detection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fanlight.errors import ConfigError, near
from fanlight.models.decoder import Decoder
from fanlight.models.decoder_lstm import LSTMDecoder
from fanlight.models.decoder_transformer import TransformerDecoder

DECODERS: dict[str, type[Decoder]] = {"lstm": LSTMDecoder, "transformer": TransformerDecoder}
PLAIN = "plain-"  # before a decoder's name: without word detection
LONGEST = 24  # words of a caption with START and END, where nobody says


class Captioner(nn.Module):
    """Images to what Decoder.forward says of the words that `decoder.told` was told before, and of the image."""

    def __init__(self, encoder: nn.Module, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.form = _form(encoder)

    def forward(self, images_b3PP: Tensor) -> Tensor:
        return self.decoder(self.features(images_b3PP))

    def features(self, images_b3PP: Tensor) -> Tensor:
        """[b, cells, F], row by row: what the decoder sees of an image, and all that it does."""
        return grid(self.encoder.forward_features(images_b3PP), form=self.form)  # type: ignore[operator]

    def get_classifier(self) -> nn.Module:
        """The last layer as zoo.head knows it: what trains while the rest is frozen, and what cached features enter."""
        return self.decoder


@dataclass(frozen=True)
class Name:
    encoder: str
    kind: str
    detects: bool  # which words cells see
    sizes: dict[str, int]  # width and layers, where the name says them


def is_name(name: str) -> bool:
    """Whether a model's name asks for a captioner."""
    return "+" in name


def parse(name: str) -> Name:
    """ConfigError for a decoder that does not exist; of the encoder nothing is known yet."""
    encoder, _, decoder = name.rpartition("+")
    found = re.fullmatch(rf"({PLAIN})?([a-z]+)(?:([1-9][0-9]*)(?:x([1-9][0-9]*))?)?", decoder)
    if found is None or found[2] not in DECODERS:
        raise ConfigError(
            f"model {name!r}: there is no decoder {decoder!r}; there are {', '.join(DECODERS)}, and with their width and "
            f"layers, such as transformer256x3, or without word detection, such as {PLAIN}lstm.{near(decoder, DECODERS)}"
        )
    sizes = {key: int(text) for key, text in zip(("width", "layers"), found.groups()[2:]) if text}
    return Name(encoder, found[2], found[1] is None, sizes)


def check_weights(keys: Iterable[str], *, name: str, path: Path) -> None:
    """ConfigError where the weights of these names, a whole captioner's, detect words and the asked one does not, or the other
    way: a detector that is drawn anew would bring noise to what a trained decoder looks at."""
    asked, detects = parse(name), any(key.removeprefix("module.").startswith("decoder.detector.") for key in keys)
    if detects == asked.detects:
        return
    encoder, _, decoder = name.rpartition("+")
    other = f"{encoder}+{decoder.removeprefix(PLAIN) if detects else PLAIN + decoder}"
    its, own = ("detects words", "does not") if detects else ("detects no words", "does")
    raise ConfigError(f"{path}: the captioner in it {its}, and {name} {own}; use --model {other}, or other weights")


def build(encoder: nn.Module, name: Name, *, words: int, longest: int, image_px: int) -> Captioner:
    """A captioner of a vocabulary of so many `words`. `encoder` is a classifier; its head goes away."""
    if longest < 2 or words < 5:
        raise ConfigError(
            f"a captioner needs captions of 2 words (START and END) and a vocabulary of 5 at least, got {longest} and {words}"
        )
    cells, features = _behead(encoder, name.encoder, torch.zeros(2, 3, image_px, image_px))
    streams = getattr(encoder, "streams", 1)
    decoder = DECODERS[name.kind](
        features=features,
        cells=cells,
        words=words,
        longest=longest,
        streams=streams,
        detects=name.detects,
        **name.sizes,
    )
    return Captioner(encoder, decoder)


def grid(x: Tensor, *, form: str) -> Tensor:
    """A network's last features as [b, cells, F]. `form`: NCHW, NHWC, or the number of tokens before those of the grid."""
    if form == "NCHW":
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    return x.flatten(1, 2) if form == "NHWC" else x[:, int(form) :]


def _form(encoder: nn.Module) -> str:
    fitting = getattr(encoder, "output_fmt", None)  # of timm's: a string, or an enumeration of strings
    if hasattr(encoder, "num_prefix_tokens") and hasattr(encoder, "patch_embed"):
        return str(encoder.num_prefix_tokens)
    return "NHWC" if fitting is not None and str(getattr(fitting, "value", fitting)) == "NHWC" else "NCHW"


def _behead(encoder: nn.Module, name: str, example: Tensor) -> tuple[int, int]:
    """Takes away all that the features do not need, or its weights would get no gradient. Number of cells, and of numbers of
    each."""
    if not hasattr(encoder, "forward_features"):
        raise ConfigError(
            f"{name} cannot be a captioner's encoder: it tells no grid of features; use a network of timm, small-cnn or "
            "small-resnet"
        )
    encoder.eval()
    with torch.enable_grad():
        x = grid(encoder.forward_features(example), form=_form(encoder))  # type: ignore[operator]
        if x.ndim != 3 or x.shape[1] < 2:
            raise ConfigError(
                f"{name} cannot be a captioner's encoder: of images of {len(example[0, 0])} px its last "
                f"features are {list(x.shape[1:])}, no grid of 2 cells at least; try a larger --image-size"
            )
        x.sum().backward()
    unused = {id(p) for p in encoder.parameters() if p.grad is None and p.requires_grad}
    gone: list[str] = []
    for path, module in list(encoder.named_modules()):
        own = list(module.parameters())
        inside_gone = any(path.startswith(f"{each}.") for each in gone)
        if path and own and not inside_gone and all(id(p) in unused for p in own):
            parent, _, child = path.rpartition(".")
            setattr(encoder.get_submodule(parent), child, nn.Identity())
            gone.append(path)
    left = [key for key, p in encoder.named_parameters() if id(p) in unused]
    if left:
        raise ConfigError(f"{name} cannot be a captioner's encoder: its features do not depend on {left[0]}")
    encoder.zero_grad(set_to_none=True)
    encoder.train()
    return x.shape[1], x.shape[2]
