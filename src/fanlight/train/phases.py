"""Which epochs train what: the last layer alone first, where the config says so, then everything. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from fanlight.config import Config
from fanlight.data import augment


@dataclass(frozen=True)
class Phase:
    """Epochs first … end−1. Each phase has a schedule of its own, from warm-up to its end."""

    first: int
    end: int
    is_frozen: bool  # only the last layer trains
    lr_scale: float = 1.0  # times optim.lr


def of(config: Config) -> tuple[Phase, ...]:
    """The phases of a resolved config, in order; together they are its epochs."""
    epochs, frozen = config.train.epochs or 0, config.model.freeze_epochs
    if not frozen:
        return (Phase(0, epochs, config.model.freeze),)
    scale = config.optim.unfrozen_lr_scale
    assert scale is not None, "resolved before training"
    return Phase(0, frozen, True), Phase(frozen, epochs, False, scale)


def at(config: Config, epoch: int) -> Phase:
    """The phase of `epoch`; beyond the end the last one."""
    found = of(config)
    return next((phase for phase in found if epoch < phase.end), found[-1])


def last_kind(config: Config) -> int:
    """The first epoch whose steps cost what the last one's do: rates before it are those of other work."""
    first = of(config)[-1].first
    if config.data.image_px_start is None:
        return first
    return max(first, augment.grown_epoch(config.train.epochs or 1))
