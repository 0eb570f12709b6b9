"""torch.compile of the training forward: what it says, what it leaves alone, and how it fails. The compiler itself is
left to one test; elsewhere torch's `eager` backend traces and compiles nothing."""

import shutil

import pytest
from safetensors.torch import load_file

from fanlight.parallel import compiled
from fanlight.train.compiling import Verdict
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


@pytest.mark.parametrize(
    ("compile_s", "eager", "after", "words", "pays"),
    [
        (10.0, 0.2, 0.1, "(2.00×, n = 5): it pays back after step 100 of 500", True),
        (100.0, 0.2, 0.1, "it does not pay back here, it would after step 1000 of 500", False),
        (10.0, 0.1, 0.1, "it does not pay back here, compiled steps are no faster; leave --compile out", False),
    ],
)
def test_a_verdict_says_whether_it_pays(compile_s, eager, after, words, pays):
    verdict = Verdict(compile_s, eager, after, n=5, steps=500)
    assert words in verdict.words() and verdict.pays is pays
    assert verdict.document()["pays"] is pays


def test_a_compiled_run_says_what_it_brought(monkeypatch, colours, own_place, capsys):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    plain = tiny.train(colours, out=own_place / "plain")
    run = tiny.train(colours, out=own_place / "run", compile=True)
    about = tiny.summary(run)["compile"]
    assert about.keys() == {
        "compile_s", "eager_step_s", "compiled_step_s", "n", "steps", "gain", "pays_back_after_step", "pays",
        "steady_step_s",
    }  # fmt: skip
    assert about["steps"] == 12 and about["steady_step_s"] > 0
    assert any("compiling took" in note for note in tiny.summary(run)["notes"])
    assert tiny.weights(run) == tiny.weights(plain)  # traced and not compiled, it is the same arithmetic
    assert (
        load_file(run / "weights" / "last.safetensors").keys()
        == load_file(plain / "weights" / "last.safetensors").keys()
    )
    assert "compile" not in tiny.summary(plain)
    assert capsys.readouterr().err == ""


def test_a_compiler_that_fails_is_named_once_and_training_goes_on(monkeypatch, colours, own_place, capsys):
    def broken(*_):
        raise OSError("no g++ here\nmore")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    plain = tiny.train(colours, out=own_place / "plain")
    run = tiny.train(colours, out=own_place / "run", compile=True)
    said = capsys.readouterr().err
    assert said.count("Warning") == 1 and "training without torch.compile" in said and "no g++ here" in said
    assert "more" not in said
    assert tiny.weights(run) == tiny.weights(plain)
    assert "compile" not in tiny.summary(run) and tiny.summary(run)["status"] == "finished"


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: nothing can be compiled for a CPU")
def test_a_small_network_is_compiled(colours, own_place):
    run = tiny.train(colours, out=own_place / "run", compile=True, epochs=1)
    about = tiny.summary(run)["compile"]
    assert about["compile_s"] > 0 and about["n"] > 0
    assert tiny.summary(run)["metrics"]["val"]["count"] == 12
