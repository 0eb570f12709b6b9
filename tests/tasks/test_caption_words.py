"""The tokenizer against what its Java model said, once: tests/tasks/golden has the lines and how they were made."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.tasks import caption_words
from fanlight.tasks.caption_words import PUNCTUATION, of_lines, tokens

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    return json.loads((GOLDEN / f"caption_{name}.json").read_text(encoding="utf-8"))


def differing(pairs):
    return [(text, want, tokens(text)) for text, want in pairs if want.split(" ") != (tokens(text) or [""])]


def test_every_drawn_line_has_the_tokens_of_the_java_tokenizer():
    lines = golden("tokens")["lines"]
    assert len(lines) == 1000 and not differing(lines)


def test_every_caption_of_coco_has_the_tokens_of_the_java_tokenizer():
    found = golden("coco")
    pairs = [pair for some, want in zip(found["captions"], found["tokens"]) for pair in zip(some, want)]
    assert len(pairs) >= 300 and not differing(pairs)


def test_the_published_example_has_the_tokens_of_the_java_tokenizer():
    found = golden("example")
    assert len(found["captions"]) == 1000 and not differing(zip(found["captions"], found["tokens"]))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("A man, a dog.", "a man a dog"),
        ("can't won't it's It’s", "ca n't wo n't it 's it 's"),
        ("cannot gonna 'twas", "can not gon na 't was"),
        ("black-and-white T-shirts", "black-and-white t-shirts"),
        ("the U.S. flag, e.g. 3.5 at 5 p.m.", "the u.s. flag e.g. 3.5 at 5 p.m."),
        ("St. Mark's on Main St.", "st. mark 's on main st."),
        ("a (red) [blue] hat", "a -lrb- red -rrb- -lsb- blue -rsb- hat"),
        ("wow!! really?! #1 … ... ;)", "wow !! really ?! # 1 ;-rrb-"),
        ("“quoted” and ``ticked''", "quoted and ticked"),
        ("café 日本語 😀 ❤", "café 日本語 ❤"),
        ("½ cup for £5, 20°C", "1/2 cup for # 5 20 ° c"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_hard_cases(text, want):
    assert tokens(text) == want.split()


def test_a_fraction_is_one_token_with_its_space():
    assert tokens("1 1/2 cups") == ["1\xa01/2", "cups"]


def test_a_period_after_one_letter_belongs_to_the_sentence_where_the_next_line_begins_one():
    assert tokens("plan b. is best, not plan a.") == ["plan", "b.", "is", "best", "not", "plan", "a"]
    assert of_lines(["plan a.", "The plan a.", "plan a.", "5 plans no.", "5"]) == [
        ["plan", "a"], ["the", "plan", "a."], ["plan", "a."], ["5", "plans", "no."], ["5"],
    ]  # fmt: skip
    assert tokens("see etc.", after=None) == ["see", "etc."] and tokens("in '98", after=None) == ["in", "98"]


def test_ends_of_lines_are_spaces():
    assert tokens("a dog\nand\r\na\u2028cat") == ["a", "dog", "and", "a", "cat"]


@given(st.text(max_size=60))
def test_any_text_gives_clean_tokens(text):
    for token in tokens(text):
        assert token and token not in PUNCTUATION and not set(token) & set(" \n\r")


@given(st.lists(st.sampled_from(["a", "dog", "can't", "t-shirt", "man's", "Mr", "cannot", "b", "st"]), max_size=8))
def test_what_is_kept_of_earlier_captions_changes_nothing(words):
    """Shortcuts and the cache give what the rules alone give."""
    line = " ".join(words)
    slow, at = [], 0
    while at < len(line):
        at, token = caption_words._next(f"{line}\nA line\n", at)
        slow += [token] if token and token not in PUNCTUATION else []
    assert tokens(line) == slow


@pytest.mark.parametrize("text", ["<a " * 3000, "a." * 5000, "a-" * 5000, "(1" * 3000, "www." * 3000, "x" * 100_000])
def test_long_hostile_captions_end_soon(text):
    assert tokens(text) == tokens(f"{text} "), "and says the same again"
