"""Train the last layer only: everything before it is in evaluation mode, its weights and statistics stay as they are."""

import types

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fanlight.models.zoo import head

_MARK = (
    "fanlight_frozen"  # of a frozen network: the name of the layer that trains, and of what else asked for gradients
)


def freeze(model: nn.Module) -> None:
    """All parameters but the last layer's stop asking for gradients; the BatchNorms among them stay in eval mode, also
    after `model.train()`, or their running statistics would move although their weights do not."""
    name = head(model)
    last = model.get_submodule(name)
    own = {id(parameter) for parameter in last.parameters()}
    names = [key for key, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    model.requires_grad_(False)
    last.requires_grad_(True)
    vars(model)[_MARK] = name, names
    kept = set(last.modules())
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module not in kept:
            module.__dict__["train"] = types.MethodType(
                _stay_in_eval, module
            )  # a bound method is copied with its module
            module.train(False)


def unfreeze(model: nn.Module) -> None:
    """Takes `freeze` back; the modes follow with the next `train_mode`."""
    _, names = vars(model).pop(_MARK)
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    for module in model.modules():
        module.__dict__.pop("train", None)


def train_mode(model: nn.Module) -> None:
    """`model.train()`; of a frozen network only the last layer, so that an image has the same features at every look.

    Norms with frozen weights are in eval mode whether `freeze` saw them or they were exchanged since.
    """
    model.train()
    if _MARK in vars(model):
        model.eval()
        model.get_submodule(vars(model)[_MARK][0]).train()
        return
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
