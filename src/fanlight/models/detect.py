"""Words seen in cells: what a captioner learns of an image before it can put sentences together. b images, F numbers of a grid
cell, D a decoder's width, N words that are looked for.

Each cell scores each word, and an image's score of a word is its best cell's: learning from whole images which part of them
shows what (multiple instances; Fang et al. 2015 with noisy-or, here the maximum). Without it nothing tells the encoder what a
word looks like but a sentence's loss, by way of attention that does not know yet where to look.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fanlight.types import UNK

FIRST = UNK + 1  # of a vocabulary, the first that is a word
MOST = 1000  # words that are looked for, the most frequent ones, as Fang et al. have it
RARE = -3.0  # the score of a word before anything is learned: most words stand in few captions


def looked_for(words: int) -> int:
    """How many of a vocabulary of so many: those from FIRST on."""
    return min(words - FIRST, MOST)


class WordDetector(nn.Module):
    """[b, cells, F] to scores [b, cells, N], logits of what is seen there. An encoder of several streams (equal parts of F, none
    of which knows of the others) has each score alone, and the best counts: a stream that never saw a pair of attributes cannot
    veto what another one sees."""

    def __init__(self, *, features: int, words: int, streams: int):
        super().__init__()
        found = looked_for(words)
        self.streams = nn.ModuleList(nn.Linear(features // streams, found) for _ in range(streams))
        self.gain = nn.Parameter(torch.ones(1))  # a layout cannot shard a single number
        for stream in self.streams:
            nn.init.constant_(stream.bias, RARE)  # type: ignore[arg-type]

    def forward(self, features_bCF: Tensor) -> Tensor:
        parts = features_bCF.chunk(len(self.streams), 2)
        scores = [stream(part) for stream, part in zip(self.streams, parts, strict=True)]
        return scores[0] if len(scores) == 1 else torch.stack(scores).amax(0)

    def in_words(self, scores_bCN: Tensor, embedding_VD: Tensor) -> Tensor:
        """What each cell sees, in the words' own embeddings, [b, cells, D]: sentences can take their words from there, also
        those that never stood together."""
        seen_bCN, found = scores_bCN.sigmoid(), scores_bCN.shape[2]
        words_ND = embedding_VD[FIRST : FIRST + found].to(seen_bCN.dtype)
        return self.gain.to(seen_bCN.dtype) * embedding_VD.shape[1] ** 0.5 * (seen_bCN @ words_ND)
