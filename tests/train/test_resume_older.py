"""Unfinished runs that began before there was a key: what every run did then is what they go on with."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from fanlight.errors import RunError
from fanlight.train import folder, job, state
from train import colours as tiny
from train import sentences
from train.stopping import stopped_run

pytest_plugins = ["train.fixtures", "train.undisturbed"]
pytestmark = pytest.mark.usefixtures("own_place")


def made_older(run: Path, **changed: object) -> Path:
    """The run as it was written before there was caption.window; `changed` are keys of `train` in its checkpoints' hash."""
    document = tiny.resolved(run)
    del document["caption"]["window"]
    (run / "resolved.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    mathematics = {name: part for name, part in document.items() if name not in ("execution", "reasons")}
    mathematics["data"] = {name: value for name, value in mathematics["data"].items() if name != "path"}
    mathematics["train"] |= changed
    hashed = hashlib.sha256(json.dumps(mathematics, sort_keys=True).encode()).hexdigest()[:16]
    for checkpoint in state.whole(run / "checkpoints"):
        kept = json.loads((checkpoint / "state.json").read_text())
        assert kept["config"] != hashed
        (checkpoint / "state.json").write_text(json.dumps(kept | {"config": hashed}))
    return run


@pytest.fixture
def older(own_place, monkeypatch) -> Path:
    """A captioner's run that was stopped in its second epoch of three."""

    def fail():
        raise KeyboardInterrupt

    data = sentences.make(own_place / "data")
    with monkeypatch.context() as patch:
        tiny.before_update(patch, 6, fail)
        with pytest.raises(job.Stopped):
            sentences.train(
                data, out=own_place / "run", epochs=3, caption__window=32, execution__checkpoint_steps=1
            )  # fmt: skip
    return made_older(own_place / "run")


def test_captions_go_on_in_batches_of_like_length(own_place, older):
    assert folder.read_config(older).caption.window == 32
    tiny.train(own_place / "data", resume=older)
    sorted_run, other = (
        sentences.train(own_place / "data", out=own_place / f"of-{window}", epochs=3, caption__window=window)
        for window in (32, 1)
    )
    assert tiny.weights(older) == tiny.weights(sorted_run) != tiny.weights(other)


def test_another_order_would_be_another_run(own_place, older):
    document = tiny.resolved(older)
    document["caption"]["window"] = 1
    (older / "resolved.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(
        RunError, match=r"or a version of Fanlight with other keys saved it: .* use the Fanlight named in env"
    ):
        tiny.train(own_place / "data", resume=older)


def test_classes_go_on_too(colours, undisturbed, own_place):
    run = made_older(stopped_run(colours, own_place / "run"))
    assert folder.read_config(run).caption.window is None
    tiny.train(colours, resume=run)
    assert tiny.weights(run) == tiny.weights(undisturbed)


def test_more_microbatches_than_a_checkpoint_had(colours, own_place):
    run = stopped_run(colours, own_place / "run", microbatches=4)
    config = folder.read_config(run)
    kept = json.loads((state.whole(made_older(run, microbatches=1) / "checkpoints")[-1] / "state.json").read_text())
    folder.check_same(run, config, kept=kept["config"], checkpoint="step-1")
    with pytest.raises(RunError, match=r"resolved\.yaml was changed after step-1 was saved, or a version"):
        folder.check_same(run, config.with_value("train.microbatches", 3), kept=kept["config"], checkpoint="step-1")
