"""Learning rates by optimizer step: pure functions, so a resumed run needs no state but the step."""

import math

from fanlight.errors import ConfigError

NAMES = ("cosine", "onecycle", "constant")
FLOOR = 1e-2  # of the peak: the last steps still move
ONECYCLE_START = 0.04  # of the peak: Smith and Topin 2017 begin at 1/25


def factor(step: int, *, steps: int, name: str, warmup_share: float) -> float:
    """Share of the peak learning rate that step `step` (from 0) of `steps` uses."""
    if name not in NAMES:
        raise ConfigError(f"optim.schedule is {name!r}; use one of {', '.join(NAMES)}")
    warmup = min(steps - 1, math.ceil(warmup_share * steps))
    if step < warmup:
        low = ONECYCLE_START if name == "onecycle" else 0.0
        return low + (1 - low) * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if name == "constant":
        return 1.0
    if name == "cosine":  # Loshchilov and Hutter 2016, without restarts
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0 - done * (1 - FLOOR * ONECYCLE_START)  # onecycle: linear down to almost nothing
