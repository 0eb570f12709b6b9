"""What all points of a study have in common."""

from dataclasses import replace

import pytest

from fanlight.config import Config
from fanlight.errors import ConfigError
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


def test_epochs_of_weak_scaling_are_of_the_largest_batch(colours):
    """Which has the fewest steps: four cores train on four times as many images at a time."""
    config = Config().with_values({"data.path": str(colours), "model.name": "scratch-cnn", "train.batch_size": 4})
    config = replace(config, asked=frozenset())
    weak = recipe.basis(config, command="test", weak=True, to_accuracy=None, cores_most=4).config
    strong = recipe.basis(config, command="test", weak=False, to_accuracy=None, cores_most=4).config
    assert weak.train.batch_size == strong.train.batch_size == 4
    assert (weak.train.epochs - 1) * of_epoch(colours, batch=16) >= recipe.STEPS_LEAST
    assert strong.train.epochs == recipe.EPOCHS < weak.train.epochs


def test_keys_that_the_study_decides_are_not_taken_from_the_user():
    for key in (*recipe.PLAIN, "train.precision", "train.seed"):
        with pytest.raises(ConfigError, match=f"--set {key} would do nothing, since a study decides it"):
            recipe.check_set(["optim.name", key])
    recipe.check_set(["optim.name", "execution.threads", "execution.workers", "execution.split_at", "train.epochs"])


def test_keys_of_a_recipe_that_are_put_aside_are_named(colours, monkeypatch):
    said = []
    monkeypatch.setattr(recipe.console, "say", lambda text="", **_: said.append(text))
    decided = of(
        colours,
        **{"train.precision": "bf16", "execution.layout": "serial", "optim.name": "sgd", "train.time_limit_s": 9.0},
    )
    assert decided.train.precision == "fp32" and decided.optim.name == "sgd"
    assert decided.train.time_limit_s is None  # or each point would have the epochs that fit
    assert (
        said[0]
        == "A study decides itself, in place of the recipe: execution.layout, train.precision, train.time_limit_s"
    )


def of_epoch(data, *, batch: int) -> int:
    from fanlight.data import split
    from fanlight.train import prepare

    config = Config().with_values({"data.path": str(data)})
    manifest = prepare.gather(config).manifest
    divided = split.assign(manifest, val_fraction=config.data.val_fraction, seed=0)
    return len(divided.rows("train")) // batch
