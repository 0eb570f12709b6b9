"""Groups by a column or by a pattern, and what cannot be grouped by."""

from pathlib import Path

import pytest

from fanlight.data import grouping
from fanlight.data.formats import Listing
from fanlight.data.grouping import regroup
from fanlight.errors import ConfigError

PATHS = ["p7/scan_1.png", "p7/scan_2.png", "p12/scan_1.png", "extra.png"]


def listing(**columns: list[str]) -> Listing:
    return Listing(Path("/data"), "test", PATHS, ["a", "b", "a", "b"], [""] * 4, [""] * 4, columns=columns)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (r"^(p\d+)/", ["p7", "p7", "p12", ""]),
        (r"p\d+", ["p7", "p7", "p12", ""]),
        (r"scan_(\d)", ["1", "2", "1", ""]),
        (r"(x)?scan", None),
    ],
)
def test_a_pattern_in_the_paths(by: str, groups: list[str] | None, capsys: pytest.CaptureFixture[str]) -> None:
    if groups is None:  # the bracket takes part in no match
        with pytest.raises(ConfigError, match=r"matches none of 4 paths, such as p7/scan_1\.png"):
            regroup(listing(), by)
        return
    assert regroup(listing(), by).groups == groups
    said = capsys.readouterr()
    assert f"Groups by pattern {by!r}: 2, of 3 files" in said.out
    assert "1 files have no group" in said.err and "extra.png" in said.err


def test_a_column_wins_over_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    found = regroup(listing(scan=[" x", "x ", "y", "y"]), "Scan")
    assert found.groups == ["x", "x", "y", "y"]
    assert "Groups by column Scan: 2, of 4 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("by", "columns", "message"),
    [
        ("(", {}, r"data.group_by '\(' is neither a column nor a regular expression \(missing \)"),
        (
            "scan",
            {"patient_id": ["", "", "", ""], "scan_id": [""] * 4},
            r"'scan' is no column of test\. The columns: patient_id, scan_id\. Near names: scan_id\. To search the paths, .*"
            r"such as '\(patient\\d\+\)'",
        ),
        (
            "scan",
            {},
            r"'scan' cannot be a column, because there are none in test\. To search the paths, give a regular",
        ),
        (
            "q(.)",
            {"patient_id": [""] * 4},
            r"matches none of 4 paths, such as p7/scan_1\.png\. The columns: patient_id\.",
        ),
        ("site", {"site": ["", " ", "", ""]}, "the column is empty in all 4 rows"),
    ],
)
def test_what_nothing_can_be_grouped_by(by: str, columns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        regroup(listing(**columns), by)


def test_a_pattern_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "SECONDS_MOST", 0.2)
    endless = Listing(Path("/data"), "test", ["a" * 60 + ".png"], ["a"], [""], [""])
    with pytest.raises(ConfigError, match=r"'\(a\+\)\+X' is not done after 0.2 s"):
        regroup(endless, "(a+)+X")


@pytest.mark.parametrize(("by", "message"), [("", "data.group_by is empty"), (".*", "puts all 4 files into one group")])
def test_what_groups_nothing(by: str, message: str) -> None:
    paths = ["x"] * 4
    with pytest.raises(ConfigError, match=message):
        regroup(Listing(Path("/data"), "test", paths, ["a", "b", "a", "b"], [""] * 4, [""] * 4), by)
