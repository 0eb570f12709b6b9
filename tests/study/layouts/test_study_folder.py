"""What a study writes: the same when it is read, and short enough to be read by people."""

import json
import re

import pytest

from fanlight.errors import ConfigError, RunError
from fanlight.study.layouts import folder, grid, result, told
from study.layouts import folders


@pytest.mark.parametrize("document", [
    {"ranks": [1, 2], "names": ["a [b", "c],", "{", "\n]"], "rows": [{"seconds": [0.1, None, True]}, {"lists": [[], [1]]}]},
    [1, 2], [], {},
])  # fmt: skip
def test_what_is_written_is_what_is_read(tmp_path, document):
    folder.write(tmp_path / "some.json", document)
    assert json.loads((tmp_path / "some.json").read_text()) == document


def test_lists_of_numbers_and_words_take_a_line(tmp_path):
    found = folder.text({"ranks": [1, 2], "names": ["a [b", "c"], "rows": [{"seconds": [0.1, None]}]})
    assert [line.strip() for line in found.splitlines()] == [
        "{", '"ranks": [1, 2],', '"names": ["a [b", "c"],', '"rows": [', "{", '"seconds": [0.1, null]', "}", "]", "}"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="Out of range float"):
        folder.text([float("nan")])


def test_no_number_of_a_result_stands_alone_on_its_line(tmp_path):
    points = grid.points(cores=2, gpus=0, names=["ddp"], precisions=["fp32"])
    study = folders.begin(tmp_path / "study", points, network=folders.network())
    for point in points:
        for number in range(2 * (not point.reason)):
            folders.run(study, point, number)
    result.write(study)
    for name in (folder.PLAN, folder.POINTS):
        lines = (study / name).read_text().splitlines()
        assert len(lines) > 10 and not any(re.fullmatch(r"-?[\d.e+-]+,?", line.strip()) for line in lines)


def test_what_was_killed_before_it_began_may_begin_again(tmp_path):
    out = tmp_path / "study"
    (out / "runs").mkdir(parents=True)
    (out / "basis.yaml").touch()
    folder.check_free(out)
    assert folder.create("photos", out=out) == out
    (out / "runs/serial-1core-fp32-0").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        folder.check_free(out)
    (out / "runs/serial-1core-fp32-0").rmdir()
    for name in (".lock", "study.json.part", ".manifest.parquet.7"):
        (out / name).touch()
    folder.check_free(out)
    (out / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is there already"):
        folder.check_free(out)


def test_a_manifest_that_somebody_keeps_is_not_written_over(tmp_path):
    (tmp_path / "manifest.parquet").touch()
    with pytest.raises(ConfigError, match="is there already"):
        folder.check_free(tmp_path)


def test_studies_without_a_folder_of_their_own_have_one_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/photos-study-1").symlink_to("nowhere")  # in the way, and not there when asked
    assert [str(folder.create("photos", out=None)) for _ in range(2)] == ["runs/photos-study-2", "runs/photos-study-3"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text[: len(text) // 2], r"cannot be read \(.*line.*\)"),
        (lambda text: text.replace('"layout"', '"shape"'), r"cannot be read \(it lacks its version or points\)"),
        (lambda text: text.replace('"asked"', '"told"'), r"cannot be read \(it lacks asked\)"),
        (lambda text: "[]", r"cannot be read \(it lacks its version or points\)"),
    ],
)
def test_a_plan_that_is_torn_says_where_the_figures_are(tmp_path, change, why):
    study = folders.begin(tmp_path / "study", grid.points(cores=2, gpus=0, names=["ddp"], precisions=["fp32"]))
    path = study / folder.PLAN
    path.write_text(change(path.read_text()))
    with pytest.raises(
        RunError, match=rf"study\.json {why}; put the file back .* What was measured stays: fanlight runs"
    ):
        folder.read_plan(study)


def test_a_result_that_lacks_a_part_is_not_told(tmp_path):
    study = folders.begin(tmp_path / "study", grid.points(cores=2, gpus=0, names=["ddp"], precisions=["fp32"]))
    result.write(study)
    told.read(study)
    (study / folder.POINTS).write_text('{"points": []}')
    with pytest.raises(RunError, match=r"has no readable points\.json.*--resume"):
        told.read(study)
