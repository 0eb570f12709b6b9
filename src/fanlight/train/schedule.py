"""Learning rates by optimizer step: pure functions, so a resumed run needs no state but the step."""

from __future__ import annotations

import math

from fanlight import config as configuration
from fanlight.errors import ConfigError

NAMES = ("cosine", "onecycle", "step", "wsd", "constant")
FLOOR = 1e-2  # of the peak: the last steps still move
ONECYCLE_START = 0.04  # of the peak: Smith and Topin 2017 begin at 1/25


def check(optim: configuration.Optim) -> None:
    """Raises ConfigError for a schedule that does not exist, or whose parts do not fit into one run."""
    if optim.schedule not in NAMES:
        raise ConfigError(f"optim.schedule is {optim.schedule!r}; use one of {', '.join(NAMES)}")
    shares = optim.step_shares
    if not 0 < optim.step_gamma < 1:
        raise ConfigError(f"optim.step_gamma is {optim.step_gamma}; the rate is multiplied by it: above 0, below 1")
    if not (shares[0] > 0 and shares[-1] < 1 and list(shares) == sorted(set(shares))):
        raise ConfigError(f"optim.step_shares is {shares}; they must be shares between 0 and 1, lowest first")
    if optim.schedule == "step" and shares[0] <= optim.warmup_share:
        raise ConfigError(
            f"optim.step_shares begin at {shares[0]}, within the warm-up of {optim.warmup_share}; "
            f"use a later first share, or optim.warmup_share below {shares[0]}"
        )
    if not 0 < optim.decay_share <= 1:
        raise ConfigError(f"optim.decay_share is {optim.decay_share}; it must be a share above 0 and at most 1")
    if optim.schedule == "wsd" and optim.warmup_share + optim.decay_share > 1:
        raise ConfigError(
            f"optim.warmup_share {optim.warmup_share} and optim.decay_share {optim.decay_share} add up to more than 1; "
            f"use optim.decay_share {1 - optim.warmup_share:g} or less"
        )


def factor(step: int, *, steps: int, optim: configuration.Optim) -> float:
    """Share of the peak learning rate that step `step` (from 0) of `steps` uses, in (0, 1].

    Every schedule rises evenly to the peak, is at the peak in the step after the warm-up, and never rises again.
    """
    if optim.schedule not in NAMES:
        raise ConfigError(f"optim.schedule is {optim.schedule!r}; use one of {', '.join(NAMES)}")
    warmup = min(steps - 1, math.ceil(optim.warmup_share * steps))
    if step < warmup:
        low = ONECYCLE_START if optim.schedule == "onecycle" else 0.0
        return low + (1 - low) * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if optim.schedule == "constant":
        return 1.0
    if optim.schedule == "cosine":  # Loshchilov and Hutter 2016, without restarts
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))
    if optim.schedule == "step":  # He et al. 2015 drop by 10 at 1/2 and 3/4
        return optim.step_gamma ** sum(step > warmup and step >= share * steps for share in optim.step_shares)
    if optim.schedule == "wsd":  # Hägele et al. 2024, whose 1 − √ beat the linear decay
        decay = max(warmup, steps - math.ceil(optim.decay_share * steps))
        return 1.0 - math.sqrt(max(0, step - decay) / max(1, steps - decay))
    return 1.0 - done * (1 - FLOOR * ONECYCLE_START)  # onecycle: linear down to almost nothing
