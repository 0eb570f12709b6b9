"""Naming the class of images: what is told, of which files, and that it is what evaluation says."""

import csv
import json
import os
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file

import fanlight as package
from fanlight.errors import ConfigError, DataError, RunError
from fanlight.tasks import calibration
from fanlight.train import export, predict
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


def with_weights(run, place, **about):
    """The last weights of a run, with other words in their description."""
    described, tensors = export.load_weights(run / "weights" / "last.safetensors")
    save_file(tensors, place, metadata={"fanlight": json.dumps({**described, **about})})
    return place


def test_probabilities_are_calibrated_and_labels_stay(fanlight, finished, colours, own_place):
    hot = with_weights(finished, own_place / "hot.safetensors", temperature=2.5)
    rows = pq.read_table(finished / "predictions.parquet")
    logits_NK = np.stack(rows["logits"].to_pylist())
    answers = list(predict.load(hot).predict([colours / path for path in rows["path"].to_pylist()]))
    expected = calibration.probabilities(logits_NK, 2.5).max(1)
    np.testing.assert_allclose([answer["probability"] for answer in answers], expected, rtol=1e-5)
    assert [answer["label"] for answer in answers] == rows["predicted"].to_pylist()
    told = fanlight("predict", hot, colours / "red").out.splitlines()
    assert told[-1] == "Probabilities are calibrated: temperature 2.50, fitted on validation images"


def test_views_are_those_of_the_evaluation(fanlight, finished, colours):
    """A file is seen by both in the same squares."""
    predictor = predict.load(finished)
    file = colours / "red" / "00.png"
    squares = predictor.eye.squares(file.read_bytes(), views=4)
    assert squares.shape == (4, 16, 16, 3)
    assert np.array_equal(squares[0], predictor.eye.squares(file.read_bytes())[0])
    assert np.array_equal(squares[1], squares[0][:, ::-1])
    each = [predictor.logits(square[None, None]) for square in squares]
    np.testing.assert_allclose(predictor.logits(squares[None]), np.mean(each, 0), rtol=1e-5)
    (one,), (four,) = (list(predictor.predict([file], tta=views)) for views in (1, 4))
    assert one["label"] == four["label"] == "red" and one["probability"] != four["probability"]
    answer = fanlight("predict", finished, file, "--tta", 4)
    seen = "4 views per image, log-probabilities averaged: centre, centre mirrored, top left, top left mirrored"
    assert answer.out.splitlines()[1] == seen


def test_what_is_not_sure_enough_is_unknown(fanlight, finished, colours, own_place):
    plain = list(predict.load(finished).predict(sorted((colours / "red").iterdir())))
    below = float(np.median([answer["probability"] for answer in plain]))
    (own_place / "bad.png").write_bytes(b"no image")
    words = ["predict", finished, colours / "red", "bad.png", "--unknown-below", below]
    answer = fanlight(*words, "--json")
    found = json.loads(answer.out)["predictions"]
    for before, after in zip(plain, found):
        unsure = before["probability"] < below
        assert after == {**before, "label": "unknown" if unsure else before["label"], "unknown": unsure}
        assert after["top"][0]["label"] == before["label"]
    assert set(found[-1]) == {"path", "error"}
    count = sum(each.get("unknown", False) for each in found)
    assert 0 < count < 20
    assert answer.err.splitlines()[-1] == f"{count} of 20 images are unknown: their best guess is below {below:g}"
    fanlight(*words, "--out", "answers.csv")
    with open(own_place / "answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "probability", "guess", "unknown", "error"]
    for row, each in zip(rows[:-1], found):
        assert (row["label"], row["guess"]) == (each["label"], each["top"][0]["label"])
        assert row["unknown"] == ("true" if each["unknown"] else "false")
    assert (rows[-1]["guess"], rows[-1]["unknown"]) == ("", "")


def test_a_class_of_the_name_unknown_is_told_apart(fanlight, finished, colours, own_place):
    run = with_weights(finished, own_place / "w.safetensors", classes=["blue", "green", "unknown"])
    plain = list(predict.load(run).predict([colours / "red" / "00.png"]))
    assert plain[0]["label"] == "unknown" and "unknown" not in plain[0]
    answer = fanlight("predict", run, colours / "red" / "00.png", "--unknown-below", 0.01, "--json")
    (found,) = json.loads(answer.out)["predictions"]
    assert (found["label"], found["unknown"]) == ("unknown", False)
    assert answer.err.splitlines()[-1] == (
        "0 of 1 images are unknown: their best guess is below 0.01; a class is called unknown too, and has `unknown` false"
    )


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


def test_nothing_that_can_be_read_is_an_error(fanlight, finished, own_place):
    (own_place / "bad.png").write_bytes(b"no image")
    (own_place / "worse.png").write_bytes(b"neither")
    answer = fanlight("predict", finished, "bad.png", "worse.png", "--json")
    assert answer.code == 3 and "none of the 2 files could be read" in answer.err
    assert [set(each) for each in json.loads(answer.out)["predictions"]] == [{"path", "error"}] * 2


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


def test_a_single_path_is_no_list_of_letters(finished, colours):
    path = str(colours / "blue" / "00.png")
    for one in (path, colours / "blue" / "00.png"):
        assert [answer["path"] for answer in package.predict(finished, one)] == [path]
        assert [answer["path"] for answer in package.load(finished).predict(one)] == [path]
    assert predict.expand(colours / "blue") == sorted(map(str, (colours / "blue").iterdir()))


@pytest.mark.parametrize("pattern", ["", "a\0b", "x" * 5000, "["], ids=["empty", "zero", "long", "glob"])
def test_patterns_that_name_nothing(own_place, pattern):
    (own_place / "a.png").touch()
    with pytest.raises(DataError, match="names no file"):
        predict.expand([pattern])


def test_top_is_checked_in_python_too(finished, colours):
    with pytest.raises(ConfigError, match="top is 0; it must be 1 or more"):
        predict.load(finished).predict([colours / "blue" / "00.png"], top=0)


def test_odd_names_and_odd_files(fanlight, finished, colours, own_place):
    folder = own_place / "mixed"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((colours / "blue" / "00.png").read_bytes())
    (folder / "self").symlink_to("self")
    os.mkfifo(folder / "pipe")
    answer = fanlight("predict", finished, folder, folder / "pipe", "--out", "o.csv")
    assert answer.code == 0, answer.err
    assert "pipe: not read: not a regular file" in answer.out
    lines = (own_place / "o.csv").read_bytes().splitlines()
    assert [line.split(b",")[0].rpartition(b"/")[2] for line in lines] == [b"path", b"caf\xe9.png", b"pipe"]


def test_an_output_that_is_not_finite_is_an_error_and_no_class(fanlight, finished, colours, own_place):
    path = finished / "weights" / "last.safetensors"
    about, tensors = export.load_weights(path)
    broken = {name: value * float("nan") if value.is_floating_point() else value for name, value in tensors.items()}
    save_file(broken, own_place / "nan.safetensors", metadata={"fanlight": json.dumps(about)})
    answer = fanlight("predict", "nan.safetensors", colours / "blue" / "00.png", "--json")
    assert answer.code == 3
    assert json.loads(answer.out)["predictions"][0]["error"].startswith("the network's output is not finite")


@pytest.mark.parametrize(
    "change", [{"classes": ["a"]}, {"classes": 3}, {"mean": None}, {"canvas_px": "x"}, {"model": "no"}]
)
def test_weights_that_do_not_fit_what_is_said_of_them(finished, own_place, change):
    about, tensors = export.load_weights(finished / "weights" / "last.safetensors")
    save_file(tensors, own_place / "w.safetensors", metadata={"fanlight": json.dumps({**about, **change})})
    with pytest.raises(
        RunError, match=r"w\.safetensors: its weights and what it says of them do not fit \(.*\); train again"
    ):
        predict.load(own_place / "w.safetensors")


def test_the_command_prints_a_table_and_one_object(fanlight, finished, colours, own_place):
    (own_place / "bad.png").write_bytes(b"no image")
    words = ["predict", finished, colours / "green", "bad.png", "--top", 2]
    answer = fanlight(*words)
    assert answer.code == 0 and answer.err == ""
    lines = answer.out.splitlines()
    assert len(lines) == 22
    assert lines.pop() == "Probabilities are as the network gives them: no temperature was fitted"
    assert re.fullmatch(r".*green/00.png: green 0\.\d{3}  \((blue|red) 0\.\d\d\)", lines[0])
    assert lines[-1].startswith("bad.png: not read: ")
    answer = fanlight(*words, "--json")
    document = json.loads(answer.out)
    assert list(document) == ["predictions"] and len(document["predictions"]) == 21
    assert document["predictions"][0]["label"] == "green"
    assert set(document["predictions"][-1]) == {"path", "error"}
    assert answer.err.splitlines()[:-1] == lines  # the table is there, beside the object


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
        (
            ["--out", "none/answers.csv"],
            2,
            "--out none/answers.csv cannot be written: No such file or directory; use another path",
        ),
        (["--tta", 0], 2, "--tta 0: an image has 1 to 10 views; use --tta 1"),
        (["--unknown-below", 1], 2, "--unknown-below 1.0 should be a probability above 0 and below 1, such as 0.8"),
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
