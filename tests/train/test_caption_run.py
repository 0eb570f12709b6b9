"""Captions end to end: one command trains, evaluates and predicts; a run can go on; what is wrong is said in a line."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fanlight.data import vocabulary
from fanlight.errors import ConfigError, DataError
from fanlight.train import folder, job, predict
from train import colours as tiny
from train import sentences

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")
SEEN = 40  # epochs after which a small network knows 36 images by heart


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> Path:
    return sentences.make(tmp_path_factory.mktemp("data") / "said")


@pytest.fixture(scope="module")
def written(tmp_path_factory, cache_folder, said) -> Path:
    """A run that learned colours and places, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        return sentences.train(
            said,
            out=tmp_path_factory.mktemp("runs") / "written",
            epochs=SEEN,
            caption__beams=2,
            lr=0.01,
            train__evaluate_every=SEEN // 2,
        )


def test_a_run_says_what_it_learned(written):
    summary = tiny.summary(written)
    assert summary["task"] == "caption" and summary["status"] == "finished"
    assert summary["data"]["captions"] == 72 and summary["data"]["classes"] == []
    scores = summary["metrics"]["val"]
    assert scores["count"] == 7 and scores["accuracy"] > 0.7 and scores["loss"] < 1.5
    assert {"red", "above", "something"} <= set(_words(written))
    reasons = tiny.resolved(written)["reasons"]
    assert "mirror" in reasons["augment.flip"] and "captions" in reasons["caption.per_image"]
    records = tiny.metrics(written, "train")
    assert records[-1]["loss"] < records[0]["loss"] / 2 and records[-1]["accuracy"] > 0.7
    assert {"loss", "accuracy"} <= tiny.metrics(written, "evaluate")[-1].keys()


def test_what_it_writes_is_in_the_table_and_true(written):
    table = pq.read_table(written / "predictions.parquet")
    looks = np.load(written / "attention.npz", allow_pickle=False)
    assert (
        set(looks["sample"]) <= set(table["sample"].to_pylist()) and looks["words"].shape == looks["weight"].shape[:2]
    )
    np.testing.assert_allclose(looks["weight"][looks["words"] != ""].sum((1, 2)), 1, rtol=1e-4)
    assert {"sample", "path", "split", "caption", "references", "log_probability"} <= set(table.column_names)
    rows = table.to_pylist()
    assert len(rows) == 7 and all(np.isfinite(row["log_probability"]) for row in rows)
    right = [all(word in row["caption"].split() for word in _facts(row["references"][0])) for row in rows]
    assert sum(right) >= 6, [(row["caption"], row["references"]) for row in rows]


def _words(run: Path) -> list[str]:
    """Those that a run knows."""
    return json.loads((run / "vocabulary.json").read_text("utf-8"))["words"]


def _facts(text: str) -> list[str]:
    return [word for word in text.split() if word in (*sentences.COLOURS, *sentences.PLACES)]


def test_evaluate_finds_the_same_on_one_rank_and_on_two(written, fanlight, quick_ranks):
    one, two = (json.loads(fanlight("evaluate", written, "--json", "--ranks", ranks).out) for ranks in (1, 2))
    assert one == two
    assert {"count", "bleu1", "bleu4", "rouge_l", "cider", "cider_d"} <= one.keys() and one["count"] == 7
    kept = tiny.summary(written)["metrics"]["val"]
    numbers = {name: value for name, value in kept.items() if isinstance(value, float)}
    assert {name: one[name] for name in numbers} == pytest.approx(numbers, rel=1e-5)
    spoken = fanlight("evaluate", written, "--beams", "1", "--split", "train")
    assert spoken.code == 0 and "train: " in spoken.out and "CIDEr" in spoken.out


def test_evaluate_takes_other_captions_and_no_classes(written, fanlight, said, colours, own_place):
    other = sentences.make(own_place / "other", images=6, seed=3)
    scores = json.loads(fanlight("evaluate", written, "--data", other, "--json").out)
    assert scores["split"] == "test" and scores["count"] == 6
    assert not any("vocabulary" in note for note in scores["notes"])
    refused = fanlight("evaluate", written, "--data", colours)
    assert refused.code == 3 and "has classes, and the run learned captions; give data of that kind" in refused.err


def test_evaluate_on_captions_in_other_words_says_how_many_it_lacks(written, fanlight, own_place):
    other = sentences.make(own_place / "other", images=6, most=1)
    (other / "captions.txt").write_text((other / "captions.txt").read_text().replace("lies", "liegt"))
    answer = fanlight("evaluate", written, "--data", other)
    told = "6 of the 18 words of these captions (33.3%) are not in the run's vocabulary, most often 'liegt'"
    assert answer.code == 0 and told in answer.out, answer.err


def test_images_without_captions_are_described_and_not_scored(written, fanlight, own_place):
    alone = sentences.make(own_place / "alone", images=3)
    (alone / "captions.txt").unlink()
    answer = fanlight("predict", written, alone, "--json")
    assert answer.code == 0 and len(json.loads(answer.out)["predictions"]) == 3
    refused = fanlight("evaluate", written, "--data", alone)
    assert refused.code == 3 and "this run writes captions, and is scored by images that have some" in refused.err
    (own_place / "nothing").mkdir()
    for command in (("predict", written, "nothing"), ("evaluate", written, "--data", "nothing"), ("train", "nothing")):
        answer = fanlight(*command)
        assert answer.code == 3 and "nothing" in answer.err and "Traceback" not in answer.err


def test_one_word_said_ten_thousand_times_is_a_data_set(fanlight, own_place):
    data = sentences.make(own_place / "data", images=18, most=1)
    names = [line.partition(",")[0] for line in (data / "captions.txt").read_text().splitlines()[1:]]
    rows = [("image", "caption"), (names[0], " ".join(["Dog"] * 10_000)), *((name, "Dog!") for name in names[1:])]
    with open(data / "captions.txt", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    words = {**sentences.OPTIONS, "epochs": 1, "batch_size": 4, "report": True}
    answer = fanlight("train", data, *tiny.flags(words), "--out", "run", "--json")
    assert answer.code == 0, answer.err
    assert tiny.resolved(own_place / "run")["caption"]["longest"] <= 40
    assert _words(own_place / "run") == [*vocabulary.SPECIAL, "dog"]
    assert (own_place / "run" / "report.html").stat().st_size > 0


def test_predict_writes_a_sentence_for_each_file(written, fanlight, said, own_place):
    (own_place / "no.png").write_text("no image")
    answer = fanlight("predict", written, said / "images", own_place / "no.png", "--json", "--out", "said.csv")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["predictions"]
    assert len(found) == 37 and set(found[0]) == {"path", "caption", "score"} and set(found[-1]) == {"path", "error"}
    assert all(0 < each["score"] <= 1 for each in found[:-1])
    in_run = {row["path"]: row["caption"] for row in pq.read_table(written / "predictions.parquet").to_pylist()}
    here = {f"images/{Path(each['path']).name}": each.get("caption") for each in found}
    assert {path: here[path] for path in in_run} == in_run
    with open("said.csv", newline="") as file:
        assert next(csv.reader(file)) == ["path", "caption", "score", "error"]
    assert "geometric mean" in fanlight("predict", written, said / "images" / "000.png").out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("predict", "--top", "5"), "--top is for classes, and this run writes captions; leave it out"),
        (("predict", "--tta", "2"), "--tta is for classes"),
        (("predict", "--beams", "0"), "--beams is 0; it must be from 1 to 100"),
        (("predict", "--beams", "1000"), "--beams is 1000; it must be from 1 to 100"),
        (("evaluate", "--beams", "0"), "--beams is 0; it must be from 1 to 100"),
        (("evaluate", "--beams", "1000"), "--beams is 1000; it must be from 1 to 100"),
        (("evaluate", "--tta", "2"), "--tta 2 is for classes, and"),
        (("evaluate", "--unknown-below", "0.5"), "--unknown-below 0.5 is for classes, and"),
    ],
)
def test_options_of_classes_are_refused(written, fanlight, said, words, why):
    command, *options = words
    files = [said / "images"] if command == "predict" else []
    answer = fanlight(command, written, *files, *options)
    assert answer.code == 2 and why in answer.err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--mixup", "0.2"), "augment.mixup is 0.2, and"),
        (("--class-weights", "balanced"), "optim.class_weights is balanced, and"),
        (("--sampling", "balanced"), "data.sampling is balanced, and"),
        (("--model", "small-cnn"), "model.name is small-cnn, which names classes, and the data has captions; use"),
        (("--model", "small-cnn+rnn"), "there is no decoder 'rnn'"),
        (("--beams", "0"), "caption.beams is 0; it must be from 1 to 100"),
        (("--beams", "1000"), "caption.beams is 1000; it must be from 1 to 100"),
        (("--max-words", "0"), "--max-words"),
        (("--set", "caption.max_words=0"), "max_words"),
        (("--set", "caption.per_image=0"), "caption.per_image is 0; it must be from 1 to 1000"),
        (("--min-count", "0"), "caption.min_count is 0; it must be from 1 to"),
        (("--set", "caption.longest=0"), "caption.longest is 0; it must be from 1 to 1000"),
        (("--min-count", "1000"), "caption.min_count is 1000: no word of the training captions occurs that often"),
        (("--min-count", "few"), "min-count"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_begins(fanlight, said, own_place, options, why):
    answer = fanlight("train", said, *tiny.flags(sentences.OPTIONS), *options, "--out", "run")
    assert answer.code == 2 and why in answer.err and not (own_place / "run").exists()


def test_images_without_captions_are_left_out_and_it_is_said(fanlight, own_place):
    data = sentences.make(own_place / "data", images=18)
    rows = [*csv.reader((data / "captions.txt").read_text().splitlines())]
    with open(data / "captions.txt", "w", newline="") as file:
        csv.writer(file).writerows([row if row[0] != "004.png" else [row[0], " "] for row in rows])
    answer = fanlight("train", data, *tiny.flags(sentences.OPTIONS), "--out", "run", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["metrics"]["val"]["count"] >= 3
    assert sum(tiny.summary(own_place / "run")["data"]["splits"].values()) == 17


def test_a_run_goes_on_where_it_stopped(said, own_place, monkeypatch):
    whole = sentences.train(said, out=own_place / "whole", epochs=3)

    def fail():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        tiny.before_update(patch, 6, fail)
        with pytest.raises(job.Stopped):
            sentences.train(said, out=own_place / "half", epochs=3, execution__checkpoint_steps=1)
    tiny.train(said, resume=own_place / "half")
    assert tiny.weights(own_place / "half") == tiny.weights(whole)
    tables = [pq.read_table(run / "predictions.parquet") for run in (whole, own_place / "half")]
    assert tables[0].equals(tables[1])


def test_a_time_limit_knows_that_sentences_are_written(fanlight, said, own_place):
    words = [*tiny.flags({**sentences.OPTIONS, "epochs": 1}), "--time-limit", "10h", "--out", "run", "--dry-run"]
    answer = fanlight("train", said, *words)
    assert answer.code == 0, answer.err
    found = tiny.summary(own_place / "run")["time_limit"]
    assert found["final_s"] > found["writing_s"] > 0


def test_a_few_images_are_learned_word_for_word_and_by_their_look(own_place):
    data = sentences.make(own_place / "few", images=18, most=1)
    run = sentences.train(data, out=own_place / "run", epochs=60, lr=0.01, batch_size=7, optim__label_smoothing=0.0,
                          train__evaluate_every=60)  # fmt: skip
    said = dict([*csv.reader((data / "captions.txt").read_text().splitlines())][1:])
    train = folder.read_manifest(run)
    seen = [Path(train.column("path")[row]).name for row in train.rows("train")]
    found = [each["caption"] for each in predict.load(run).predict([data / "images" / name for name in seen])]
    right = [text == said[name] for text, name in zip(found, seen)]
    assert np.mean(right) >= 0.95
    other = [text == said[name] for text, name in zip(found, seen[1:] + seen[:1])]
    assert np.mean(other) < 0.5  # six sentences in all: chance is a sixth


def test_a_frozen_encoder_is_asked_once_about_each_image(said, written, own_place):
    given = {"weights": str(written / "weights" / "last.safetensors"), "freeze": True, "no_augment": True, "epochs": 4}
    cached = sentences.train(said, out=own_place / "cached", **given)
    plain = sentences.train(said, out=own_place / "plain", **given, cache_features=False)
    assert tiny.resolved(cached)["execution"]["cache_features"] is True
    losses = [[row["loss"] for row in tiny.metrics(run, "train")] for run in (cached, plain)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    kept = [predict.export.load_weights(run / "weights" / "last.safetensors")[1] for run in (written, cached)]
    assert all((kept[0][name] == kept[1][name]).all() for name in kept[0] if name.startswith("encoder."))
    assert (kept[0]["decoder.embed.weight"] != kept[1]["decoder.embed.weight"]).any()


def test_an_encoder_thaws_when_its_time_comes(said, written, own_place):
    given = {"weights": str(written / "weights" / "last.safetensors"), "freeze_epochs": 1, "epochs": 2}
    run = sentences.train(said, out=own_place / "run", **given, no_augment=True)
    before, after = (predict.export.load_weights(each / "weights" / "last.safetensors")[1] for each in (written, run))
    assert any((before[name] != after[name]).any() for name in before if name.startswith("encoder."))


def test_classes_and_captions_are_not_confused(fanlight, colours, own_place):
    answer = fanlight("train", colours, *tiny.flags(tiny.OPTIONS), "--model", "small-cnn+lstm", "--out", "run")
    assert answer.code == 2 and "small-cnn+lstm, which writes captions, and the data has classes" in answer.err
    with pytest.raises(DataError, match="only one class, red"):
        sentences.train(tiny.make(own_place / "one", classes=("red",)), model="small-cnn")
    with pytest.raises(ConfigError, match="--beams"):
        predict.tasks.restored({"task": "classify", "classes": ["a"]}, beams=2)


def test_captions_of_markup_are_shown_and_not_obeyed(fanlight, own_place):
    data = sentences.make(own_place / "data", images=18, most=1)
    hostile = (
        '<script>alert(1)</script> <pad> <start> {{ 7 * 7 }} [/bold] & "><img src=x onerror=alert(2)> 🐕 собака 犬'
    )
    names = [line.partition(",")[0] for line in (data / "captions.txt").read_text().splitlines()[1:]]
    with open(data / "captions.txt", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *((name, hostile) for name in names)])
    words = {**sentences.OPTIONS, "epochs": 1, "report": True}
    answer = fanlight("train", data, *tiny.flags(words), "--out", "run", "--json")
    assert answer.code == 0, answer.err
    page = (own_place / "run" / "report.html").read_text("utf-8")
    assert "<script>alert" not in page and "<img src=x" not in page and "&lt;script&gt;alert(1)" in page
    assert "{{ 7 * 7 }}" in page and "собака" in page
    known = _words(own_place / "run")
    assert {"script", "pad", "start", "🐕", "собака", "犬"} <= set(known) and known.count("<pad>") == 1


def test_half_of_a_letter_stops_a_run_before_it_begins(fanlight, own_place):
    data = sentences.make(own_place / "data", images=18, most=1)
    names = [line.partition(",")[0] for line in (data / "captions.txt").read_text().splitlines()[1:]]
    rows = [("path", "caption"), *((f"images/{name}", json.dumps(["a \ud83d dog", "a dog"])) for name in names)]
    with open(data / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    for words in (
        ("train", data / "list.csv", *tiny.flags(sentences.OPTIONS), "--out", "run"),
        ("check", data / "list.csv"),
    ):
        answer = fanlight(*words)
        assert answer.code == 3 and "holds half of a letter and cannot be kept; write it anew" in answer.err
    assert not (own_place / "run").exists()


def test_a_run_goes_on_with_the_captions_that_it_began_with(own_place, fanlight, monkeypatch):
    """The manifest of a run holds them: what is written into the file afterwards is of other runs."""
    data = sentences.make(own_place / "data", images=18)

    def fail():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        tiny.before_update(patch, 3, fail)
        with pytest.raises(job.Stopped):
            sentences.train(data, out=own_place / "half", epochs=2, batch_size=4, execution__checkpoint_steps=1)
    began = folder.read_manifest(own_place / "half").column("captions").tolist()
    (data / "captions.txt").write_text("image,caption\n000.png,something else\n")
    answer = fanlight("train", "--resume", own_place / "half")
    assert answer.code == 0, answer.err
    assert folder.read_manifest(own_place / "half").column("captions").tolist() == began


@pytest.mark.parametrize("images", [2, 10])
def test_a_few_images_are_trained_on_by_the_defaults(fanlight, own_place, images):
    data = sentences.make(own_place / "few", images=images)
    answer = fanlight("train", data, "--epochs", "1", "--image-size", "32", "--no-report", "--out", own_place / "run")
    assert answer.code == 0 and "small-grid+transformer64x2" in answer.out, answer.err


def test_one_image_is_no_class_that_could_be_removed(fanlight, own_place):
    answer = fanlight(
        "train", sentences.make(own_place / "data", images=1), *tiny.flags(sentences.OPTIONS), "--out", "run"
    )
    assert (
        answer.code == 3 and "a single image with captions is there to train on, none is left to validate" in answer.err
    )
