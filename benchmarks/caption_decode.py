"""Captions per second beside Hugging Face's `generate`, both with one decoder: the same weights, widths, layers, beams and
lengths, cached.

    scratch/peervenv/bin/python benchmarks/caption_decode.py

The peer is mBART's decoder (pre-norm, learned positions, tied embedding) without the norm that it alone has behind the
embedding; it gets our weights and the grid that our decoder looks at, which both make anew each time. Sentences are compared
first, then both are timed in alternating rounds. Weights are random, so almost every caption has the full length; what is
timed is the same work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fanlight import machine
from fanlight.models import decode
from fanlight.models.decoder_transformer import TransformerDecoder
from fanlight.types import END, PAD, START
from hardware import heading, ratio_interval


def decoder_of(a: argparse.Namespace) -> TransformerDecoder:
    torch.manual_seed(0)
    decoder = TransformerDecoder(
        features=512, cells=a.cells, words=a.words, longest=a.longest, width=a.width, layers=a.layers
    )
    with torch.no_grad():
        for p in decoder.parameters():  # fresh biases are 0, and a wrong place for one would not be seen
            p.add_(torch.randn_like(p) * 0.02)
    return decoder.eval()


def peer_of(own: TransformerDecoder, a: argparse.Namespace) -> Any:
    """The same decoder as transformers has it."""
    from transformers import MBartConfig, MBartForConditionalGeneration

    heads = own.blocks[0].attn.num_heads  # type: ignore[union-attr]
    config = MBartConfig(
        vocab_size=a.words, d_model=a.width, encoder_layers=0, decoder_layers=a.layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * a.width, decoder_ffn_dim=4 * a.width,
        max_position_embeddings=a.longest, activation_function="gelu", scale_embedding=True, dropout=0.0,
        pad_token_id=PAD, bos_token_id=START, eos_token_id=END, decoder_start_token_id=START, forced_eos_token_id=None,
    )  # fmt: skip
    model: Any = MBartForConditionalGeneration(config).eval()
    peer = model.model.decoder
    peer.layernorm_embedding = nn.Identity()
    with torch.no_grad():
        model.model.shared.weight.copy_(own.embed.weight)
        model.tie_weights()
        model.final_logits_bias.copy_(own.output_bias[None])
        peer.embed_positions.weight[2:].copy_(
            own.position.new_zeros(a.longest, a.width)
        )  # its first two stand for nothing
        peer.embed_positions.weight[2 : 1 + a.longest].copy_(own.position * a.width**0.5)
        copy(own.norm, peer.layer_norm)
        for mine, its in zip(own.blocks, peer.layers):
            block: Any = mine
            split(block.attn.qkv, its.self_attn.q_proj, its.self_attn.k_proj, its.self_attn.v_proj)
            copy(block.attn.proj, its.self_attn.out_proj)
            copy(block.look.q, its.encoder_attn.q_proj)
            split(block.look.kv, its.encoder_attn.k_proj, its.encoder_attn.v_proj)
            copy(block.look.proj, its.encoder_attn.out_proj)
            copy(block.mlp.fc1, its.fc1), copy(block.mlp.fc2, its.fc2)
            copy(block.norm1, its.self_attn_layer_norm), copy(block.norm2, its.encoder_attn_layer_norm)
            copy(block.norm3, its.final_layer_norm)
    return model


def copy(mine: Any, its: Any) -> None:
    its.weight.copy_(mine.weight)
    its.bias.copy_(mine.bias)


def split(mine: Any, *its: Any) -> None:
    """One layer's rows among several."""
    for layer, weight, bias in zip(its, mine.weight.chunk(len(its)), mine.bias.chunk(len(its))):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def contestants(
    own: TransformerDecoder, peer: Any, features: Tensor, *, beams: int, longest: int
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    from transformers.modeling_outputs import BaseModelOutput

    def ours() -> Tensor:
        return decode.write(own, features, beams=beams).ids

    @torch.inference_mode()
    def its() -> Tensor:
        memory = own.memory(features)  # ours makes it as well
        found = peer.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory), num_beams=beams, do_sample=False, early_stopping=beams > 1,
            length_penalty=1.0, max_length=longest, suppress_tokens=[PAD, START], use_cache=True,
        )[:, 1:]  # fmt: skip
        return nn.functional.pad(found, (0, longest - 1 - found.shape[1]), value=PAD)

    return ours, its


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in {
        "words": 8000,
        "width": 512,
        "layers": 3,
        "cells": 49,
        "longest": 20,
        "batch": 32,
        "n": 7,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--threads", type=int, default=machine.cores_usable())
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    import transformers

    transformers.logging.set_verbosity_error()
    own = decoder_of(a)
    peer = peer_of(own, a).to(a.device)
    own.to(a.device)
    features = torch.randn(a.batch, a.cells, 512, generator=torch.Generator().manual_seed(1)).to(a.device)
    print(heading("Captions written per second, beside transformers " + transformers.__version__))
    print(
        f"Width {a.width}, {a.layers} layers, vocabulary {a.words}, {a.cells} cells, {a.longest - 1} words at most, "
        f"{a.batch} images at once, {a.threads} threads, {a.device}; {a.n} alternating rounds after one of warm-up.\n"
    )
    print("| beams | equal sentences | captions/s | transformers | ratio | 95 % |\n|--:|--:|--:|--:|--:|--:|")
    for beams in a.beams:
        ways = contestants(own, peer, features, beams=beams, longest=a.longest)
        mine, its = (way() for way in ways)
        equal = float((mine == its).all(1).float().mean())
        if equal < 0.9:  # near ties may fall either way in fp32
            raise SystemExit(f"with {beams} beams only {equal:.0%} of the sentences are equal: not the same decoder")
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(a.n):
            for way, took in zip(ways, seconds):
                begin = time.perf_counter()
                way().cpu()
                took.append(time.perf_counter() - begin)
        ratio, low, high = ratio_interval(seconds[1], seconds[0])
        rates = [a.batch / median(took) for took in seconds]
        print(f"| {beams} | {equal:.0%} | {rates[0]:.1f} | {rates[1]:.1f} | {ratio:.2f} | {low:.2f} … {high:.2f} |")


if __name__ == "__main__":
    main()
