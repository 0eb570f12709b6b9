"""What a run keeps of its config, given to another run, makes the same choices: `train --config runs/x/config.yaml`, which says
what was left open, and of resolved.yaml, which says what was chosen."""

import pytest

from fanlight import config as configuration
from fanlight import console
from fanlight.config import Config
from fanlight.train import prepare, resolve
from train import colours as tiny
from train import sentences
from train.test_captioning import SAID
from train.test_resolve import choose, decide

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


@pytest.mark.parametrize(
    ("asked", "about"),
    [
        ({}, {}), ({}, {"px": 28}), ({}, {"px": 64, **SAID}), ({}, SAID), ({"optim.name": "sgd"}, {}),
        ({"model.name": "small-grid+lstm32"}, {"px": 64, **SAID}), ({"optim.beta2": 0.9}, {"px": 64, **SAID}),
        ({"model.pretrained": True, "model.freeze_epochs": 1}, {}), ({"augment.off": True, "optim.clip_norm": None}, {}),
        ({"execution.layout": "diloco", "execution.ranks": 2}, {}),
    ],
)  # fmt: skip
def test_the_same_choices(own_place, asked, about):
    path, given = own_place / "kept.yaml", {"train.precision": "fp32", **asked}
    first = choose(asked, **about)
    for config in (Config().with_values(given), first.config):
        configuration.write(path, config)
        assert decide(configuration.read(path), **about).config == first.config


def test_a_run_of_a_runs_config(own_place):
    """AdamW's beta2 follows from the network, and what config.yaml leaves open was not asked for."""
    data = sentences.make(own_place / "data")
    asked = sentences.config(data, model="small-grid+transformer64x2", execution__autotune=False)
    kept = []
    for name in ("config.yaml", "resolved.yaml", "config.yaml"):
        with console.quiet(also_warnings=True):
            run = prepare.prepare(asked, out=own_place / f"run-{len(kept)}", command="test")
        asked = configuration.read(run / name)
        kept.append({key: value for key, value in tiny.resolved(run).items() if key != "reasons"})
    assert kept[0] == kept[1] == kept[2] and kept[0]["optim"]["beta2"] == 0.98


def test_what_is_left_open_is_not_called_unused(own_place, capsys):
    configuration.write(own_place / "config.yaml", Config().with_value("optim.name", "sgd"))
    asked = configuration.read(own_place / "config.yaml")
    resolve.warn_of_unused(asked)
    assert "optim.beta2" in asked.asked and "optim.beta2" not in capsys.readouterr().err
    resolve.warn_of_unused(asked.with_value("optim.beta2", 0.9))
    assert "Warning: optim.beta2 is set and nothing uses it" in capsys.readouterr().err
