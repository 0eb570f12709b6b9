"""What a study writes: the same when it is read, and short enough to be read by people."""

import json
import re

import pytest

from fanlight.errors import ConfigError
from fanlight.study.layouts import folder, grid, result
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
    (out / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is there already"):
        folder.check_free(out)
