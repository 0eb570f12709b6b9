"""A Transformer decoder: pre-norm blocks of self-attention, attention on the grid, and an MLP (Vaswani et al. 2017; pre-norm:
Xiong et al. 2020), learned positions. Letters as in decoder.py; h heads of d numbers, S past words of all m captions of an
image, Q queries.

PAD follows a caption and no word looks ahead, so no word sees a PAD and none needs a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.models.decoder import Decoder, OncePerCaption
from fanlight.models.decoder import State as AnyState

HEAD_WIDTH, HEADS_LEAST = 64, 4  # of wide decoders, and of narrow ones: four questions about the image at a time
NARROW = 128  # width below which nothing needs dropping


class Attention(nn.Module):
    """Of words on words of their caption. Under timm's names, which tensor parallelism knows; it may take heads away."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, width // heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm, self.attn_drop, self.proj_drop = (nn.Identity() for _ in range(4))
        self.proj = nn.Linear(width, width)

    def forward(self, x_nTD: Tensor, is_causal: bool = False) -> Tensor:
        q, k, v = self.parts(x_nTD)
        return self.proj(_merged(F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)))

    def parts(self, x_nTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [n, h, T, d] each."""
        n, t, _ = x_nTD.shape
        q, k, v = self.qkv(x_nTD).view(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return q, k, v


class Look(nn.Module):
    """Attention of words on the grid."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_bQD: Tensor, memory_bCD: Tensor) -> Tensor:
        k, v = self.grid(memory_bCD)
        return self.proj(_merged(F.scaled_dot_product_attention(_split(self.q(x_bQD), self.heads), k, v)))

    def grid(self, memory_bCD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the cells, [b, h, C, d] each."""
        k, v = self.kv(memory_bCD).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def seen(self, x_bQD: Tensor, grid: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The forward, and where it looked, [b, Q, cells], the mean over heads."""
        k, v = grid
        q = _split(self.q(x_bQD), self.heads)
        attention_bhQC = (q @ k.mT * q.shape[3] ** -0.5).softmax(3)
        return self.proj(_merged(attention_bhQC.to(v.dtype) @ v)), attention_bhQC.mean(1)


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, *, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.look = nn.LayerNorm(width), Look(width, heads)
        self.norm3, self.mlp = nn.LayerNorm(width), Mlp(width)
        self.drop1, self.drop2, self.drop3 = (OncePerCaption(dropout) for _ in range(3))

    def forward(self, x_bkTD: Tensor, memory_bCD: Tensor) -> Tensor:
        x = x_bkTD
        x = x + self.drop1(self.attn(self.norm1(x).flatten(0, 1), is_causal=True).view(x.shape))
        x = x + self.drop2(self.look(self.norm2(x).flatten(1, 2), memory_bCD).view(x.shape))
        return x + self.drop3(self.mlp(self.norm3(x)))

    def step(self, x_bmD: Tensor, past: Past, state: State) -> tuple[Tensor, Tensor]:
        """The forward for one word of each caption; and where it looked, [b, m, cells]."""
        q, k, v = self.attn.parts(self.norm1(x_bmD))
        keys, values = past.with_newest(k, v, at=state.at)
        found = F.scaled_dot_product_attention(q, keys, values, attn_mask=state.mask)
        x_bmD = x_bmD + self.attn.proj(_merged(found))
        found, attention_bmC = self.look.seen(self.norm2(x_bmD), past.grid)
        x_bmD = x_bmD + found
        return x_bmD + self.mlp(self.norm3(x_bmD)), attention_bmC


@dataclass
class Past:
    """Of one block. Keys and values stay where they were made; whose past they are is the state's mask."""

    keys_bhSd: Tensor
    values_bhSd: Tensor
    grid: tuple[Tensor, Tensor]  # keys and values of the cells, [b, h, C, d]

    def with_newest(self, k: Tensor, v: Tensor, *, at: int) -> tuple[Tensor, Tensor]:
        """All keys and values up to those of the newest words, [b, h, m, d], which go to their place."""
        end = at + k.shape[2]
        self.keys_bhSd[:, :, at:end], self.values_bhSd[:, :, at:end] = k, v
        return self.keys_bhSd[:, :, :end], self.values_bhSd[:, :, :end]


@dataclass
class State:
    past: list[Past]  # by block
    own_bmS: Tensor  # which words, read and to come, of all captions of an image are the caption's own
    words: int = 0  # read so far, of each caption

    @property
    def at(self) -> int:
        """Place of the newest words among all."""
        return self.words * self.own_bmS.shape[1]

    @property
    def mask(self) -> Tensor | None:
        """[b, 1, m, S], with the newest words; None where an image has one caption, whose past is all there is."""
        m = self.own_bmS.shape[1]
        return None if m == 1 else self.own_bmS[:, None, :, : self.at + m]

    def pick(self, parents_bm: Tensor) -> None:
        if parents_bm.shape[1] > 1:
            past, coming = self.own_bmS[:, :, : self.at], self.own_bmS[:, :, self.at :]
            self.own_bmS = torch.cat([past.gather(1, parents_bm[:, :, None].expand_as(past)), coming], 2)


class TransformerDecoder(Decoder):
    def __init__(
        self, *, features: int, cells: int, words: int, longest: int, width: int = 256, layers: int = 3,
        dropout: float | None = None, streams: int = 1, detects: bool = True,
    ):  # fmt: skip
        """`dropout`: 0.1, and none of narrow decoders, where nobody says."""
        if dropout is None:
            dropout = 0.0 if width < NARROW else 0.1
        super().__init__(
            features=features, cells=cells, words=words, longest=longest, width=width, dropout=dropout, streams=streams,
            detects=detects,
        )  # fmt: skip
        heads = max(HEADS_LEAST, width // HEAD_WIDTH)
        if width % heads:
            raise ConfigError(
                f"a transformer decoder of width {width} does not divide into heads; try {width // heads * heads}"
            )
        self.position = nn.Parameter(torch.empty(longest - 1, width))
        self.blocks = nn.ModuleList(DecoderBlock(width, heads=heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.position, std=width**-0.5)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def read(self, words_bkT: Tensor, memory_bCD: Tensor) -> Tensor:
        x_bkTD = self.drop(self._placed(words_bkT, slice(words_bkT.shape[2])))
        for block in self.blocks:
            x_bkTD = block(x_bkTD, memory_bCD)
        return self.norm(x_bkTD)

    def start(self, features_bCF: Tensor, *, captions: int) -> State:
        memory_bCD = self.memory(features_bCF)
        b, m, most = len(memory_bCD), captions, captions * (self.longest - 1)
        past = []
        for block in self._typed:
            k, v = block.look.grid(memory_bCD)
            grid = k.contiguous(), v.contiguous()  # else every step would copy them
            kept = grid[0].new_zeros((2, b, block.attn.num_heads, most, block.attn.head_dim))
            past.append(Past(kept[0], kept[1], grid))
        own_bmS = torch.eye(m, dtype=torch.bool, device=memory_bCD.device).repeat(1, self.longest - 1)
        return State(past, own_bmS.expand(b, m, most))

    def step(self, words_bm: Tensor, state: AnyState) -> tuple[Tensor, Tensor]:
        assert isinstance(state, State)
        x_bmD = self._placed(words_bm, state.words)
        attention_bmC = x_bmD
        for block, past in zip(self._typed, state.past):
            x_bmD, attention_bmC = block.step(x_bmD, past, state)
        state.words += 1
        return self.logits(self.norm(x_bmD)), attention_bmC

    def _placed(self, words: Tensor, at: int | slice) -> Tensor:
        """[… D] of words at a place, or [… T] at the places of a slice."""
        return self.embedded(words) + self.position[at] * self.width**0.5

    @property
    def _typed(self) -> list[DecoderBlock]:
        return [cast(DecoderBlock, block) for block in self.blocks]


def _split(x_bQD: Tensor, heads: int) -> Tensor:
    """[b, h, Q, d]."""
    return x_bQD.unflatten(2, (heads, -1)).transpose(1, 2)


def _merged(x_bhQd: Tensor) -> Tensor:
    """[b, Q, D]."""
    return x_bhQd.transpose(1, 2).flatten(2)
