"""Naming the class of images: what is told, of which files, and that it is what evaluation says."""

import csv
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fanlight.errors import DataError, RunError
from fanlight.train import predict
from train import colours as tiny

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


def test_predictions_are_those_of_the_evaluation(finished, colours):
    rows = pq.read_table(finished / "predictions.parquet").to_pylist()
    answers = list(predict.load(finished).predict([colours / row["path"] for row in rows]))
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in rows]
    np.testing.assert_allclose(
        [answer["probability"] for answer in answers], [row["probability"] for row in rows], rtol=1e-5
    )  # other batches, so other sums


def test_an_answer_names_the_classes_in_order(finished, colours):
    (answer,) = predict.load(finished).predict([colours / "red" / "00.png"], top=2)
    assert answer.keys() == {"path", "label", "probability", "top"}
    assert answer["label"] == "red" == answer["top"][0]["label"]
    assert answer["probability"] == answer["top"][0]["probability"] > 1 / 3
    assert len(answer["top"]) == 2
    assert answer["top"][0]["probability"] >= answer["top"][1]["probability"]
    (whole,) = predict.load(finished).predict([colours / "red" / "00.png"], top=99)
    assert sum(item["probability"] for item in whole["top"]) == pytest.approx(1, abs=1e-5)
    assert {item["label"] for item in whole["top"]} == set(tiny.CLASSES)


def test_a_bad_file_does_not_stop_the_others(finished, colours, own_place):
    bad = own_place / "bad.png"
    bad.write_bytes(b"no image")
    good = colours / "blue" / "00.png"
    paths = [good, bad, own_place / "missing.png", *[good] * predict.BATCH]  # more than one batch
    answers = list(predict.load(finished).predict(paths))
    assert [answer["path"] for answer in answers] == [str(path) for path in paths]
    assert set(answers[1]) == set(answers[2]) == {"path", "error"}
    assert answers[2]["error"] == "No such file or directory"
    assert all(answer["label"] == "blue" for answer in [answers[0], *answers[3:]])


def test_files_folders_and_globs_each_once_in_order(own_place):
    for name in ("b/2.png", "b/1.png", "b/deep/3.png", "b/.hidden", "a.png", "c[1].png"):
        path = own_place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert predict.expand(["a.png", "b", "b/1.png"]) == ["a.png", "b/1.png", "b/2.png", "b/deep/3.png"]
    assert predict.expand(["b/*.png"]) == ["b/1.png", "b/2.png"]
    assert predict.expand(["b/**/*.png"]) == ["b/1.png", "b/2.png", "b/deep/3.png"]
    assert predict.expand(["c[1].png"]) == ["c[1].png"]  # a file of that name before a pattern
    with pytest.raises(
        DataError, match=re.escape("d/*.png names no file; give images, folders with images, or a quoted glob")
    ):
        predict.expand(["a.png", "d/*.png"])


def test_the_command_prints_a_table_and_one_object(fanlight, finished, colours, own_place):
    (own_place / "bad.png").write_bytes(b"no image")
    words = ["predict", finished, colours / "green", "bad.png", "--top", 2]
    answer = fanlight(*words)
    assert answer.code == 0 and answer.err == ""
    lines = answer.out.splitlines()
    assert len(lines) == 21
    assert re.fullmatch(r".*green/00.png: green 0\.\d{3}  \((blue|red) 0\.\d\d\)", lines[0])
    assert lines[-1].startswith("bad.png: not read: ")
    answer = fanlight(*words, "--json")
    document = json.loads(answer.out)
    assert list(document) == ["predictions"] and len(document["predictions"]) == 21
    assert document["predictions"][0]["label"] == "green"
    assert set(document["predictions"][-1]) == {"path", "error"}
    assert answer.err.splitlines() == lines  # the table is there, beside the object


def test_the_command_writes_csv_and_json(fanlight, finished, colours, own_place):
    (own_place / "bad.png").write_bytes(b"no image")
    words = ["predict", finished, colours / "red", "bad.png", "--out"]
    assert fanlight(*words, "answers.csv").code == 0
    with open(own_place / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "probability", "error"]
    assert rows[0]["label"] == "red" and 0 < float(rows[0]["probability"]) <= 1 and rows[0]["error"] == ""
    assert rows[-1]["path"] == "bad.png" and rows[-1]["label"] == "" and rows[-1]["error"]
    assert fanlight(*words, "answers.json").code == 0
    answers = json.loads((own_place / "answers.json").read_text())
    assert [answer["path"] for answer in answers] == [row["path"] for row in rows]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--top", 0], 2, "--top is 0; it must be 1 or more"),
        (["--out", "answers.txt"], 2, "--out answers.txt should end in .csv or .json"),
        (["--out", "none/answers.csv"], 2, "cannot write --out none/answers.csv: No such file or directory"),
        (["--device", "cuda"], 2, "execution.device is 'cuda', and torch sees no GPU here; use --device cpu"),
        (["--device", "tpu"], 2, "execution.device is 'tpu'; use cpu or cuda"),
        (["nothing-*.png"], 3, "nothing-*.png names no file; give images, folders with images, or a quoted glob"),
    ],
)
def test_refusals(monkeypatch, fanlight, finished, colours, words, code, message):
    monkeypatch.setattr(predict.torch.cuda, "is_available", lambda: False)
    answer = fanlight("predict", finished, colours / "red" / "00.png", *words)
    assert (answer.code, answer.err) == (code, f"Error: {message}\n")


def test_one_sized_and_grey_images_are_read(finished, own_place):
    Image.new("L", (1, 1), 128).save(own_place / "dot.png")
    Image.new("RGBA", (300, 20), (255, 0, 0, 255)).save(own_place / "wide.png")
    answers = list(predict.load(finished).predict(["dot.png", "wide.png"]))
    assert all("label" in answer for answer in answers)


def test_a_weights_file_alone_is_enough(finished, colours, own_place):
    (own_place / "alone.safetensors").write_bytes(tiny.weights(finished))
    (answer,) = predict.load(own_place / "alone.safetensors").predict([colours / "red" / "00.png"])
    assert answer["label"] == "red"


def test_best_and_last_are_different_files(monkeypatch, finished):
    asked = []
    monkeypatch.setattr(predict.export, "load_weights", lambda path: asked.append(path.name) or 1 / 0)
    for best in (False, True):
        with pytest.raises(ZeroDivisionError):
            predict.load(finished, best=best)
    assert asked == ["last.safetensors", "best.safetensors"]


def test_what_is_no_run_is_refused(own_place):
    with pytest.raises(RunError, match="is not a run folder"):
        predict.load(own_place)
