"""What both caption decoders are made of. b images, k captions of each, L words of a caption, T = L - 1 that are read and
predicted; F numbers of a grid cell, D width, V words of the vocabulary."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fanlight.models.detect import FIRST, Seen, WordDetector
from fanlight.models.told import Words


class State(Protocol):
    """What a decoder knows of b images and the m captions of each that it is writing."""

    def pick(self, parents_bm: Tensor) -> None:
        """Caption j of an image goes on as its caption `parents[j]` was."""
        ...


class Decoder(nn.Module):
    """Grid features to logits. `forward` is told the words before (teacher forcing), `start` and `step` write them.

    Embedding and output are one matrix (Press and Wolf 2017), held once, by the embedding.
    """

    def __init__(
        self, *, features: int, cells: int, words: int, longest: int, width: int, dropout: float, streams: int = 1,
        detects: bool = True,
    ):  # fmt: skip
        """`longest`: words of a caption with START and END. `streams`: equal parts of the features, each of which sees something
        else (small_grid.py). `detects`: whether cells say which words they see (detect.py)."""
        super().__init__()
        self.words = Words()
        self.width, self.longest = width, longest
        self.detector = WordDetector(features=features, words=words, streams=streams, width=width) if detects else None
        # Of several streams attention sees the last one, and words: what was never seen together stays apart.
        self.entering = features // streams if detects else features
        self.enter = nn.Linear(self.entering, width)
        self.cell_position = nn.Parameter(torch.empty(cells, width))
        self.enter_norm = nn.LayerNorm(width)
        self.embed = nn.Embedding(words, width)
        self.output_bias = nn.Parameter(torch.zeros(words))
        self.drop = OncePerCaption(dropout)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        nn.init.normal_(self.cell_position, std=width**-0.5)

    def told(self, words: Tensor) -> None:
        """Before each forward: int [b, k, L], as Words.set takes them."""
        self.words.set(words)

    def forward(self, features_bCF: Tensor) -> Tensor:
        """[b, cells, F] to logits [b, k, L, V], contiguous: at t, of word t given those before it; and at 0, in START's
        place, the image's score of each word that is looked for (others: 0). Without a detector [b, k, L - 1, V], from word 1
        on."""
        words_bkL = self.words.of(len(features_bCF), features_bCF.device)
        if words_bkL.shape[2] > self.longest:
            raise ValueError(
                f"captions of {words_bkL.shape[2]} words with START and END, the decoder was made for {self.longest}"
            )
        seen = None if self.detector is None else self.detector(features_bCF)
        logits = self.logits(self.read(words_bkL[:, :, :-1], self._memory(features_bCF, seen)))
        if seen is None or self.detector is None:
            return logits
        scores_bN = self.detector.of_image(seen, self.embed.weight)
        seen_bV = F.pad(scores_bN, (FIRST, logits.shape[3] - FIRST - scores_bN.shape[1])).to(logits.dtype)
        return torch.cat([seen_bV[:, None, None].expand(-1, logits.shape[1], -1, -1), logits], 2)

    @abstractmethod
    def read(self, words_bkT: Tensor, memory_bCD: Tensor) -> Tensor:
        """What is known after each word, [b, k, T, D], from that word, those before it and the image."""

    @abstractmethod
    def start(self, features_bCF: Tensor, *, captions: int) -> State:
        """Before the first of at most `longest` - 1 words of so many captions of each image."""

    @abstractmethod
    def step(self, words_bm: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Takes one word of each caption; logits [b, m, V] of the next, and attention [b, m, cells], which sums to 1."""

    def memory(self, features_bCF: Tensor) -> Tensor:
        """What attention looks at, [b, cells, D]."""
        return self._memory(features_bCF, None if self.detector is None else self.detector(features_bCF))

    def _memory(self, features_bCF: Tensor, detected: Seen | None) -> Tensor:
        if features_bCF.shape[1] != len(self.cell_position):
            raise ValueError(
                f"images of {features_bCF.shape[1]} grid cells, the decoder was made for {len(self.cell_position)}"
            )
        seen = self.enter_norm(self.enter(features_bCF[..., -self.entering :]) + self.cell_position)
        if self.detector is None or detected is None:
            return seen
        return seen + self.detector.in_words(detected, self.embed.weight)

    def embedded(self, words: Tensor) -> Tensor:
        """[…] to [… D], of deviation 1 at first, as the matrix suits the output's side."""
        return self.embed(words) * self.width**0.5

    def logits(self, hidden: Tensor) -> Tensor:
        """[… D] to [… V]."""
        return F.linear(hidden, self.embed.weight, self.output_bias)


class OncePerCaption(nn.Module):
    """Dropout of [b, k, T, D] that drops the same channels at every word of a caption (Gal and Ghahramani 2016): keyed by
    sample it costs one hash per channel, and further padding changes nothing."""

    def __init__(self, p: float):
        super().__init__()
        self.ones = nn.Dropout(p)

    def forward(self, x_bkTD: Tensor) -> Tensor:
        if not self.training:
            return x_bkTD
        b, k, _, d = x_bkTD.shape
        return x_bkTD * self.ones(x_bkTD.new_ones((b, k, d)))[:, :, None]
