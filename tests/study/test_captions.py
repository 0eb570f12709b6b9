"""The report's part about captions: what it shows of a made-up run, what it escapes, what it does without."""

import json
import re

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fanlight.study import captions, report
from fanlight.tasks import caption_scores

COUNT = 40
WORDS = np.array([["a"]])
HOSTILE = "<script>alert(1)</script>"
COLOURS, THINGS = (
    ("red", "blue", "green", "black", "white"),
    ("dog", "cat", "bus", "kite", "horse", "train", "boat", "cow"),
)


def make_run(folder, *, attention=True, true=None, said=None, references=None):
    """A run that has written captions; the caption of image 3 is wrong, image 5 is no file, image 7 has a hostile one."""
    run, photos = folder / "run", folder / "photos"
    run.mkdir(parents=True)
    photos.mkdir()
    right = [f"a {COLOURS[at % 5]} {THINGS[at // 5]} on the grass" for at in range(COUNT)]
    said = said or ["seven pink spoons" if at == 3 else text for at, text in enumerate(right)]
    if said[7] == right[7]:
        said[7] = f"{said[7]} {HOSTILE}"
    paths = [f"{at}.jpg" for at in range(COUNT)]
    for path in paths:
        if path != "5.jpg":
            cv2.imwrite(str(photos / path), np.full((60, 90, 3), 200, np.uint8))
    table = {
        "sample": np.arange(COUNT) + 100, "path": paths, "split": ["val"] * COUNT, "caption": said,
        "references": references or [[text, text.replace("on the grass", "in a field")] for text in right],
        "log_probability": np.full(COUNT, -3.5, np.float32),
    }  # fmt: skip
    if true is not None:
        table["true_and_complete"] = true
    pq.write_table(pa.table(table), run / "predictions.parquet")
    root = json.dumps({"root": str(photos)}).encode()
    manifest = pa.table({"path": paths, "label": [""] * COUNT, "split": ["val"] * COUNT, "status": ["ok"] * COUNT})
    pq.write_table(manifest.replace_schema_metadata({b"fanlight": root}), run / "manifest.parquet")
    (run / "run.json").write_text(json.dumps({"run": "run", "status": "finished", "task": "caption", "metrics": {}}))
    if attention:
        weight = np.random.default_rng(0).dirichlet(np.ones(16), size=(6, 4)).reshape(6, 4, 4, 4)
        words = np.array([["a", "dog", HOSTILE, ""]] * 6)
        np.savez(run / "attention.npz", sample=np.arange(100, 106), words=words, weight=weight, share=0.875)
    return run


def section(run):
    import fanlight.study.runs as runs

    folder = runs.read(run)
    found = captions.section(
        folder.predictions, folder=run, root=run.parent / "photos", missing=folder.missing
    )  # fmt: skip
    return found, folder.missing


def test_the_page_shows_captions_scores_and_the_blind_test(tmp_path):
    run = make_run(tmp_path)
    page = report.write(run).read_text()
    assert "seven pink spoons" in page and "Where each word looked" in page and "val, blind" in page
    found, _ = section(run)
    assert f"{found['scores']['val']['cider']:.3f}" in page
    assert f"{found['scores']['val']['blind']['gaps']['cider']['gap']:.3f}" in page
    assert "The network describes what it sees." in page and "No predictions were kept" not in page


def test_captions_are_scored_once(tmp_path, monkeypatch):
    calls, inner = [], caption_scores.judged
    monkeypatch.setattr(caption_scores, "judged", lambda *given: (calls.append(given), inner(*given))[1])
    found, _ = section(make_run(tmp_path))
    assert len(calls) == 1 and all("per_image" not in scores for scores in found["scores"].values())
    table = pq.read_table(tmp_path / "run" / "predictions.parquet")
    alone = caption_scores.score(table["caption"].to_pylist(), table["references"].to_pylist())["per_image"]["cider"]
    best = [row["score"] for row in found["best"]]
    np.testing.assert_allclose(best, np.sort(alone)[::-1][: len(best)], rtol=1e-12)


def test_letters_of_a_script_without_spaces_are_words(tmp_path):
    said = ["一只狗在草地上"] * COUNT  # seven, and the end
    found, _ = section(make_run(tmp_path, said=said, references=[["一只狗"]] * COUNT))
    assert found["best"][0]["probability"] == pytest.approx(np.exp(-3.5 / 8))


def test_what_a_caption_says_is_escaped(tmp_path):
    page = report.write(make_run(tmp_path)).read_text()
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert not re.search(r"<script|src=\"(?!data:)", page)


def test_best_and_worst_are_by_the_images_own_cider(tmp_path):
    found, _ = section(make_run(tmp_path))
    assert found["worst"][0]["sample"] == 103 and found["best"][0]["score"] >= found["best"][-1]["score"] > 5
    assert not {row["sample"] for row in found["best"]} & {row["sample"] for row in found["worst"]}
    assert found["best"][0]["probability"] == pytest.approx(np.exp(-0.5))  # 6 words and the end
    assert found["scores"]["val"]["cider"] == caption_scores.of_table(pa.table(pq.read_table(
        tmp_path / "run" / "predictions.parquet")), split="val")["cider"]  # fmt: skip


def test_attention_has_a_tile_per_word_and_says_what_file_is_gone(tmp_path):
    found, missing = section(make_run(tmp_path))
    assert "attention.npz" not in missing
    assert len(found["looked"]) == captions.LOOKED and [tile["word"] for tile in found["looked"][0]["tiles"]][:2] == [
        "a",
        "dog",
    ]
    gone = [row for row in found["looked"] if row["path"] == "5.jpg"]
    assert all(row["problem"] == "file not found" and row["tiles"][0]["picture"] is None for row in gone)
    assert found["looked"][-1]["path"] == "3.jpg"  # the worst of those in the file is the last


def test_light_falls_where_the_weight_is():
    square = np.full((96, 96, 3), 200, np.uint8)
    weight = np.zeros((4, 4))
    weight[0, 3] = 1
    light = captions.lit(square, weight)
    assert light[5, 90, 0] == 200 and light[90, 5, 0] == 50
    assert (captions.lit(square, np.full((4, 4), 0.25)) == square).all()
    assert np.isfinite(captions.lit(square, np.full((2, 2), np.nan))).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip", "pickle"),
        ({"sample": np.arange(2), "words": WORDS, "weight": np.ones((1, 1, 2, 2))}, "do not belong together"),
        ({"sample": np.arange(1), "words": WORDS, "weight": np.ones((1, 1, 2, 2)), "share": 3.0}, "share 3"),
        ({"sample": np.arange(1), "words": WORDS}, "weight"),
        (
            {"sample": np.arange(1), "words": WORDS.astype(object), "weight": np.ones((1, 1, 2, 2))},
            "allow_pickle=False",
        ),
    ],
)
def test_a_broken_attention_file_is_named_and_costs_nothing_else(tmp_path, content, message):
    run = make_run(tmp_path, attention=False)
    path = run / "attention.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    found, missing = section(run)
    assert message in missing["attention.npz"] and found["looked"] == [] and found["best"]
    assert "attention.npz" in report.write(run).read_text()


def test_without_attention_nothing_is_said_of_it(tmp_path):
    run = make_run(tmp_path, attention=False)
    assert "looked" not in report.write(run).read_text() and "attention.npz" not in section(run)[1]


def test_captions_that_see_nothing_are_said_to(tmp_path):
    found, _ = section(make_run(tmp_path, said=["a red dog on the grass"] * COUNT))
    words = " ".join(found["said"])
    assert "a gap of 0.000 (0.000 … 0.000), which may be none: nothing shows that the network looks" in words
    assert "1.000 of the images share their caption with another; “a red dog on the grass” was said of 40." in words


def test_shapes_have_their_own_verdict(tmp_path):
    run = make_run(tmp_path, true=[True] * 30 + [False] * 10)
    found, _ = section(run)
    assert ".750 of the captions (.598 … .858) state only what is true, and all that is required." in found["said"]
    assert "true and complete" in report.write(run).read_text()


def test_what_cannot_be_scored_is_counted(tmp_path):
    references = [["a dog"]] * (COUNT - 2) + [[], []]
    found, _ = section(make_run(tmp_path, said=[""] * COUNT, references=references))
    words = " ".join(found["said"])
    assert "Captions without a word: 38." in words and "Images without a reference, left out of all scores: 2." in words


def test_runs_that_have_written_nothing_have_no_section(tmp_path):
    assert captions.section(None, folder=tmp_path, root=tmp_path, missing={}) == {}
    table = pa.table({"sample": [1], "path": ["a"], "split": ["val"], "references": [["a"]]})
    assert captions.section(table, folder=tmp_path, root=tmp_path, missing={}) == {}
    bare = table.append_column("caption", [["a"]]).set_column(3, "references", pa.array([[]], pa.list_(pa.string())))
    assert captions.section(bare, folder=tmp_path, root=tmp_path, missing={}) == {}


def test_the_page_says_nothing_of_classes(tmp_path):
    run = make_run(tmp_path)
    data = {"path": "photos", "images": COUNT, "captions": 2 * COUNT, "classes": [], "exact_copies": 0, "leaks": [],
            "label_conflicts": []}  # fmt: skip
    told = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(told | {"data": data, "metrics": {"val": {"accuracy": 0.5}}}))
    page = report.write(run).read_text()
    assert "80 captions" in page and "share of right words, each after the true words before it" in page
    assert "no predictions kept" not in page and "one class" not in page and "by class and split" not in page
