"""Recipes by name and by path, and what a config is put together from."""

import re
from pathlib import Path

import pytest

from fanlight import config, recipes
from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.train import checks

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """Two recipes instead of those that are shipped."""
    (tmp_path / "fast-photos.yaml").write_text("# fanlight train photos --recipe fast-photos\ntrain: {epochs: 4}\n")
    (tmp_path / "slow-photos.yaml").write_text("# fanlight train photos --recipe slow-photos\ntrain: {epochs: 40}\n")
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    return tmp_path


def assemble(data="photos", *, recipe=None, file=None, flags=None, values=()):
    return recipes.assemble(data, recipe=recipe, config=file, flags=flags or {}, values=values)


def test_names(shelf):
    assert recipes.names() == ["fast-photos", "slow-photos"]
    assert recipes.find("fast-photos") == shelf / "fast-photos.yaml"
    assert recipes.find("my/own.yaml").name == "own.yaml"


def test_an_unknown_recipe_names_all_and_the_near(shelf):
    message = "--recipe 'fast-photo' does not exist; there are fast-photos, slow-photos. Near names: fast-photos"
    with pytest.raises(ConfigError, match=re.escape(message)):
        recipes.find("fast-photo")


def test_defaults(shelf):
    assert assemble() == Config().with_value("data.path", "photos")
    assert assemble("") == Config()


def test_a_recipe_by_name(shelf):
    assert assemble(recipe="fast-photos").train.epochs == 4


def test_order(shelf, tmp_path):
    file = tmp_path / "file.yml"
    file.write_text("train: {epochs: 5, batch_size: 5, seed: 5}\ndata: {path: elsewhere}\n")
    made = assemble(
        recipe="slow-photos", file=file, flags={"train.batch_size": 6, "train.seed": 6, "optim.lr": None},
        values=["train.seed=7", "optim.name=adamw"],
    )  # fmt: skip
    assert (made.train.epochs, made.train.batch_size, made.train.seed) == (5, 6, 7)
    assert (made.data.path, made.optim.name, made.optim.lr) == ("photos", "adamw", None)


def test_a_flag_that_is_not_given_changes_nothing(shelf):
    assert assemble(recipe="fast-photos", flags={"train.epochs": None}).train.epochs == 4
    assert assemble(flags={"augment.flip": False}).augment.flip is False  # given, though it is not true


def test_a_flag_names_the_only_source_of_weights(shelf):
    (shelf / "tuned.yaml").write_text("model: {pretrained: true}\n")
    (shelf / "own.yaml").write_text("model: {weights: w.pt}\n")
    model = assemble(recipe="tuned", flags={"model.weights": "v.pt"}).model
    assert (model.pretrained, model.weights) == (False, "v.pt")
    model = assemble(recipe="own", flags={"model.pretrained": True}).model
    assert (model.pretrained, model.weights) == (True, None)
    assert assemble(recipe="own", flags={"model.pretrained": False}).model.weights == "w.pt"
    both = assemble(recipe="tuned", flags={"model.weights": "v.pt", "model.pretrained": True})
    with pytest.raises(ConfigError, match="both name the weights to start from"):
        checks.check(both)


@pytest.mark.parametrize("text", ["optim.momentum", "optim.momentum:0.8"])
def test_a_value_without_a_sign(text):
    with pytest.raises(
        ConfigError, match=rf"--set '{text}' should read section.field=value, such as optim.momentum=0.8"
    ):
        assemble(values=[text])


def test_values_may_hold_spaces_and_signs():
    assert assemble("", values=["data.path = a=b "]).data.path == "a=b"


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_can_be_asked_for(name):
    """Known keys, values that can work, and a first comment with the command."""
    checks.check(config.read(recipes.find(name)))
    first = recipes.find(name).read_text().splitlines()[0]
    assert first.startswith("#") and f"--recipe {name}" in first
    comments = " ".join(line for line in recipes.find(name).read_text().splitlines() if line.startswith("#"))
    assert "Not measured here yet" in comments or "results/" in comments  # where the figures come from
    assert f"`{name}`" in (ROOT / "docs" / "recipes.md").read_text()
