"""The words of captions read once: equal to reading every sentence anew, and found again in the cache."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.test_captions_targets import manifest_of
from fanlight.data import cache, captions, spoken
from fanlight.data.manifest import Manifest
from fanlight.data.spoken import Spoken
from fanlight.data.vocabulary import Vocabulary, words_of
from fanlight.errors import DataError
from fanlight.types import END, PAD, START

TEXTS = st.text("ab cÄ狗.-'", max_size=12)
SAID = st.lists(st.lists(TEXTS, max_size=4), max_size=6)


def made(said: list[list[str]]) -> Manifest:
    return manifest_of([json.dumps(each, ensure_ascii=False) if each else "" for each in said])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_targets() -> None:
    vocabulary = Vocabulary.of(["a dog runs", "a dog", "a cat", "a dog and a cat sleep", "two"], 1)
    said = spoken.of(made([["a dog", "a cat sleep now"], ["two"], []]))
    found = said.encoded(np.arange(2), vocabulary, 3)
    a, dog, cat, sleep, two = (vocabulary.number_of[word] for word in ("a", "dog", "cat", "sleep", "two"))
    assert found.dtype == np.int16
    assert found.tolist() == [
        [[START, a, dog, END, PAD], [START, a, cat, sleep, END]],
        [[START, two, END, PAD, PAD], [PAD] * 5],
    ]
    assert captions.lengths(found).tolist() == [[4, 5], [3, 0]]
    assert captions.counts(found).tolist() == [2, 1]
    assert said.encoded(np.array([2]), vocabulary, 3).shape == (1, 0, 0)
    assert said.encoded(np.zeros(0, np.int64), vocabulary, 3).shape == (0, 0, 0)
    assert said.unknown(np.arange(2), vocabulary) == {"now": 1}


def test_a_large_vocabulary_needs_wider_numbers() -> None:
    vocabulary = Vocabulary.of([" ".join(f"w{number}" for number in range(33_000))], 1)
    found = spoken.of(made([["w32999 w0"]])).encoded(np.array([0]), vocabulary, 5)
    assert found.dtype == np.int32
    assert vocabulary.decode(found[0, 0]) == "w32999 w0"


@given(SAID, st.integers(1, 5), st.data())
def test_what_is_counted_is_what_is_said(said: list[list[str]], longest: int, data: st.DataObject) -> None:
    """Every row, or some in any order, against each sentence read by itself."""
    rows = np.array(data.draw(st.permutations(range(len(said)))), np.int64)[: data.draw(st.integers(0, len(said)))]
    found = spoken.of(made(said))
    texts = [[text for text in said[row] if text.strip()] for row in rows]
    every = [text for each in texts for text in each]
    assert found.counts(rows).tolist() == [len(each) for each in texts]
    assert found.lengths(rows).tolist() == [len(words_of(text)) for text in every]
    with_a = [(row, place) for row, each in zip(rows.tolist(), texts) for place, text in enumerate(each)
              if not {"a", "狗"}.isdisjoint(words_of(text))]  # fmt: skip
    assert found.saying({"a", "狗"}, rows) == sorted(with_a)
    if not any(map(words_of, every)):
        return
    known = Vocabulary.of(every, 1)
    assert found.vocabulary(rows, 1) == known
    targets = found.encoded(rows, known, longest)
    for place, each in enumerate(texts):
        for slot, text in enumerate(each):
            numbers = targets[place, slot]
            assert numbers[numbers != PAD].tolist() == known.encode(text, longest)
        assert (targets[place, len(each) :] == PAD).all()


def test_read_once_for_all_who_ask(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process by the manifest; for other processes, and where splits or copies changed, by a file."""
    monkeypatch.setattr(spoken, "KEPT_FROM", 3)
    manifest = made([["a dog", "a cat"], [], ["a狗 Äb", "a"]])
    first = spoken.of(manifest)
    assert spoken.of(manifest) is first

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(spoken, "_read", fail)
        again = spoken.of(manifest.with_columns(split=["train", "", "val"]))
        assert _plain(again) == _plain(first)
        with pytest.raises(AssertionError, match="read again"):
            spoken.of(made([["a dog", "a cat"], ["new"], ["a狗 Äb", "a"]]))
    (entry,) = cache.entries()
    assert entry.kind == "captions" and cache.clear() == entry.bytes
    assert _plain(spoken.of(manifest.with_columns(split=["train", "", "val"]))) == _plain(first)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04torn", None])
def test_a_damaged_file_is_read_anew(place: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None) -> None:
    monkeypatch.setattr(spoken, "KEPT_FROM", 1)
    said = [["a dog", "a cat"], ["a"]]
    first = spoken.of(made(said))
    (path,) = (place / "captions").iterdir()
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    assert _plain(spoken.of(made(said))) == _plain(first)
    assert _plain(spoken.of(made(said))) == _plain(first) and len(list((place / "captions").iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken, "KEPT_FROM", 1)
    place.write_text("a file where the folder would be")
    assert spoken.of(made([["a dog"]])).words == ("a", "dog")


def test_few_captions_leave_nothing_in_the_cache(place: Path) -> None:
    spoken.of(made([["a dog"]]))
    assert not place.exists()


def test_damaged_captions_are_named() -> None:
    with pytest.raises(DataError, match=r"/photos/1\.jpg: its captions are no JSON list of texts"):
        spoken.of(manifest_of(['["a"]', "{}"]))


def _plain(found: Spoken) -> list[object]:
    return [found.words, found.numbers_W.tolist(), found.ends_S.tolist(), found.ends_R.tolist()]
