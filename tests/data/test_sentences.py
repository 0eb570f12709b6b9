"""What `check` says of captions: words, lengths, what is odd."""

import json
from pathlib import Path
from typing import Any

import pytest

from data import layouts
from fanlight.data import checkup, sentences

CAPTIONS = {
    "0.jpg": ["A dog runs.", "A dog!"],
    "1.jpg": ["a dog", "Собака бежит", "..."],
    "2.jpg": [f"{'very ' * 51}long", "a 😀 dog, 25 °C"],
    "3.jpg": ["二只狗 in a café"],
}


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    root = layouts.write(tmp_path / "photos", {name: layouts.jpeg(0, number) for number, name in enumerate(CAPTIONS)})
    lines = [json.dumps({"file_name": name, "captions": texts}) for name, texts in CAPTIONS.items()]
    (root / "list.jsonl").write_text("\n".join(lines), "utf-8")
    data = str(root / "list.jsonl")
    manifest, found = checkup.examine(data, level="exact")
    return checkup.tell(data, manifest, found, out=None, level="exact") | {"out": capsys.readouterr().out}


def test_counted(checked: dict[str, Any]) -> None:
    assert (checked["images"], checked["captions"]) == (4, 8)
    words = ["a dog runs a dog a dog собака бежит a dog 25 c", "very " * 51 + "long", "二 只 狗 in a café 😀"]
    words = [word for line in words for word in line.split()]
    assert (checked["words"], checked["vocabulary"]) == (len(words), len(set(words)))
    assert checked["frequent_words"] == 2 and checked["covered"] == (5 + 51) / len(words)  # a, very
    assert checked["caption_words"] == {"min": 0, "median": 2, "p99": 52, "max": 52}
    assert checked["captions_per_image"] == {"min": 1, "max": 3}
    assert checked["repeated_captions"] == 2


def test_what_is_odd_is_named(checked: dict[str, Any]) -> None:
    assert {what: [line[:5] for line in lines] for what, lines in checked["odd_captions"].items()} == {
        "with letters that are Cyrillic, not Latin": ["1.jpg"],
        "without a word": ["1.jpg"],
        "of more than 50 words": ["2.jpg"],
        "with emoji": ["2.jpg"],
        "with letters that are Chinese or Japanese, not Latin": ["3.jpg"],
    }
    out = checked["out"]
    assert "1 captions with emoji, first of 2.jpg: a 😀 dog, 25 °C" in out
    assert "Captions of an image: 1 to 3; words of a caption: 0 to 52, half have at most 2" in out


def test_captions_that_are_there_twice_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that was joined with itself: each row counts in training, so it is said."""
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    rows = ["image,caption", *["0.jpg,A dog runs.", "0.jpg,A dog!", "1.jpg,A dog!", "0.jpg,A dog!"]]
    images = {f"images/{n}.jpg": layouts.jpeg(0, n) for n in range(2)}
    root = layouts.write(tmp_path / "data", {**images, "captions.txt": "\n".join(rows).encode()})
    found = sentences.survey(checkup.examine(str(root), level="exact")[0])
    assert found is not None and found.captions == 4
    assert found.odd == {"that their image has before, letter by letter": ["images/0.jpg: A dog!"]}


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("a dog", {"Latin"}), ("3 + 4", set()), ("Ärger © 25 °C ª", {"Latin"}), ("ｄｏｇ 𝐝", {"Latin"}),
        ("собака dog", {"Cyrillic", "Latin"}),
        ("ある日, 犬", {"Chinese or Japanese"}), ("개", {"Hangul"}), ("❤ 👍🏽", {"emoji"}),
    ],
)  # fmt: skip
def test_scripts(text: str, scripts: set[str]) -> None:
    assert sentences.scripts_of(text) == scripts


def test_data_with_classes_have_no_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    layouts.weather(tmp_path / "photos")
    assert sentences.survey(checkup.up_to_date(str(tmp_path / "photos"), decode=False)) is None
