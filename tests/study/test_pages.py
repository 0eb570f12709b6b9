"""Pages are written whole or not at all."""

import errno
from pathlib import Path

import pytest

from fanlight.study import pages


def test_a_full_disk_leaves_the_page_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "r.html"
    pages.write(place, "first")

    def half(path: Path, text: str, **_: object) -> int:
        path.write_bytes(text.encode()[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        pages.write(place, "second")
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"]
    assert place.read_text() == "first"
