"""The optimizer over `parts`, what this rank holds: decay by shape, clipping by the global norm, loss scaling."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fanlight import config as configuration
from fanlight.errors import ConfigError
from fanlight.parallel.held import local
from fanlight.train import schedule

NAMES = configuration.OPTIMIZERS
MOMENTS = {"sgd": 1, "adamw": 2}  # numbers that are kept per parameter
SCALE_START = 2.0**14  # of the fp16 loss: doubled after SCALE_PATIENCE good steps, halved at each overflow
SCALE_PATIENCE = 500
MEASURED = 1 << 22  # parameters of an update that is only timed
SCALE_LEAST = 2.0**-14  # where a step still overflows, it is the gradients that are not finite, not the scale


class Optimizer:
    """torch's optimizer, its learning rate by step, clipping and the fp16 loss scale; knows parameters by name."""

    def __init__(
        self, parts: Sequence[nn.Module], config: configuration.Optim, *, steps: int, scaled: bool, first_step: int = 0,
        lr_scale: float = 1.0, total_norm: Callable[[Mapping[str, torch.Tensor]], torch.Tensor] | None = None,
    ):  # fmt: skip
        """`total_norm`: of the whole gradient, from this rank's parts by name; None: they are all of it."""
        if config.name not in NAMES:
            raise ConfigError(f"optim.name is {config.name!r}; use one of {', '.join(NAMES)}")
        assert config.lr is not None and config.weight_decay is not None, "resolved before training"
        self.config, self.steps, self.first_step, self.lr_scale = config, steps, first_step, lr_scale
        self._total_norm = total_norm or (lambda own: torch.nn.utils.get_total_norm(list(own.values())))
        self._asked = {name: p for part in parts for name, p in part.named_parameters() if p.requires_grad}
        # What moves is this rank's part of a sharded parameter: plain tensors, for plain arithmetic. Some parts are empty.
        self.named = {name: _own(p) for name, p in self._asked.items()}
        self.named = {name: p for name, p in self.named.items() if p.numel()}
        self.loss_scale = SCALE_START if scaled else 1.0
        self._scaled, self._good_steps = scaled, 0
        self._norm: torch.Tensor | None = None  # of gradients that have not moved anything yet
        # Norms, biases and other vectors are not decayed: they have no redundancy that decay could remove.
        decayed = [p for p in self.named.values() if p.ndim > 1]
        others = [p for p in self.named.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise ConfigError("a rank holds no parameter that trains; use fewer ranks, or another --layout")
        self.torch = _of_torch(groups, config)

    def lr(self, step: int) -> float:
        """The learning rate of optimizer step `step` of the run, from 0; the schedule is of `steps` from `first_step`."""
        share = schedule.factor(step - self.first_step, steps=self.steps, optim=self.config)
        assert self.config.lr is not None
        return self.config.lr * self.lr_scale * share

    def update(self, step: int) -> torch.Tensor:
        """`ready` and `move`: for who has nothing to do between them."""
        norm = self.ready()
        self.move(step)
        return norm

    def ready(self) -> torch.Tensor:
        """The global norm of the gradients, which are whole on this rank now, on the device. Collective where ranks hold
        parts.

        Gradients that are not finite will move nothing. In fp16 they halve the loss scale, and the step has norm 0; else
        the norm says so, and the run ends where the ledger reads it, with the losses: here it would be waiting for a GPU.
        """
        for name, own in self.named.items():
            gradient = self._asked[name].grad
            own.grad = gradient if gradient is None else local(gradient)
        norm = (
            self._total_norm({name: p.grad for name, p in self.named.items() if p.grad is not None}) / self.loss_scale
        )
        self._norm = norm
        if self._scaled and not torch.isfinite(norm):
            self.loss_scale, self._good_steps = self.loss_scale / 2, 0
            self._clear()
            return norm if self.loss_scale < SCALE_LEAST else torch.zeros_like(norm)
        return norm

    def move(self, step: int) -> None:
        """One step on the gradients that `ready` has seen, then clears them. No collective."""
        norm, self._norm = self._norm, None
        assert norm is not None, "ready() first"
        is_spoiled = ~torch.isfinite(norm)
        if self._scaled and is_spoiled:
            return
        divisor: torch.Tensor | None = None
        if self._scaled or self.config.clip_norm is not None:
            divisor = torch.full_like(norm, self.loss_scale)
            if self.config.clip_norm is not None:
                divisor = divisor * torch.clamp((norm + 1e-6) / self.config.clip_norm, min=1.0)
            self._grow_scale()
        for group in self.torch.param_groups:
            group["lr"] = self.lr(step)
        # The fused update divides by it as it reads the gradients: clipping and unscaling cost no pass of their own. And
        # it leaves everything as it is where the second is 1, which the host need not wait to know.
        self.torch.grad_scale = None if divisor is None else divisor.float()  # type: ignore[attr-defined]
        self.torch.found_inf = is_spoiled.float()  # type: ignore[attr-defined]
        self.torch.step()
        self._clear()

    def _clear(self) -> None:
        for parameter in (*self._asked.values(), *self.named.values()):
            parameter.grad = None

    def _grow_scale(self) -> None:
        """After a good fp16 step."""
        if self._scaled:
            self._good_steps += 1
            if self._good_steps % SCALE_PATIENCE == 0:
                self.loss_scale *= 2

    def tensors(self) -> dict[str, torch.Tensor]:
        """`optim.<parameter>.<state>` of every state that exists: the same keys in every layout."""
        found = {}
        for name, parameter in self.named.items():
            for key, value in self.torch.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    found[f"optim.{name}.{key}"] = value
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Takes back what `tensors` gave."""
        saved: dict[str, list[str]] = {}
        for key in tensors:
            kind, _, rest = key.partition(".")
            if kind == "optim":
                saved.setdefault(rest.rpartition(".")[0], []).append(key)
        for name, parameter in self.named.items():
            state = {key.rpartition(".")[2]: tensors[key] for key in saved.get(name, ())}
            if state:  # in the parameter's memory format: files hold none, and mixed formats are slow
                self.torch.state[parameter] = {
                    key: value.to(parameter.device, copy=True)
                    if key == "step"
                    else torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                    for key, value in state.items()
                }

    def scalars(self) -> dict[str, float]:
        return {"loss_scale": self.loss_scale, "good_steps": self._good_steps}

    def restore_scalars(self, scalars: dict[str, float]) -> None:
        self.loss_scale, self._good_steps = scalars["loss_scale"], int(scalars["good_steps"])


def seconds_per_parameter(config: configuration.Optim, device: torch.device) -> float:
    """What norm and update take for each of many parameters, more than caches hold; the fastest of a few, measured now."""
    made_up = nn.Parameter(torch.zeros(MEASURED, device=device))
    optimizer = _of_torch([{"params": [made_up]}], replace(config, lr=0.0))  # no rate takes longer than another
    took_s = []
    for _ in range(4):
        made_up.grad = torch.zeros_like(made_up)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        float(torch.nn.utils.get_total_norm([made_up.grad]))
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took_s.append(time.perf_counter() - begin)
    return min(took_s[1:]) / MEASURED  # the first makes the optimizer's state


def _of_torch(groups: list[dict[str, Any]], config: configuration.Optim) -> torch.optim.Optimizer:
    assert config.lr is not None, "an open rate would train nothing"
    if config.name == "sgd":
        momentum = config.momentum
        return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _own(parameter: nn.Parameter) -> nn.Parameter:
    """This rank's part of a parameter as a parameter by itself, of the same memory; a whole one as it is."""
    part = local(parameter.detach())
    return parameter if not hasattr(parameter, "to_local") else nn.Parameter(part)
