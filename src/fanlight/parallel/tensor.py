"""Tensor parallelism: pairs of layers whose hidden channels are divided over ranks (Shoeybi et al. 2019, "Megatron-LM").

T ranks see the same rows. Of a pair, the first layer keeps this rank's output channels, the second the same input
channels; the second's outputs are summed over ranks. What lies outside pairs is whole on every rank and computed by each,
from the same numbers, so its gradients are equal without being exchanged; where devices add in an order of chance, the first
rank's are taken (keep_equal).

Sent per pair and microbatch: one all-reduce of the second's output in the forward, one of the first's input gradient in
the backward.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fanlight.errors import ConfigError
from fanlight.models import cut
from fanlight.parallel import comm, held
from fanlight.parallel.held import Held

CHECK_RTOL = (
    1e-3  # of the largest output: fp32 sums over thousands of channels in another order; a wrong cut is off by 1
)


@dataclass(frozen=True)
class Pair:
    """Names inside a block: `first` makes the hidden channels, `second` consumes them, `norm` lies between with weights
    and statistics per channel; what else is registered between the two must treat every element alike."""

    first: str
    second: str
    norm: str = ""
    heads: str = ""  # the attention module whose heads the hidden channels are; empty: they are channels


_MLP = Pair("mlp.fc1", "mlp.fc2")
_ATTENTION = Pair("attn.qkv", "attn.proj", heads="attn")
TABLE: dict[str, tuple[Pair, ...]] = {  # by the block's class
    "BasicBlock": (Pair("conv1", "conv2", norm="bn1"),),
    "Bottleneck": (Pair("conv2", "conv3", norm="bn2"),),
    "ConvNeXtBlock": (_MLP,),
    "CNBlock": (Pair("block.3", "block.5"),),  # torchvision's ConvNeXt
    "Block": (_ATTENTION, _MLP),
    "DecoderBlock": (_ATTENTION, _MLP),  # of captions; what looks at the grid stays whole
}


@dataclass(frozen=True)
class Division:
    """What `divide` did: which part this rank has of the tensors that are no longer whole, and words for the user."""

    held: dict[str, Held]  # by the names of parameters and buffers
    divided: int  # blocks
    whole: dict[str, int]  # class -> blocks that stay whole on every rank, because the table lacks them
    notes: tuple[str, ...]


def divide(model: nn.Module, *, group: dist.ProcessGroup | None, rank: int, ranks: int) -> Division:
    """Divides the pairs of every block of `model` that TABLE knows, in place; `rank` of the `ranks` of `group`.

    Names stay. ConfigError, naming block and reason, where a pair cannot be divided, and where no block can.
    """
    found: dict[str, Held] = {}
    stay: Counter[str] = Counter()
    divided = 0
    for name in cut.blocks(model):
        block = model.get_submodule(name)
        pairs = TABLE.get(_kind(block))
        if pairs is None:
            stay[_kind(block)] += 1
            continue
        for pair in pairs:
            _refuse(block, name, pair, ranks=ranks)
        for pair in pairs:
            found |= _divide(block, name, pair, group=group, rank=rank, ranks=ranks)
        divided += 1
    if not divided:
        kinds = ", ".join(sorted(stay)) or "none that repeat"
        raise ConfigError(
            f"layout with tensor={ranks}: {type(model).__name__} has no block that can be divided (its blocks: {kinds}; can be: "
            f"{', '.join(TABLE)}); use another --layout or --model"
        )
    notes = [
        f"{count} blocks of class {kind} stay whole on every rank: tensor parallelism does not know them"
        for kind, count in stay.items()
    ]
    return Division(found, divided, dict(stay), tuple(notes))


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Inside, a GPU computes fp32 as fp32: TF32 would hide what a comparison looks for."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


@torch.no_grad()
def outputs(model: nn.Module, example: Tensor) -> Tensor:
    """Outputs of `example` in eval mode; changes neither mode nor buffers."""
    with cut.modes_kept([model]):
        return model.eval()(example)


def check(model: nn.Module, expected: Tensor, example: Tensor) -> None:
    """ConfigError unless the divided `model` says of `example` what the whole one did: `expected`, by `outputs`."""
    got = outputs(model, example)
    off = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not off <= CHECK_RTOL:
        raise ConfigError(
            f"{type(model).__name__}, divided over ranks, computes something else (off by {off:.1e} of the largest output); use "
            "another --layout or --model"
        )


@torch.no_grad()
def keep_equal(parts: Sequence[nn.Module], divided: Container[str], group: dist.ProcessGroup | None) -> None:
    """Gradients and running statistics of what is whole on every rank become those of the group's first rank. They are equal
    but for what a GPU, or another machine, adds in another order; without this the copies would drift apart."""
    assert group is not None
    # Of a parameter that is sharded besides, the ranks of this group hold the same rows.
    named = [(name, held.local(p.grad)) for part in parts for name, p in part.named_parameters() if p.grad is not None]
    named += [(name, b) for part in parts for name, b in part.named_buffers() if b.is_floating_point()]
    whole = [value for name, value in named if name not in divided and value.numel()]
    for dtype in {value.dtype for value in whole}:
        values = [value for value in whole if value.dtype == dtype]
        flat = torch.cat([comm.dense(value).view(-1) for value in values])
        if dist.get_rank(group) == 0:
            comm.sent["copies"] += flat.nbytes
        dist.broadcast(flat, group=group, group_src=0)
        for value, piece in zip(values, flat.split([value.numel() for value in values])):
            comm.dense(value).view(-1).copy_(piece)


def _kind(block: nn.Module) -> str:
    """The class that TABLE and the user know."""
    return type(block).__name__


def _child(block: nn.Module, name: str) -> nn.Module | None:
    try:
        return block.get_submodule(name)
    except AttributeError:
        return None


def _between(block: nn.Module, pair: Pair) -> list[tuple[str, nn.Module]]:
    """Modules that are registered after `first` and before `second`, beside them, with their names; not the norm."""
    parent, _, first = pair.first.rpartition(".")
    names = [name for name, _ in block.get_submodule(parent).named_children()]
    between = names[names.index(first) + 1 : names.index(pair.second.rpartition(".")[2])]
    paths = [f"{parent}.{name}" if parent else name for name in between]
    return [(path, block.get_submodule(path)) for path in paths if path != pair.norm]


def _refuse(block: nn.Module, name: str, pair: Pair, *, ranks: int) -> None:
    """ConfigError where a division would compute something else."""

    def no(why: str) -> ConfigError:
        return ConfigError(
            f"block {name!r} of class {_kind(block)} cannot be divided over {ranks} ranks: {why}; use another --layout or --model"
        )

    first: Any = _child(block, pair.first)
    second: Any = _child(block, pair.second)
    for at, layer in ((pair.first, first), (pair.second, second)):
        if type(layer) not in (nn.Conv2d, nn.Linear):
            raise no(f"its {at} is {type(layer).__name__}, not a convolution or linear layer")
        if getattr(layer, "groups", 1) != 1:
            raise no(f"its {at} is a grouped convolution, whose channels belong together")
    between = _child(block, pair.norm) if pair.norm else None
    if pair.norm and not isinstance(between, (nn.BatchNorm2d, nn.Identity)):
        raise no(f"its {pair.norm} is {type(between).__name__}, which is no norm per channel")
    if pair.heads:  # before what lies between, which has names of its own there
        attention: Any = block.get_submodule(pair.heads)
        wanted = ("num_heads", "head_dim", "scale", "qkv", "proj", "q_norm", "k_norm", "attn_drop", "proj_drop")
        if type(attention).__name__ != "Attention" or any(not hasattr(attention, at) for at in wanted):
            raise no(f"its {pair.heads} is {type(attention).__name__}, which is not known")
        odd = [
            at
            for at in ("q_norm", "k_norm", "norm")
            if not isinstance(getattr(attention, at, nn.Identity()), nn.Identity)
        ]
        odd += ["gate"] if getattr(attention, "gate", None) is not None else []
        if odd:
            raise no(f"its {pair.heads} has {odd[0]}, whose weights all heads share")
        if attention.num_heads < ranks:
            raise no(f"it has only {attention.num_heads} heads")
    for at, module in _between(block, pair):
        if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
            raise no(f"its {at} ({type(module).__name__}) mixes the channels between {pair.first} and {pair.second}")
        if getattr(module, "p", 0):
            raise no(
                f"its {at} drops elements of the channels in between, which no rank sees whole; use a model without it"
            )
    hidden = second.weight.shape[1]
    if hidden < ranks:
        raise no(f"it has only {hidden} hidden channels")


def _divide(block: Any, name: str, pair: Pair, *, group: Any, rank: int, ranks: int) -> dict[str, Held]:
    """One pair. Which part of each tensor stays here."""
    first, second = block.get_submodule(pair.first), block.get_submodule(pair.second)
    hidden = second.weight.shape[1]
    if pair.heads:
        attention = block.get_submodule(pair.heads)
        width = attention.head_dim
        low, high = (bound * width for bound in held.share(attention.num_heads, index=rank, of=ranks))
        attention.num_heads = (high - low) // width
        attention.__class__ = _Heads if type(attention) is not _Heads else type(attention)
        rows = {"weight": 3, "bias": 3}
    else:
        low, high = held.share(hidden, index=rank, of=ranks)
        rows = {"weight": 1, "bias": 1}
    found: dict[str, Held] = {}

    def keep(at: str, module: nn.Module, key: str, part: Held) -> None:
        old = getattr(module, key)
        kept = held.cut(old.detach(), part)
        if isinstance(old, nn.Parameter):
            setattr(module, key, nn.Parameter(kept, requires_grad=old.requires_grad))
        else:
            setattr(module, key, kept)
        found[f"{name}.{at}.{key}"] = part

    for key, count in rows.items():
        if getattr(first, key) is not None:
            keep(pair.first, first, key, held.groups(getattr(first, key).shape, count=count, start=low, stop=high))
    keep(pair.second, second, "weight", held.stretch(second.weight.shape, dim=1, start=low, stop=high))
    norm = _child(block, pair.norm) if pair.norm else None
    if isinstance(norm, nn.BatchNorm2d):
        for key in ("weight", "bias", "running_mean", "running_var"):
            if getattr(norm, key) is not None:
                keep(pair.norm, norm, key, held.stretch((norm.num_features,), dim=0, start=low, stop=high))
        norm.num_features = high - low
    for layer, way in ((first, "first"), (second, "second")):
        layer.__class__ = _LAYERS[type(layer).__name__, way]
        layer.__dict__["fanlight_tensor_group"] = group  # no parameter, buffer or submodule
    _say_width(first, outputs=first.weight.shape[0])
    _say_width(second, inputs=high - low)
    return found


def _say_width(layer: Any, *, outputs: int | None = None, inputs: int | None = None) -> None:
    """What the layer says of itself, as its weights are now."""
    names = ("out_channels", "in_channels") if hasattr(layer, "out_channels") else ("out_features", "in_features")
    for key, value in zip(names, (outputs, inputs)):
        if value is not None:
            setattr(layer, key, value)


class _Enter(torch.autograd.Function):
    """Forward: nothing. Backward: gradients of all ranks are summed, since each saw some of the channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return comm.summed(gradient.clone(), ctx.group), None  # cloned: a shortcut may hold the same tensor


class _Leave(torch.autograd.Function):
    """Forward: partial outputs of all ranks are summed, in place. Backward: nothing, each part of a sum has its gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, group: Any) -> Tensor:
        ctx.mark_dirty(y)
        return comm.summed(y, group)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient, None


class _FirstConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_Enter.apply(x, self.fanlight_tensor_group))


class _FirstLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_Enter.apply(x, self.fanlight_tensor_group))


class _SecondConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        y = _Leave.apply(self._conv_forward(x, self.weight, None), self.fanlight_tensor_group)
        return y if self.bias is None else y + self.bias.to(y.dtype).view(1, -1, 1, 1)  # once, after the sum


class _SecondLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = _Leave.apply(F.linear(x, self.weight), self.fanlight_tensor_group)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Heads(nn.Module):
    """timm's Attention with some of its heads: the width between the projections is theirs, not the input's."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        a: Any = self
        batch, tokens, _ = x.shape
        q, k, v = a.qkv(x).reshape(batch, tokens, 3, a.num_heads, a.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=a.scale)
        return a.proj_drop(a.proj(y.transpose(1, 2).reshape(batch, tokens, a.num_heads * a.head_dim)))


_LAYERS: dict[tuple[str, str], type[nn.Module]] = {
    ("Conv2d", "first"): _FirstConv2d, ("Linear", "first"): _FirstLinear,
    ("Conv2d", "second"): _SecondConv2d, ("Linear", "second"): _SecondLinear,
}  # fmt: skip
