"""Every run of one to four words in many sentences, counted at once. S sentences, E entries: a sentence and a run in it.

Runs are numbered, so that scores are arithmetic on arrays: 5,000 images with 5 references each hold a million entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LONGEST = 4  # words of a run, as the published scores have it


@dataclass(frozen=True)
class Runs:
    """Of one length. Entries are sorted by sentence, then by run, and are distinct."""

    sentence_E: np.ndarray  # int64
    run_E: np.ndarray  # int64, 0 … kinds − 1
    count_E: np.ndarray  # int64, at least 1
    kinds: int  # distinct runs in all sentences

    def of(self, first: int, last: int) -> "Runs":
        """The entries of sentences `first` … `last` − 1, which become 0 … ."""
        begin, end = np.searchsorted(self.sentence_E, (first, last))
        part = slice(begin, end)
        return Runs(self.sentence_E[part] - first, self.run_E[part], self.count_E[part], self.kinds)


def lengths(sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """int64 [S], words of each."""
    return np.fromiter(map(len, sentences), np.int64, len(sentences))


def counted(sentences: Sequence[Sequence[str]]) -> tuple[Runs, ...]:
    """Runs of 1 … LONGEST words. A sentence shorter than a run has none of it."""
    number: dict[str, int] = {}
    words_W = np.fromiter(
        (number.setdefault(word, len(number)) for sentence in sentences for word in sentence), np.int64
    )
    length_S = lengths(sentences)
    sentence_W = np.repeat(np.arange(len(sentences)), length_S)
    left_W = np.repeat(np.cumsum(length_S), length_S) - np.arange(len(words_W))  # words from here to the end
    at, run, kinds, found = np.arange(len(words_W)), words_W, len(number), []
    for length in range(1, LONGEST + 1):
        if length > 1:
            fits = left_W[at] >= length
            at, run = at[fits], run[fits]
            _, run = np.unique(run * max(len(number), 1) + words_W[at + length - 1], return_inverse=True)
            kinds = int(run.max()) + 1 if len(run) else 0
        keys, count_E = np.unique(sentence_W[at] * max(kinds, 1) + run, return_counts=True)
        found.append(Runs(keys // max(kinds, 1), keys % max(kinds, 1), count_E, kinds))
    return tuple(found)
