"""Attention + LSTM: an LSTM reads the words, each of its outputs looks at the grid (Luong et al. 2015, global dot attention).

The image also makes the LSTM's first state. What attention found does not enter the LSTM again, so all words of a caption
are read by one call and look at the grid by one product. Letters as in decoder.py; n = b·k captions, N layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fanlight.models.decoder import Decoder, OncePerCaption
from fanlight.models.decoder import State as AnyState


@dataclass
class State:
    memory_bCD: Tensor
    hidden_NnD: Tensor
    cell_NnD: Tensor

    def pick(self, parents_bm: Tensor) -> None:
        b, m = parents_bm.shape
        rows_n = (parents_bm + m * torch.arange(b, device=parents_bm.device)[:, None]).flatten()
        self.hidden_NnD = self.hidden_NnD.index_select(1, rows_n)
        self.cell_NnD = self.cell_NnD.index_select(1, rows_n)


class LSTMDecoder(Decoder):
    def __init__(
        self, *, features: int, cells: int, words: int, longest: int, width: int = 256, layers: int = 1,
        dropout: float = 0.3, streams: int = 1, detects: bool = True,
    ):  # fmt: skip
        super().__init__(
            features=features, cells=cells, words=words, longest=longest, width=width, dropout=dropout, streams=streams,
            detects=detects,
        )  # fmt: skip
        self.first = nn.Linear(width, 2 * layers * width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.ask = nn.Linear(width, width, bias=False)
        self.join = nn.Linear(2 * width, width)
        self.drop_read = OncePerCaption(dropout)

    def read(self, words_bkT: Tensor, memory_bCD: Tensor) -> Tensor:
        b, k, t = words_bkT.shape
        x_bkTD = self.drop(self.embedded(words_bkT))
        hidden_nTD, _ = self._lstm(x_bkTD.flatten(0, 1), self._first(memory_bCD, captions=k))
        joined_bTD, _ = self._look(hidden_nTD.reshape(b, k * t, -1), memory_bCD)
        return self.drop_read(joined_bTD.view(b, k, t, -1))

    def start(self, features_bCF: Tensor, *, captions: int) -> State:
        memory_bCD = self.memory(features_bCF)
        return State(memory_bCD, *self._first(memory_bCD, captions=captions))

    def step(self, words_bm: Tensor, state: AnyState) -> tuple[Tensor, Tensor]:
        assert isinstance(state, State)
        b, m = words_bm.shape
        x_nTD = self.embedded(words_bm).view(b * m, 1, -1)
        hidden_nTD, (state.hidden_NnD, state.cell_NnD) = self._lstm(x_nTD, (state.hidden_NnD, state.cell_NnD))
        joined_bmD, attention_bmC = self._look(hidden_nTD.view(b, m, -1), state.memory_bCD)
        return self.logits(joined_bmD), attention_bmC

    def _first(self, memory_bCD: Tensor, *, captions: int) -> tuple[Tensor, Tensor]:
        """Hidden and cell state of every layer before the first word, [N, n, D] each."""
        made = self.first(memory_bCD.mean(1)).tanh().view(len(memory_bCD), 1, 2, self.lstm.num_layers, -1)
        hidden, cell = made.expand(-1, captions, -1, -1, -1).flatten(0, 1).permute(1, 2, 0, 3)
        return hidden.contiguous(), cell.contiguous()

    def _lstm(self, x_nTD: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """In the weights' own precision: a recurrence adds up what a short format rounds off, and CPUs have no other."""
        dtype = self.embed.weight.dtype
        with torch.autocast(x_nTD.device.type, enabled=False):
            return self.lstm(x_nTD.to(dtype), (state[0].to(dtype), state[1].to(dtype)))

    def _look(self, hidden_bQD: Tensor, memory_bCD: Tensor) -> tuple[Tensor, Tensor]:
        """What Q outputs find in the image, joined with them, [b, Q, D], and where they looked, [b, Q, cells]."""
        scores_bQC = self.ask(hidden_bQD) @ memory_bCD.mT * self.width**-0.5
        attention_bQC = scores_bQC.softmax(2)
        found_bQD = attention_bQC.to(memory_bCD.dtype) @ memory_bCD
        return self.join(torch.cat([found_bQD, hidden_bQD.to(found_bQD.dtype)], 2)).tanh(), attention_bQC
