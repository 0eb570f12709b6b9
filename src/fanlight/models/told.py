"""The words that a caption decoder is told before each forward. b images of a microbatch, k captions of each, L words.

A captioner is a module of one input and one output, so that every layout can cut, copy and shard it as any other. The
words of the captions reach its decoder on a side way, like the keys of keyed dropout (keyed.py): set before each forward,
with the words of the very microbatch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fanlight.types import END, START


class Words:
    """Of the next forward. One per decoder; each thread has its own, as evaluation does several forwards at once. Those of
    threads that have ended go when the next are told: every evaluation has threads of its own."""

    def __init__(self) -> None:
        self._by_thread: dict[int, Tensor] = {}
        self._stands_in = False

    def set(self, words: Tensor) -> None:
        """`words`: integers [b, k, L] on the model's device; each caption START … END, then PAD; a slot of PAD alone is no
        caption."""
        if words.is_floating_point() or words.ndim != 3 or words.shape[2] < 2:
            raise ValueError(
                f"words should be integers [b, k, L] with L of 2 and more, got {words.dtype} {list(words.shape)}"
            )
        known = list(self._by_thread)  # asked before who lives: a thread that begins in between is not forgotten
        living = {thread.ident for thread in threading.enumerate()}
        for ended in filter(lambda ident: ident not in living, known):
            self._by_thread.pop(ended, None)
        self._by_thread[threading.get_ident()] = words.long()

    def of(self, rows: int, device: torch.device) -> Tensor:
        """int64 [b, k, L] for a forward of `rows` images."""
        if self._stands_in:
            return torch.tensor([START, END], device=device).expand(rows, 1, 2)
        words = self._by_thread.get(threading.get_ident())
        if words is None:
            raise RuntimeError("a decoder ran before it was told its words: call told(words) before the forward")
        if len(words) != rows:
            raise ValueError(
                f"a decoder got {rows} images, its words are of {len(words)}: tell it the words of this very batch; a "
                "layout that scatters batches itself cannot train captions"
            )
        return words

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, forwards of all threads see one empty caption for each image, however many: for checks by example, and
        where only the encoder's output is wanted."""
        before, self._stands_in = self._stands_in, True
        try:
            yield
        finally:
            self._stands_in = before


def words_of(model: nn.Module) -> Words | None:
    """The words of the model's decoder, also where `model` is a part that holds it; None without a decoder."""
    for module in model.modules():
        words = getattr(module, "words", None)
        if isinstance(words, Words):
            return words
    return None


@contextmanager
def standing_in(model: nn.Module) -> Iterator[None]:
    """`Words.standing_in` of the model's decoder; nothing for a model without one."""
    words = words_of(model)
    if words is None:
        yield
        return
    with words.standing_in():
        yield
