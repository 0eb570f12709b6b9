"""Writing captions word by word: greedy, or by a beam of m captions of each image, b images together. T words at most, V of
the vocabulary.

A caption's score is the sum of its words' log-probabilities, its END among them, divided by their number to the power
`length_power`: at 1 the mean of a word, at 0 the plain sum, which prefers short captions. At each word an image keeps the m
likeliest captions that go on; one that is among the m likeliest and has come to its END, or is cut off at T words, is a
candidate, and the best candidate is the answer. An image is done when it has m candidates, or when no caption that goes on
could become better than the best: rows of other images decide nothing. One beam is the greedy caption. PAD and START are
never written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fanlight.errors import ConfigError, RunError
from fanlight.models.captioner import Captioner
from fanlight.models.decoder import Decoder
from fanlight.types import END, PAD, START

LENGTH_POWER = 1.0
assert (PAD, START, END) == (0, 1, 2)  # what is never written comes before END


@dataclass(frozen=True)
class Captions:
    """One of each image."""

    ids: Tensor  # int64 [b, T]: words, END where it came, then PAD
    log_probability: Tensor  # [b], the sum over its words and END
    attention: Tensor  # [b, T, cells]: where the decoder looked before it wrote each word; 0 after the last


class Written(NamedTuple):
    """One word of every caption that goes on."""

    words_bm: Tensor
    parents_bm: Tensor  # whose continuation it is, among the captions before this word
    attention_bmC: Tensor  # of the parents


@torch.inference_mode()
def generate(
    model: Captioner, images: Tensor, *, beams: int = 1, longest: int | None = None, length_power: float = LENGTH_POWER
) -> Captions:
    """Captions of images [b, 3, P, P] by a model in eval mode. `longest` counts START and END, as Vocabulary.encode does, and
    is the decoder's own by default; T is one less."""
    return write(model.decoder, model.features(images), beams=beams, longest=longest, length_power=length_power)


@torch.inference_mode()
def write(
    decoder: Decoder, features: Tensor, *, beams: int = 1, longest: int | None = None,
    length_power: float = LENGTH_POWER,
) -> Captions:  # fmt: skip
    """`generate` from what the decoder sees of b images, [b, cells, F]."""
    most = _words_most(decoder, beams=beams, longest=longest)
    b, m = len(features), beams
    state = decoder.start(features, captions=m)
    words_bm = torch.full((b, m), START, device=features.device)
    sums_bm = features.new_full((b, m), -torch.inf, dtype=_exact(features.dtype))
    sums_bm[:, 0] = 0  # all captions begin alike: only one of them is any
    best = _Best(sums_bm[:, 0], beams=m)
    written: list[Written] = []
    for t in range(most):
        logits_bmV, attention_bmC = decoder.step(words_bm, state)
        log_p_bmV = logits_bmV.to(sums_bm.dtype).log_softmax(2)
        log_p_bmV[:, :, :END] = -torch.inf
        # Of 2m continuations at most m are at their END, one of each caption: m others are left.
        sums_bn, at_bn = (sums_bm[:, :, None] + log_p_bmV).flatten(1).topk(2 * m)
        parents_bn, words_bn = at_bn // logits_bmV.shape[2], at_bn % logits_bmV.shape[2]
        ends_bn = words_bn == END
        best.see(
            sums_bn[:, :m], words_bn[:, :m], parents_bn[:, :m], is_whole=ends_bn[:, :m] | (t + 1 == most), at=t,
            scale=(t + 1) ** length_power,
        )  # fmt: skip
        sums_bm, rank_bm = sums_bn.masked_fill(ends_bn, -torch.inf).topk(m)
        parents_bm, words_bm = parents_bn.gather(1, rank_bm), words_bn.gather(1, rank_bm)
        written.append(Written(words_bm, parents_bm, attention_bmC))
        # A sum only falls; divided by most words it falls least.
        if not best.goes_on(sums_bm[:, 0] / most**length_power):
            break
        state.pick(parents_bm)
    return best.captions(written, most)


def _words_most(decoder: Decoder, *, beams: int, longest: int | None) -> int:
    longest = decoder.longest if longest is None else longest
    if not 2 <= longest <= decoder.longest:
        raise ConfigError(
            f"captions of {longest} words with START and END cannot be written: the decoder was made for {decoder.longest}"
        )
    if beams < 1:
        raise ConfigError(f"{beams} beams cannot write a caption; 1 is greedy, 3 to 5 are usual")
    if decoder.training:
        raise RuntimeError("a decoder in training mode drops what it should say: call eval() before")
    return longest - 1


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Of sums: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


class _Best:
    """The best candidate of each image so far, by where it stands among what is written."""

    def __init__(self, like_b: Tensor, *, beams: int):
        self._beams = beams
        self._score_b = torch.full_like(like_b, -torch.inf)
        self._sum_b = self._score_b.clone()
        self._at_b, self._word_b, self._parent_b, self._count_b = (
            torch.zeros_like(like_b, dtype=torch.int64) for _ in range(4)
        )
        self._open_b = torch.ones_like(like_b, dtype=torch.bool)

    def see(
        self, sums_bm: Tensor, words_bm: Tensor, parents_bm: Tensor, *, is_whole: Tensor, at: int, scale: float
    ) -> None:
        """The likeliest captions with their word number `at`; those that are whole are candidates."""
        is_candidate = is_whole & self._open_b[:, None] & (sums_bm > -torch.inf)
        self._count_b = self._count_b + is_candidate.sum(1)
        score_b, first_b = (sums_bm / scale).masked_fill(~is_candidate, -torch.inf).max(1)
        is_better = score_b > self._score_b

        def keep(old_b: Tensor, new_bm: Tensor) -> Tensor:
            return torch.where(is_better, new_bm.gather(1, first_b[:, None])[:, 0], old_b)

        self._score_b = torch.where(is_better, score_b, self._score_b)
        self._sum_b, self._word_b = keep(self._sum_b, sums_bm), keep(self._word_b, words_bm)
        self._parent_b = keep(self._parent_b, parents_bm)
        self._at_b = self._at_b.masked_fill(is_better, at)

    def goes_on(self, hope_b: Tensor) -> bool:
        """Whether an image is not done. `hope_b`: no caption that goes on can score more. Waits for the device."""
        self._open_b = self._open_b & (self._count_b < self._beams) & (hope_b > self._score_b)
        return bool(self._open_b.any())

    def captions(self, written: list[Written], most: int) -> Captions:
        """Read backwards, from the last word of each to its first."""
        if not bool(self._score_b.isfinite().all()):
            raise RunError(
                "the decoder's log-probabilities are not finite, so nothing can be written; use other weights"
            )
        b, cells = len(self._score_b), written[0].attention_bmC.shape[2]
        ids_bT = self._at_b.new_full((b, most), PAD)
        attention_bTC = written[0].attention_bmC.new_zeros((b, most, cells))
        caption_b = torch.zeros_like(self._at_b)  # which of the captions that go on after word t
        for t in range(len(written) - 1, -1, -1):
            words_bm, parents_bm, attention_bmC = written[t]
            is_last, is_inside = self._at_b == t, self._at_b > t
            word_b = words_bm.gather(1, caption_b[:, None])[:, 0]
            caption_b = torch.where(is_last, self._parent_b, parents_bm.gather(1, caption_b[:, None])[:, 0])
            ids_bT[:, t] = torch.where(is_last, self._word_b, torch.where(is_inside, word_b, PAD))
            seen_bC = attention_bmC[torch.arange(b, device=caption_b.device), caption_b]
            attention_bTC[:, t] = seen_bC * (is_last | is_inside)[:, None]
        return Captions(ids_bT, self._sum_b, attention_bTC)
