"""The optimizer over `parts`, what this rank holds: decay by shape, clipping by the global norm, loss scaling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fanlight import config as configuration
from fanlight.errors import ConfigError
from fanlight.train import schedule

NAMES = ("sgd", "adamw")
SCALE_START = 2.0**14  # of the fp16 loss: doubled after SCALE_PATIENCE good steps, halved at each overflow
SCALE_PATIENCE = 500


class Optimizer:
    """torch's optimizer, its learning rate by step, clipping and the fp16 loss scale; knows parameters by name."""

    def __init__(self, parts: Sequence[nn.Module], config: configuration.Optim, *, steps: int, scaled: bool):
        if config.name not in NAMES:
            raise ConfigError(f"optim.name is {config.name!r}; use one of {', '.join(NAMES)}")
        assert config.lr is not None and config.weight_decay is not None, "resolved before training"
        self.config, self.steps = config, steps
        self.named = {name: p for part in parts for name, p in part.named_parameters() if p.requires_grad}
        self.loss_scale = SCALE_START if scaled else 1.0
        self._scaled, self._good_steps = scaled, 0
        # Norms, biases and other vectors are not decayed: they have no redundancy that decay could remove.
        decayed = [p for p in self.named.values() if p.ndim > 1]
        others = [p for p in self.named.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if config.name == "sgd":
            momentum = config.momentum
            self.torch: torch.optim.Optimizer = torch.optim.SGD(
                groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0
            )
        else:
            self.torch = torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, config.beta2))

    def lr(self, step: int) -> float:
        """The learning rate of optimizer step `step`, from 0."""
        share = schedule.factor(
            step, steps=self.steps, name=self.config.schedule, warmup_share=self.config.warmup_share
        )
        return float(self.config.lr or 0.0) * share

    def update(self, step: int) -> None:
        """One step on gradients that are whole on this rank, then clears them. fp16 steps that overflowed are skipped."""
        gradients = [p.grad for p in self.named.values() if p.grad is not None]
        if self._scaled:
            norm = torch.nn.utils.get_total_norm(gradients)
            if not torch.isfinite(norm):
                self.loss_scale, self._good_steps = self.loss_scale / 2, 0
                self.torch.zero_grad(set_to_none=True)
                return
            torch._foreach_mul_(gradients, 1.0 / self.loss_scale)
            self._good_steps += 1
            if self._good_steps % SCALE_PATIENCE == 0:
                self.loss_scale *= 2
        if self.config.clip_norm is not None:
            norm = torch.nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, torch.clamp(self.config.clip_norm / (norm + 1e-6), max=1.0))
        for group in self.torch.param_groups:
            group["lr"] = self.lr(step)
        self.torch.step()
        self.torch.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        """`optim.<parameter>.<state>` of every state that exists: the same keys in every layout."""
        found = {}
        for name, parameter in self.named.items():
            for key, value in self.torch.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    found[f"optim.{name}.{key}"] = value
        return found

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes back what `tensors` gave."""
        for name, parameter in self.named.items():
            prefix = f"optim.{name}."
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if state:  # in the parameter's memory format: files hold none, and mixed formats are slow
                self.torch.state[parameter] = {
                    key: value.clone() if key == "step" else torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                    for key, value in state.items()
                }

    def scalars(self) -> dict[str, float]:
        return {"loss_scale": self.loss_scale, "good_steps": self._good_steps}

    def restore_scalars(self, scalars: dict[str, float]) -> None:
        self.loss_scale, self._good_steps = scalars["loss_scale"], int(scalars["good_steps"])
