"""What all points of a study have in common."""

import pytest

from fanlight.config import Config
from fanlight.study.layouts import recipe

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


def of(data, **values):
    config = Config().with_values({"data.path": str(data), "model.name": "scratch-cnn", **values})
    return recipe.basis(config, command="test", weak=False, to_accuracy=None).config


def test_epochs_are_as_many_as_steady_steps_need(colours):
    """The first does not count; images for validation make no steps."""
    few = of(colours, **{"train.batch_size": 2})
    many = of(colours, **{"train.batch_size": 8})
    assert few.train.epochs == recipe.EPOCHS
    steps = of_epoch(colours, batch=8)
    assert (many.train.epochs - 1) * steps >= recipe.STEPS_LEAST > (many.train.epochs - 2) * steps


def test_epochs_that_were_asked_for_stay(colours):
    asked = Config(asked=frozenset({"train.epochs"})).with_values(
        {"data.path": str(colours), "model.name": "scratch-cnn", "train.epochs": 7}
    )
    assert recipe.basis(asked, command="test", weak=False, to_accuracy=None).config.train.epochs == 7


def of_epoch(data, *, batch: int) -> int:
    from fanlight.data import split
    from fanlight.train import prepare

    config = Config().with_values({"data.path": str(data)})
    manifest = prepare.gather(config).manifest
    divided = split.assign(manifest, val_fraction=config.data.val_fraction, seed=0)
    return len(divided.rows("train")) // batch
