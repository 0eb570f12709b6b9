"""The report of a made-up run folder: what it says, what it escapes, what it does without."""

import base64
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fanlight.errors import RunError
from fanlight.study import report, runs

HOSTILE = "<b>x</b>"
CLASSES = ("cloudy", "$rain", HOSTILE, "晴")  # mathtext and a script that matplotlib's font lacks, too


def make_run(folder, *, classes=CLASSES, per_class=30, epochs=3, ranks=2, right=(0.9, 0.85)):
    """A finished run with everything in it. `right`: share of val and of test images that are right."""
    rng = np.random.default_rng(0)
    run, photos = folder / "run", folder / "photos"
    run.mkdir(parents=True)
    photos.mkdir()
    k, count = len(classes), per_class * len(classes)
    label = np.arange(count) % k
    split = np.array(["train", "train", "train", "val", "test"])[np.arange(count) // k % 5]
    paths = [f"{index}.jpg" for index in range(count)]
    for path, kind in zip(paths, label):
        pixels = np.full((48, 64, 3), 255 * kind // k, np.uint8)
        cv2.imwrite(str(photos / path), cv2.circle(pixels, (32, 24), 12, (40, 200, 90), -1))
    (photos / "broken.jpg").write_bytes(b"not a picture")
    manifest = {
        "path": [*paths, "broken.jpg"],
        "label": [*(classes[index] for index in label), classes[0]],
        "split": [*split, None],
        "status": ["ok"] * count + ["quarantined"],
        "reason": [""] * count + ["not an image"],
    }
    metadata = {b"fanlight": json.dumps({"root": str(photos), "classes": classes}).encode()}
    pq.write_table(pa.table(manifest).replace_schema_metadata(metadata), run / "manifest.parquet")
    metrics = write_predictions(run, classes, label, split, paths, dict(zip(("val", "test"), right)), rng)
    steps = per_class // 2
    for rank in range(ranks):
        step = np.arange(epochs * steps)
        parts = {f"{part}_s": rng.uniform(0.01, 0.03, len(step)) * (part != "copy") for part in runs.PARTS}
        table = {"step": step, "epoch": 1 + step // steps, "images": np.full(len(step), 16)}
        table |= parts | {"total_s": sum(parts.values()) + 0.01}
        pq.write_table(pa.table(table), run / f"steps-rank{rank}.parquet")
    with (run / "metrics.jsonl").open("w") as lines:
        for epoch in range(1, epochs + 1):
            shared = {"epoch": epoch, "step": epoch * steps, "loss": 1.5 / epoch, "accuracy": 0.9 * epoch / epochs}
            for extra in ({"kind": "train", "lr": 0.1 / epoch}, {"kind": "evaluate", "split": "val"}, {"kind": "save"}):
                lines.write(json.dumps(shared | extra) + "\n")
    data = {
        "path": "photos", "source": "folder", "fingerprint": "5eed", "classes": classes, "images": count,
        "splits": {name: int((split == name).sum()) for name in ("train", "val", "test")}, "exact_copies": 2,
        "label_conflicts": 1, "leaks": 3, "quarantined": [{"path": f"{HOSTILE}.jpg", "reason": "not an image"}],
    }  # fmt: skip
    summary = {
        "run": "weather", "version": 1, "status": "finished", "task": "classify", "model": "resnet18", "layout": "ddp",
        "ranks": ranks, "precision": "bf16", "epochs": epochs, "steps": epochs * steps, "batch_size": 32,
        "microbatches": 1, "metrics": metrics, "wall_s": 75.2, "train_s": 60.0, "images_per_s": 158.0,
        "input_wait_share": 0.013, "peak_rss_bytes": 1_900_000_000, "command": "fanlight train photos --epochs 3",
        "started": "2026-11-03T10:00:00+00:00", "data": data, "notes": ["bf16: this processor has AVX-512 BF16"],
        "phases": {"scan_s": 0.5, "pack_s": 2.5, "first_step_s": 1.0, "train_s": 60.0},
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(summary))
    resolved = {"version": 1, "train": {"epochs": epochs, "batch_size": 32}, "model": {"name": "resnet18"}}
    resolved["reasons"] = {"train.batch_size": "1/40 of the training images"}
    (run / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    machine = {"cpu": "Test CPU", "cores_usable": 2, "memory_bytes": 8_000_000_000, "device": "cpu"}
    (run / "env.json").write_text(json.dumps(machine | {"versions": {"torch": "2.15.0"}}))
    return run


def write_predictions(run, classes, label, split, paths, right, rng):
    """Rows of val and test, of which `right[split]` are right; returns run.json's `metrics`."""
    rows = np.flatnonzero(split != "train")
    hit = np.zeros(len(rows), bool)
    for name, share in right.items():
        at = np.flatnonzero(split[rows] == name)
        hit[at[: round(share * len(at))]] = True
    table = {
        "sample": rows,
        "path": [paths[row] for row in rows],
        "split": split[rows],
        "label": label[rows],
        "predicted": np.where(hit, label[rows], (label[rows] + 1) % len(classes)),
        "probability": np.full(len(rows), 0.75, np.float32),
        "loss": np.where(hit, 0.1, rng.uniform(1, 4, len(rows))).astype(np.float32),
        "correct": hit,
    }
    metadata = {b"classes": json.dumps(classes).encode()}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), run / "predictions.parquet")
    return {name: {"accuracy": float(hit[split[rows] == name].mean())} for name in right}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def edit(run, **changes):
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def text_of(run):
    page = report.write(run).read_text()
    return re.sub(r"\s+", " ", re.sub(r"base64,[\w+/=]+", "base64,", page))


def test_says_what_the_run_did(run):
    text = text_of(run)
    for words in (
        "<b>.833</b>", "n = 24", "1 min 15 s", "<b>158</b>", "resnet18", "Test CPU", "1.9 GB", "ddp, 2 ranks",
        "20 of 24 test images are right", "would give .250", "the 95 % intervals overlap",
        "Exact copies: 2.", "Copies, films or groups that stand in several splits: 3.", "not an image", "first step",
        "1/40 of the training images", "torch<td>2.15.0", "fanlight train photos --epochs 3", "first epoch left out",
        "The weakest class is", "AVX-512", "Validation accuracy was highest at the last evaluation, epoch 3.",
    ):  # fmt: skip
        assert words in text


def test_needs_nothing_outside_itself(run):
    page = report.write(run).read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script" not in page and "@import" not in page
    assert {path.name for path in (run / "figures").iterdir()} == {
        f"{name}.svg" for name in ("curves", "class_counts", "confusion", "f1", "throughput")
    }


def test_names_are_escaped_everywhere(run):
    page = report.write(run).read_text()
    assert HOSTILE not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    drawn = (run / "figures" / "confusion.svg").read_text()
    assert HOSTILE not in drawn and "$rain" in drawn and "晴" in drawn


def test_worst_mistakes_are_pictures(run):
    page = report.write(run).read_text()
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 4
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (48, 64, 3)


def test_missing_and_broken_images_are_said(run):
    table = pq.read_table(run / "predictions.parquet")
    wrong = [row for row in table.to_pylist() if row["split"] == "test" and not row["correct"]]
    photos = run.parent / "photos"
    (photos / wrong[0]["path"]).unlink()
    (photos / wrong[1]["path"]).write_bytes(b"broken")
    text = text_of(run)
    assert "file not found" in text and "cannot be decoded" in text and text.count("image/jpeg") == 2


def test_gap_between_val_and_test_is_explained(tmp_path):
    text = text_of(make_run(tmp_path, per_class=100, right=(0.95, 0.4)))
    assert "Test accuracy .400" in text and "do not overlap" in text and "the validation split leaks" in text


def test_without_predictions_it_goes_by_run_json(run):
    (run / "predictions.parquet").unlink()
    text = text_of(run)
    assert "<b>.833</b>" in text and "no interval" in text and "No predictions were kept" in text


def test_a_killed_run_has_a_report(run):
    for path in ("predictions.parquet", "steps-rank0.parquet", "env.json", "manifest.parquet"):
        (run / path).unlink()
    (run / "steps-rank1.parquet").write_bytes(b"PAR1torn")
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    edit(run, status="running", metrics={})
    text = text_of(run)
    assert "has not finished" in text and "not evaluated" in text and "1 of 9 lines cannot be read" in text
    assert "data:image/svg" in text and "steps-rank1.parquet" in text


def test_the_smallest_run_folder(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"run": "r", "version": 1, "status": "failed"}))
    text = text_of(tmp_path)
    assert "This run failed" in text and "No epoch was finished" in text


def test_disagreement_with_run_json_is_said(run):
    edit(run, metrics={"test": {"accuracy": 0.99}})
    assert "run.json says .990 for test; this page goes by predictions.parquet" in text_of(run)


@pytest.mark.parametrize("k", [29, 100])
def test_many_classes(tmp_path, k):
    run = make_run(tmp_path, classes=tuple(f"letter {index}" for index in range(k)), per_class=10)
    text = text_of(run)
    assert f"{k} classes" in text and f"<td>letter {k - 1}<td" in text
    assert (run / "figures" / ("confusion.svg" if k == 29 else "confusion.png")).is_file()


def test_all_right(tmp_path):
    text = text_of(make_run(tmp_path, right=(1.0, 1.0)))
    assert "None: every test image is right." in text and "The weakest class" not in text


def test_input_wait_gets_advice(run):
    path = run / "steps-rank0.parquet"
    columns = pq.read_table(path).to_pydict()
    pq.write_table(pa.table(columns | {name: [0.4] * len(columns["step"]) for name in ("input_s", "total_s")}), path)
    assert "Training waits for images" in text_of(run)


def with_logits(run, *, sure=1.0):
    """The run's predictions with logits of their labels; the higher `sure`, the surer of them."""
    path = run / "predictions.parquet"
    table = pq.read_table(path)
    k = len(CLASSES)
    draws = np.random.default_rng(3)
    logits = draws.normal(size=(len(table), k)).astype(np.float32)
    logits[np.arange(len(table)), table["predicted"].to_numpy()] += 5
    column = pa.FixedSizeListArray.from_arrays(pa.array((logits * np.float32(sure)).reshape(-1)), k)
    pq.write_table(table.append_column("logits", column), path)
    return run


def test_probabilities_have_a_section(tmp_path):
    text = text_of(with_logits(make_run(tmp_path, per_class=100, right=(0.8, 0.75)), sure=2.0))
    assert "<h2>Probabilities</h2>" in text and "Predictions divide the logits by " in text
    assert re.search(
        r"Calibration error of val \.\d{3}, \.\d{3} with temperature .* \(cross-fitted in two halves", text
    )
    assert re.search(r"Calibration error of test \.\d{3}, \.\d{3} with temperature [\d.]+ \(n = 80", text)
    drawn = (tmp_path / "run" / "figures" / "reliability.svg").read_text()
    assert "as the network gives it" in drawn and "calibrated" in drawn and "exact" in drawn


def test_probabilities_of_val_alone_and_without_a_temperature(tmp_path):
    run = with_logits(make_run(tmp_path, per_class=100, right=(1.0, 1.0)))
    table = pq.read_table(run / "predictions.parquet")
    pq.write_table(table.filter(np.array(table["split"].to_pylist()) == "val"), run / "predictions.parquet")
    text = text_of(run)
    assert "No temperature: every validation image is right" in text and "Reliability, val" in text
    drawn = (run / "figures" / "reliability.svg").read_text()
    assert "as the network gives it" in drawn and "calibrated" not in drawn


def test_without_logits_there_is_nothing_to_say_of_probabilities(run):
    assert "Probabilities" not in text_of(run) and not (run / "figures" / "reliability.svg").exists()


def test_refuses_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"is not a run folder: run.json: No such file.*`fanlight runs FOLDER`"):
        report.write(tmp_path)


def test_import_is_cheap():
    heavy = {"torch", "matplotlib", "pandas", "pyarrow", "cv2"}
    code = f"import sys, fanlight.study.report\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
