"""The tokenizer against what its Java model said, once: tests/tasks/golden has the lines and how they were made."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.tasks import caption_words
from fanlight.tasks.caption_chars import SHAPES
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
        ("plann't won'tn't o'neiln't", "plann t wo n'tn t o'neiln t"),
        (
            "qu'il ma'am l'eau b'ab th'em y'all c’mon ’twas ’em ol' goin'",
            "qu'il ma'am l'eau b ab th 'em y' all c 'm on twas ’em ol' goin",
        ),
        ("in '98, the '90s, 5'6\" 80's", "in 98 the '90s 5 6 80 's"),
        ("No. 5 no. five pp. 3 fig. a Jan.5 etc.x etc.xy", "no. 5 no five pp. 3 fig a jan. 5 etc. x etc.xy"),
        ("MFG. mfg. Mass. mass. U.S.-made dog., dog.", "mfg mfg. mass. mass u.s.-made dog. dog"),
        ("1-1/2 12/25-10 1/2/3/4 2-3/a -5-a .5,5:5 1e+5", "1-1/2 12/25-10 1/2/3 / 4 2-3 / a -5 a .5,5:5 1e +5"),
        ("a-b/c a/b-c a/b_c é-é é/é so\xadft-x 5\xad5", "a-b/c a/b-c a/b _ c é-é é / é soft-x 55"),
        ("AT&T at&t R&amp;B A+B US$5 us$5 C++ g++ C# a#b", "at&t at & t r&b a+b us$ 5 us $ 5 c++ g + + c# a #b"),
        ("x!y a.b!c 1!a 2.jpg 2.jpg; a-b.com é.com", "x!y a.b!c 1 a 2.jpg 2 jpg a-b com é.com"),
        (
            "a.com/x a.com/xy a.gov/xy www.a.gov/xy http://a.b/c.",
            "a.com / x a.com/xy a.gov / xy www.a.gov/xy http://a.b/c",
        ),
        ("foo@bar.com, (a@b) é@b <a@b> @a_1 @1 #a1", "foo@bar.com, -lrb- a@b -rrb- é @b <a@b> @a_1 @ 1 #a 1"),
        (
            "<b>x</b> <1> < b> ----- --- == ** &amp; &Eacute;t &foo;",
            "<b> x </b> < 1 > < b > ----- = = ** & &eacute;t & foo",
        ),
        (":-) :-)x ;D =( (^_^) ^_^ o_O <3", ":--rrb- -rrb- x ;d =-lrb- -lrb-^_^-rrb- ^_^ o_o < 3"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_hard_cases(text, want):
    assert tokens(text) == want.split()


def test_fractions_telephone_numbers_and_tags_are_one_token_with_their_spaces():
    assert tokens("1 1/2 cups") == ["1\xa01/2", "cups"]
    assert tokens("(415) 555-1212 or 415 555 1212") == ["-lrb-415-rrb-\xa0555-1212", "or", "415\xa0555\xa01212"]
    assert tokens('an <a href="x y"> b') == ["an", '<a\xa0href="x\xa0y">', "b"]


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
    whole = f"{line}\nA line\n"
    shape = whole.translate(SHAPES)
    slow, at = [], 0
    while at < len(line):
        at, token = caption_words._next(whole, shape, at)
        slow += [token] if token and token not in PUNCTUATION else []
    assert tokens(line) == slow


@pytest.mark.parametrize("text", ["<a " * 3000, "a." * 5000, "a-" * 5000, "(1" * 3000, "www." * 3000, "x" * 100_000])
def test_long_hostile_captions_end_soon(text):
    assert tokens(text) == tokens(f"{text} "), "and says the same again"
