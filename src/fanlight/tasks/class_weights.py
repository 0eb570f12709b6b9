"""How much a sample of each class counts in the training loss. K classes, n_k training images of class k. NumPy only."""

import math
from collections.abc import Sequence

import numpy as np

from fanlight.errors import ConfigError, near

NAMES = ("balanced", "effective")
LEAST, MOST = 1e-6, 1e6  # of a weight that is given: float32 sums lose what is further from 1
BETA = 0.999  # of the effective number: beyond some 1 / (1 − β) images a class gains little by more


def of(text: str, *, classes: Sequence[str], counts: np.ndarray) -> tuple[float, ...]:
    """float [K]: the weights that `optim.class_weights` means, from the training images of each class, `counts` int [K].

    `balanced`: N / (K·n_k). `effective`: (1 − β) / (1 − β^n_k), the inverse of the effective number of images of Cui et
    al. 2019, times what makes the mean over training images 1, as `balanced` has it. `name=weight,…`: those classes so,
    the others 1. Classes without images weigh 1 and are none of the K. ConfigError for anything else.
    """
    counts = np.asarray(counts, np.float64)
    if text not in NAMES:
        return _explicit(text, classes)
    here = counts > 0
    weights = np.ones(len(counts))
    if not here.any():  # other images, to be evaluated only
        return tuple(weights.tolist())
    if text == "balanced":
        weights[here] = counts.sum() / (here.sum() * counts[here])
    else:
        weights[here] = (1 - BETA) / -np.expm1(counts[here] * math.log(BETA))
        weights[here] *= counts.sum() / (weights * counts).sum()
    return tuple(weights.tolist())


def words(weights: Sequence[float], classes: Sequence[str], *, most: int = 8) -> str:
    """`red 2.5, blue 0.4`: the heaviest and the lightest, heaviest first."""
    ranked = [f"{name} {weight:.3g}" for weight, name in sorted(zip(weights, classes), key=lambda pair: -pair[0])]
    return ", ".join(ranked if len(ranked) <= most else [*ranked[: most // 2], "…", *ranked[-most // 2 :]])


def _explicit(text: str, classes: Sequence[str]) -> tuple[float, ...]:
    ways = f"use {', '.join(NAMES)}, or name=weight pairs such as {classes[0]}=2,{classes[-1]}=0.5"
    weights: dict[str, float] = {}
    for pair in text.split(","):
        name, mark, number = (word.strip() for word in pair.rpartition("="))
        if not mark:
            raise ConfigError(f"optim.class_weights: {pair.strip()!r} is no name=weight; {ways}")
        if name not in classes:
            raise ConfigError(f"optim.class_weights: there is no class {name!r}.{near(name, classes)} {ways}")
        if name in weights:
            raise ConfigError(f"optim.class_weights names {name} twice; keep one of them")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = math.nan
        if not LEAST <= weights[name] <= MOST:  # 0 could leave a whole batch without weight
            raise ConfigError(
                f"optim.class_weights: {name}={number} should be a number above 0, from {LEAST:g} to {MOST:g}"
            )
    return tuple(weights.get(name, 1.0) for name in classes)
