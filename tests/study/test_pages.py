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


def test_a_figure_is_one_macro_for_all_pages_and_words_in_it_are_escaped():
    folder = Path(pages.__file__).parent
    assert [path.name for path in sorted(folder.glob("*.html")) if "macro figure(" in path.read_text()] == [
        "figure.html"
    ]
    import jinja2

    files = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    drawn = str(files.get_template("figure.html").module.figure("data:image/png;base64,AA", "<b>words</b>"))
    assert "&lt;b&gt;words&lt;/b&gt;</figcaption>" in drawn and "<b>" not in drawn
    assert "<" not in str(files.get_template("figure.html").module.figure(None, "words"))  # not drawn


def test_what_is_folded_on_the_screen_is_open_on_paper():
    _, _, printed = (Path(pages.__file__).parent / "page.css").read_text().partition("@media print")
    assert (
        "details::details-content { content-visibility: visible; }" in printed
        and "details { display: none" not in printed
    )
