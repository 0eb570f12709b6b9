"""Words seen in cells: what a captioner learns of an image before it can put sentences together. b images, F numbers of a grid
cell, D a decoder's width, N words that are looked for.

Each cell scores each word, and what an image says of a word is what its best cell says: learning from whole images which part
of them shows what (multiple instances; Fang et al. 2015 with noisy-or, here the maximum). Without it nothing tells the encoder
what a word looks like but a sentence's loss, by way of attention that does not know yet where to look.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fanlight.types import UNK

FIRST = UNK + 1  # of a vocabulary, the first that is a word
MOST = 1000  # words that are looked for, the most frequent ones, as Fang et al. have it
NUMBER_STD = 0.3  # of what numbers of places say at first
RARE = -3.0  # the score of a word before anything is learned: most words stand in few captions


def looked_for(words: int) -> int:
    """How many of a vocabulary of so many: those from FIRST on."""
    return min(words - FIRST, MOST)


class Seen(NamedTuple):
    scores_bCN: Tensor  # logits of each word in each cell
    places_bN: Tensor  # in how many places of the image each word is


class WordDetector(nn.Module):
    """[b, cells, F] to what is seen there. An encoder of several streams (equal parts of F, none of which knows of the others)
    has each score alone, and their odds add up: a stream that never saw a pair of attributes cannot veto what another sees."""

    def __init__(self, *, features: int, words: int, streams: int, width: int):
        """`width`: the decoder's D."""
        super().__init__()
        found = looked_for(words)
        self.streams = nn.ModuleList(nn.Linear(features // streams, found) for _ in range(streams))
        self.gain = nn.Parameter(torch.ones(1))  # a layout cannot shard a single number
        self.number = nn.Linear(found, width, bias=False)
        self.number_bias = nn.Parameter(torch.full((found,), RARE))
        for stream in self.streams:
            nn.init.constant_(stream.bias, RARE)  # type: ignore[arg-type]
        nn.init.normal_(self.number.weight, std=NUMBER_STD)

    def forward(self, features_bCF: Tensor) -> Seen:
        parts = features_bCF.chunk(len(self.streams), 2)
        scores = [stream(part) for stream, part in zip(self.streams, parts, strict=True)]
        best = scores[0] if len(scores) == 1 else _either(scores)
        return Seen(best, places(best))

    def of_image(self, seen: Seen, embedding_VD: Tensor) -> Tensor:
        """An image's score of each word, [b, N]: its best cell's, and what numbers of places say: `two`, plurals."""
        numbers_bN = F.linear(
            self.number(seen.places_bN), self._words(seen, embedding_VD), self.number_bias.to(seen.places_bN.dtype)
        )
        return _either([seen.scores_bCN.amax(1), numbers_bN.to(seen.scores_bCN.dtype)])

    def in_words(self, seen: Seen, embedding_VD: Tensor) -> Tensor:
        """What each cell sees, [b, cells, D]: in the words' own embeddings, so that sentences can take their words from there,
        also those that never stood together; and in how many places of the image each of these words is, besides one."""
        seen_bCN = seen.scores_bCN.sigmoid()
        named = (
            self.gain.to(seen_bCN.dtype) * embedding_VD.shape[1] ** 0.5 * (seen_bCN @ self._words(seen, embedding_VD))
        )
        return named + self.number(seen_bCN * (seen.places_bN - 1)[:, None])

    @staticmethod
    def _words(seen: Seen, embedding_VD: Tensor) -> Tensor:
        """Embeddings of the words that are looked for, [N, D]."""
        return embedding_VD[FIRST : FIRST + seen.scores_bCN.shape[2]].to(seen.scores_bCN.dtype)


def _either(scores: list[Tensor]) -> Tensor:
    """A word's score where several things say one: the sum of their odds, which is the larger one's but for ties. A maximum
    teaches its winner alone: who lost a word by chance in the first steps would never learn it, although it could and the
    winner cannot (colours, of edges). So little as a sum leaves to the smaller score, an optimizer that scales by what comes
    makes whole steps of it."""
    return torch.stack(scores).logsumexp(0)


def places(scores_bCN: Tensor) -> Tensor:
    """In how many places of a square grid each word is seen, [b, N]: cells that none beside them outdoes, the first of equal
    ones, each by the square of its probability, so that many faint ones are no place. A sum over all cells would tell how
    large things are, and attention is a mean, which cannot count; peaks are how detectors tell one thing from two (Zhou et
    al. 2019, "Objects as Points")."""
    b, cells, n = scores_bCN.shape
    side = math.isqrt(cells)
    height = side if side * side == cells else 1  # of no square, cells in their order
    grid_bNHW = scores_bCN.mT.reshape(b, n, height, cells // height)
    with torch.no_grad():
        best_bNHW = F.max_pool2d(grid_bNHW, 3, 1, 1, return_indices=True)[1]  # equal scores are common in short formats
        is_peak = best_bNHW == torch.arange(cells, device=best_bNHW.device).view(height, -1)
    return (is_peak * grid_bNHW.sigmoid().square()).sum((2, 3)).to(scores_bCN.dtype)
