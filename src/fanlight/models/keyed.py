"""Dropout and drop-path whose randomness is a hash of (seed, epoch, sample, draw), so that any number of ranks, any
microbatches and a recomputed forward drop the same things.

B samples, N elements of one sample. The hash is the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) in
int64 arithmetic that wraps around; the upper 24 of its 64 bits are a float32 in [0, 1).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as int64; so below
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_DOMAIN = 0x6B65796564  # keeps these draws apart from the loader's, which hash the same four numbers


class Keys:
    """Which samples the next forward sees. One per model, shared by its keyed modules; set before every forward."""

    def __init__(self) -> None:
        self.now: Tensor | None = None  # int64 [B]; what a forward that is computed again puts back

    def set(self, *, seed: int, epoch: int, samples: Tensor) -> None:
        """`samples`: int64 [B], the numbers of the batch's samples in the dataset, on the model's device."""
        if samples.dtype != torch.int64 or samples.ndim != 1:
            raise ValueError(f"samples should be int64 [B], got {samples.dtype} {list(samples.shape)}")
        keys_B = torch.full_like(samples, _DOMAIN)
        for word in (seed, epoch, samples):
            keys_B = _mix(keys_B + _GOLDEN + word)
        self.now = keys_B

    def of_draw(self, draw: int) -> Tensor:
        """int64 [B]: what the elements of one dropout are hashed by, for each sample."""
        if self.now is None:
            raise RuntimeError("a keyed dropout ran before its keys were set: call Keys.set before the forward")
        return _mix(self.now + _GOLDEN + draw)

    def uniforms(self, draw: int, *, rows: int, count: int) -> Tensor:
        """float32 [B, count] in [0, 1): row b depends on (seed, epoch, sample b, draw) alone. `rows` must be B."""
        keys_B = self.of_draw(draw)
        if len(keys_B) != rows:
            raise ValueError(
                f"a keyed dropout got {rows} rows, its keys are of {len(keys_B)} samples: set the keys of this "
                "very batch; a layer that folds other dimensions into the batch cannot be keyed"
            )
        index_N = torch.arange(1, count + 1, device=keys_B.device)
        return (
            _mix(keys_B[:, None] + index_N * _GOLDEN).bitwise_right_shift(40).bitwise_and(0xFFFFFF).float() * 2.0**-24
        )


class KeyedDropout(nn.Module):
    """Elements (`whole_channels`: channels) of [B, C, ...] become 0 with probability `p`, the rest grow by 1/(1-p)."""

    def __init__(self, p: float, *, draw: int, keys: Keys, whole_channels: bool = False):
        super().__init__()
        self.p, self.draw, self.keys, self.whole_channels = p, draw, keys, whole_channels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        shape = x.shape[:2] + (1,) * (x.ndim - 2) if self.whole_channels else x.shape
        return _drop(x, self.p, self.keys.uniforms(self.draw, rows=len(x), count=math.prod(shape[1:])).view(shape))

    def extra_repr(self) -> str:
        return f"p={self.p}, draw={self.draw}, whole_channels={self.whole_channels}"


class KeyedDropPath(nn.Module):
    """Whole samples of a residual branch become 0 with probability `p`; the rest grow by 1/(1-p) where `scale` says."""

    def __init__(self, p: float, *, draw: int, keys: Keys, scale: bool = True):
        super().__init__()
        self.p, self.draw, self.keys, self.scale = p, draw, keys, scale

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        uniforms = self.keys.uniforms(self.draw, rows=len(x), count=1).view(-1, *(1,) * (x.ndim - 1))
        return _drop(x, self.p, uniforms, scale=self.scale)

    def extra_repr(self) -> str:
        return f"p={self.p}, draw={self.draw}, scale={self.scale}"


def install(model: nn.Module) -> Keys:
    """Puts keyed modules in place of every dropout and drop-path module with p > 0; draws are numbered in module order.

    Do it once, on the whole model, before it is cut, so that a stage keeps its numbers. `unkeyed` lists what is left.
    """
    keys = Keys()
    draw = 0
    for name, module in list(model.named_modules()):
        keyed = _keyed(module, draw, keys)
        if keyed is not None:
            keyed.train(module.training)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, keyed)
            draw += 1
    return keys


def holds(model: nn.Module) -> bool:
    """Whether a forward of `model` asks for keys."""
    return any(isinstance(module, (KeyedDropout, KeyedDropPath)) for module in model.modules())


def unkeyed(model: nn.Module) -> list[str]:
    """Names of modules that draw from the global generator in training: functional dropout, and kinds without a keyed
    form. The model's own name is an empty string."""
    return [name for name, module in model.named_modules() if _draws_unkeyed(module)]


def _keyed(module: Any, draw: int, keys: Keys) -> nn.Module | None:
    """timm's DropPath and torchvision's StochasticDepth are known by name: importing either library takes seconds."""
    kind = type(module).__name__
    if type(module) is nn.Dropout and module.p > 0:
        return KeyedDropout(module.p, draw=draw, keys=keys)
    if isinstance(module, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)) and module.p > 0:
        return KeyedDropout(module.p, draw=draw, keys=keys, whole_channels=True)
    if kind == "DropPath" and (module.drop_prob or 0) > 0:
        return KeyedDropPath(module.drop_prob, draw=draw, keys=keys, scale=getattr(module, "scale_by_keep", True))
    if kind == "StochasticDepth" and module.mode == "row" and module.p > 0:
        return KeyedDropPath(module.p, draw=draw, keys=keys)
    return None


def _draws_unkeyed(module: Any) -> bool:
    kind = type(module).__name__
    if isinstance(module, nn.modules.dropout._DropoutNd) or kind == "StochasticDepth":
        return module.p > 0
    if kind in ("DropPath", "DropBlock2d"):
        return (module.drop_prob or 0) > 0
    if kind.startswith("PatchDropout"):
        return module.prob > 0
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    if getattr(module, "fused_attn", False) and getattr(getattr(module, "attn_drop", None), "p", 0) > 0:
        return True  # scaled_dot_product_attention takes the probability and never calls the module
    rate = getattr(module, "drop_rate", 0)
    held = {child.p for child in module.modules() if isinstance(child, (KeyedDropout, nn.Dropout))}
    return isinstance(rate, float) and rate > 0 and rate not in held  # else it is F.dropout in the forward


def _drop(x: Tensor, p: float, uniforms: Tensor, *, scale: bool = True) -> Tensor:
    kept = (uniforms >= p).to(x.dtype)
    return x * (kept / (1 - p) if scale and p < 1 else kept)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * _FIRST
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * _SECOND
    return z ^ (z >> 31 & (1 << 33) - 1)
