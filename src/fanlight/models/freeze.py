"""Train the last layer only: everything before it keeps its weights and its BatchNorm statistics."""

import types

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fanlight.models.zoo import head


def freeze(model: nn.Module) -> None:
    """All parameters but the last layer's stop asking for gradients; the BatchNorms among them stay in eval mode, also
    after `model.train()`, or their running statistics would move although their weights do not."""
    last = model.get_submodule(head(model))
    model.requires_grad_(False)
    last.requires_grad_(True)
    kept = set(last.modules())
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module not in kept:
            module.__dict__["train"] = types.MethodType(
                _stay_in_eval, module
            )  # a bound method is copied with its module
            module.train(False)


def train_mode(model: nn.Module) -> None:
    """`model.train()`, with frozen norms in eval mode whether `freeze` saw them or they were exchanged since."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        has_statistics = getattr(module, "running_mean", None) is not None
        if has_statistics and parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def trainable(model: nn.Module) -> int:
    """How many numbers the optimizer moves."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)
