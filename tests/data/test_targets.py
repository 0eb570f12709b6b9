"""Where `check` must not write: everything that is somebody's."""

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fanlight.data.targets import places
from fanlight.errors import ConfigError


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/0.jpg").write_bytes(b"a photo")
    (tmp_path / "list.parquet").write_bytes(b"a list")
    (tmp_path / "notes.html").write_text("<title>mine</title>")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "link").symlink_to("photos")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "table.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("data", "asked", "message"),
    [
        ("photos", {"--fix": "photos/cat/0.jpg"}, "--fix photos/cat/0.jpg: it writes a .parquet file"),
        ("photos", {"--fix": "photos/fixed.parquet"}, "--fix photos/fixed.parquet lies in the data, photos"),
        ("photos", {"--report": "photos"}, "--report photos/data.html lies in the data"),
        ("photos", {"--out": "link/new.parquet"}, "--out link/new.parquet lies in the data"),
        ("list.parquet", {"--out": "list.parquet"}, "--out list.parquet is the data itself, which is never changed"),
        ("photos", {"--out": "table.parquet"}, "--out table.parquet exists, and is not of Fanlight's making"),
        ("photos", {"--report": "notes.html"}, "--report notes.html exists, and is not of Fanlight's making"),
        ("photos", {"--out": "x.parquet", "--fix": "./x.parquet"}, "--out and --fix both write x.parquet"),
        ("photos", {"--fix": "pipe.parquet"}, "--fix pipe.parquet is no regular file"),
        ("photos", {"--fix": ""}, "--fix is empty"),
        ("photos", {"--out": "results.csv"}, "--out results.csv: it writes a .parquet file"),
    ],
)
def test_what_is_refused(there: Path, data: str, asked: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        places(data, dict(asked))


def test_folders_get_names_and_own_files_are_replaced(there: Path) -> None:
    (there / "out").mkdir()
    (there / "page.html").write_text('<head>\n<meta name="generator" content="fanlight">')
    found = places("photos", {"--out": "out", "--fix": "out", "--report": "page.html"})
    assert {option: str(place) for option, place in found.items()} == {
        "--out": "out/manifest.parquet", "--fix": "out/fixed.parquet", "--report": "page.html",
    }  # fmt: skip
    assert places("digits", {"--out": None, "--fix": None}) == {}


@pytest.mark.parametrize("option", ["--out", "--fix", "--report"])
def test_a_folder_that_is_not_there_is_said_before_anything_is_read(there: Path, option: str) -> None:
    ending = ".html" if option == "--report" else ".parquet"
    with pytest.raises(
        ConfigError, match=rf"{option} nowhere/x{ending} cannot be written: nowhere is no folder; make it"
    ):
        places("photos", {option: f"nowhere/x{ending}"})
