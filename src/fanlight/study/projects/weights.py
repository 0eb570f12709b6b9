"""Drawn weights in place of published ones that cannot be had: a frozen network is then studied all the same, since its steps
take as long whatever its weights are. Only its accuracies say nothing, and a note tells so."""

from __future__ import annotations

from pathlib import Path

from fanlight import config as configuration
from fanlight import console
from fanlight.config import Config
from fanlight.errors import FanlightError
from fanlight.models import zoo

CLASSES = 2  # of the file: the last layer is replaced by that of the data, as that of published weights is
WHY = "drawn ones stand in for them: times are those of the same work, accuracies say nothing"


def stand_in(config: Config, place: Path) -> Config:
    """The config, with a file of weights at `place` where its own cannot be had."""
    if not (config.model.freezes and config.model.pretrained):
        return config
    with console.quiet(also_warnings=True):
        found = _created(config, pretrained=True)
    if found.pretrained:
        return config
    console.warn(
        f"published weights of {config.model.name} cannot be had",
        why=WHY.capitalize(),
        do="Connect once so that the hub's cache keeps them, or give --set model.weights=FILE",
    )
    _save(found, place)
    return config.with_values({"model.pretrained": False, "model.weights": str(place.resolve())})


def again(config: Config, place: Path) -> None:
    """Draws the weights of a study that goes on once more, where they were drawn: the same ones."""
    if config.model.weights == str(place.resolve()) and not place.exists():
        _save(_created(config, pretrained=False), place)


def notes(study: Path) -> list[str]:
    """What is to be said of the weights of the study in this folder."""
    try:
        config = configuration.read(study / "basis.yaml")
    except FanlightError:
        return []
    if config.model.weights != str(study.with_suffix(".safetensors").resolve()):
        return []
    return [f"Published weights of {config.model.name} could not be had; {WHY}."]


def _created(config: Config, *, pretrained: bool) -> zoo.Created:
    image_px = config.data.image_px or 224
    return zoo.create(
        config.model.name or "", classes=CLASSES, image_px=image_px, seed=config.train.seed, pretrained=pretrained
    )


def _save(found: zoo.Created, place: Path) -> None:
    from safetensors.torch import save_file

    place.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in found.model.state_dict().items()}, place)
