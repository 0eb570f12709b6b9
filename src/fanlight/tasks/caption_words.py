"""The tokenizer of caption scores: equal to the Java PTBTokenizer 3.4.1 with `-preserveLines -lowerCase`, whose tokens that
are punctuation are then dropped, which is how pycocoevalcap calls it. No torch, no Java.

What a network can say is decided elsewhere (data/vocabulary.py); this decides what counts as the same word in a score.
Quirks are kept, since scores depend on them: `(` becomes the word `-lrb-`, `!!` is a word, `#1` two, an emoji none.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

from fanlight.tasks.caption_chars import SHAPES
from fanlight.tasks.caption_rules import KNOWN_WORDS, match

# Of these, what the published tool drops. It lists "-LRB-" in capitals too, which the tokenizer never gives: it stays.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# Captions are lines of one file: a period after a single letter ends the sentence if the next line begins like one. This
# is how most captions begin.
USUAL = "A line"
LINE_END = re.compile("[\n-\r\u2028\u2029]")
# Letters up to white space, or to a comma or period before it: one token whatever stands around, but for known words.
PLAIN = re.compile("[A-Za-z]+(?=[,;:!?]?[ \n])|[A-Za-z]{2,}(?=\\. *\n)")
SKIPPED = re.compile("(?:[ ]+|[,;:!?](?=[ \n])|\\.(?= *\n))+")
DROPPED = re.compile("(?:[\t\n \u2003]|(?i:&nbsp;))+")
# A stretch that no rule reads beyond: its tokens are the same wherever it stands, and kept.
STRETCH = re.compile("[A-Za-z][A-Za-z'’-]*(?=[ \n])")
KEPT = 1 << 16  # stretches


def tokens(text: str, *, after: str | None = USUAL) -> list[str]:
    """Words of a caption, lower case, without punctuation. A token may hold an unbreakable space (`1\\xa01/2`). `after` is
    the caption in the next line of the file, of which a few letters matter, rarely; None: there is none."""
    text = LINE_END.sub(" ", text)
    line = text if after is None else f"{text}\n{LINE_END.sub(' ', after)}\n"
    return [token for token in _raw(line, len(text)) if token not in PUNCTUATION]


def of_lines(texts: Sequence[str]) -> list[list[str]]:
    """`tokens` of captions that follow each other, as the published tool writes and reads them."""
    return [tokens(text, after=after) for text, after in zip_longest(texts, texts[1:])]


def _raw(line: str, end: int) -> list[str]:
    """Tokens that begin before `end`."""
    found: list[str] = []
    shape = line.translate(SHAPES)
    at = 0
    while at < end:
        if skipped := SKIPPED.match(line, at):
            at = skipped.end()
        elif (plain := PLAIN.match(line, at)) and plain[0].lower() not in KNOWN_WORDS:
            found.append(plain[0].lower())
            at = plain.end()
        elif stretch := STRETCH.match(line, at):
            found += _stretch(stretch[0])
            at = stretch.end()
        else:
            at, token = _next(line, shape, at)
            if token:
                found.append(token)
    return found


@lru_cache(KEPT)
def _stretch(text: str) -> tuple[str, ...]:
    found: list[str] = []
    shape = f"{text} ".translate(SHAPES)
    at = 0
    while at < len(text):
        at, token = _next(f"{text} ", shape, at)
        if token:
            found.append(token)
    return tuple(found)


def _next(line: str, shape: str, at: int) -> tuple[int, str]:
    """Where the token that begins at `at` ends, and what it is; empty where these characters are dropped."""
    if dropped := DROPPED.match(shape, at):
        return dropped.end(), ""
    return match(line, shape, at)
