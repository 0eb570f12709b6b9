"""The tokenizer for training and the vocabulary that is kept with a run."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.data.vocabulary import SPECIAL, Vocabulary, joined, words_of
from fanlight.errors import ConfigError, DataError
from fanlight.types import END, PAD, START, UNK


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two Dogs, on a beach.", ["two", "dogs", "on", "a", "beach"]),
        ("a man's t-shirt", ["a", "man's", "t-shirt"]),
        ("a man’s t‑shirt", ["a", "man's", "t-shirt"]),
        ("3.5 of 7,000, or 12.", ["3.5", "of", "7,000", "or", "12"]),
        ('"wait" -- he said (really)!?', ["wait", "he", "said", "really"]),
        ("rock'n'roll 'til dawn'", ["rock'n'roll", "til", "dawn"]),
        ("one/two_three #4 $5 & 6%", ["one", "two", "three", "4", "5", "6"]),
        ("", []),
        ("... !!", []),
        ("Straße, café\u0301 und ÄRGER", ["straße", "café\u0301", "und", "ärger"]),
        ("cafe\u0301", ["café"]),  # the accent joins its letter
        ("Собака бежит!", ["собака", "бежит"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # signs for vowels are no letters to \w
        ("二只狗 dogs", ["二", "只", "狗", "dogs"]),
        ("ข้าว", ["ข้", "า", "ว"]),
        ("เ:\u0e47 \u0301a", ["เ", "a"]),  # accents on nothing
        ("dog😀😀cat", ["dog", "😀", "😀", "cat"]),
        ("👩\u200d👩\u200d👧🇩🇪👍🏽 ❤\ufe0f", ["👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "❤"]),
        ("e-\u00admail \ufeffx", ["e-mail", "x"]),
        ("“quoted” — dash…", ["quoted", "dash"]),
        ("\ud800 half", ["half"]),
        ("nul\x00byte\x7f", ["nul", "byte"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(max_size=30) | st.text("aB'’-.,3 é\u0301️😀🇩🇪👩\u200d狗ข้\u00adΩ\u2126İς", max_size=30))
def test_words_of_words_are_the_same_words(text: str) -> None:
    words = words_of(text)
    assert words_of(" ".join(words)) == words
    assert words_of(joined(words)) == words
    assert not any(set(word) & set(' \t\n"!?()<>;:/') for word in words)


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_the_short_way_for_ascii_is_the_long_way(text: str) -> None:
    assert words_of(text + " 😀") == [*words_of(text), "😀"]


def test_frequent_words_come_first_and_rare_ones_are_unknown() -> None:
    found = Vocabulary.of(["A cat, a dog", "a dog", "cat b"], 2)
    assert found.words == (*SPECIAL, "a", "cat", "dog")  # 3, 2, 2 times; equal ones by their letters
    assert found.encode("a b dog", 10) == [START, 4, UNK, 6, END]
    assert found.encode("a a a dog", 3) == [START, 4, 4, 4, END]
    assert found.encode("...", 3) == [START, END]
    assert found.decode([START, 4, UNK, 6, END, 5, PAD]) == "a <unk> dog"
    assert found.decode([4, PAD, 5]) == "a cat"
    assert len(found) == 7


def test_a_caption_cannot_say_a_special_word() -> None:
    found = Vocabulary.of(["<pad> <end> pad"], 1)
    assert found.words == (*SPECIAL, "pad", "end")
    assert found.encode("<end> <pad>", 5) == [START, 5, 4, END]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_what_is_encoded_is_decoded(captions: list[str]) -> None:
    if not any(map(words_of, captions)):
        with pytest.raises(
            DataError, match="none of the training captions has a word, only marks and blanks; give them words"
        ):
            Vocabulary.of(captions, 1)
        return
    found = Vocabulary.of(captions, 1)
    for text in captions:
        ids = found.encode(text, 100)
        assert UNK not in ids and PAD not in ids
        assert words_of(found.decode(ids)) == words_of(text)


def test_no_word_is_frequent_enough() -> None:
    with pytest.raises(
        ConfigError,
        match=r"caption\.min_count is 9: no word of the training captions occurs that often, the most frequent, 'a', 4 times; "
        "try --min-count 2",
    ):
        Vocabulary.of(["a a a a b"], 9)  # fmt: skip


def test_it_is_kept_as_it_is(tmp_path: Path) -> None:
    found = Vocabulary.of(["a 狗 😀 man's"], 1)
    found.save(tmp_path / "vocabulary.json")
    text = (tmp_path / "vocabulary.json").read_text("utf-8")
    assert json.loads(text) == {"version": 1, "words": list(found.words)} and "狗" in text
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]
