"""Least squares of one curve, y = c ± log(1 + X θ) + noise, and profile intervals of θ. P values of y, K parameters, c free.

Parameters have bounds, 0 and `highest`, and truth may lie on one: σ = 0, κ = 0. There the usual intervals fail. So the fit
that intervals start from knows no bounds (superlinear points give σ < 0), where the theory holds, and the interval is
cut to the bounds afterwards: truth within the bounds is never cut away, so coverage stays. Bates and Watts 1988, chapter 6.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from fanlight.study.stats import LEVEL

STEPS = 100  # of Gauss–Newton; some 6 are used
HALVINGS = 40
RIDGE = 1e-12  # of columns of length 1: far ranks alone, such as 1000 and 1001, make them nearly one column
SETTLED = 1e-10  # share of the square that a step gains, at which no further step is made
CLOSE = 1e-6  # to which ends of intervals are found, of the best value
DOUBLINGS = 200  # of a bound that is infinite


class Curve:
    """y [P], X [P, K]; `sign` is that of the logarithm."""

    def __init__(self, y_P: np.ndarray, x_PK: np.ndarray, *, sign: int, highest: Sequence[float]) -> None:
        self.y_P, self.x_PK, self.sign, self.highest = y_P - y_P.mean(), x_PK, sign, highest

    def residuals(self, theta_K: np.ndarray) -> np.ndarray:
        """y less the curve [P], of mean 0; not finite where the curve is not defined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return _centred(self.y_P - self.sign * np.log(1 + self.x_PK @ theta_K))

    def square(self, theta_K: np.ndarray) -> float:
        """Sum of squared residuals; infinite where the curve is not defined."""
        rest_P = self.residuals(theta_K)
        square = float(rest_P @ rest_P)
        return square if np.isfinite(square) else np.inf

    def free(self, fixed: dict[int, float] | None = None, *, near: np.ndarray | None = None) -> np.ndarray:
        """θ [K] of the least square without bounds, parameters in `fixed` (within them) held: Gauss–Newton, steps halved.

        It starts `near`, or from 0, where every curve is defined, also with a parameter held within its bounds."""
        held = fixed or {}
        moved = [at for at in range(len(self.highest)) if at not in held]
        theta = np.zeros(len(self.highest)) if near is None else near.copy()
        for at, value in held.items():
            theta[at] = value
        if not np.isfinite(square := self.square(theta)):
            theta[moved] = 0.0
            square = self.square(theta)
        x_PM, ridge = self.x_PK[:, moved], RIDGE * np.eye(len(moved))
        for _ in range(STEPS if moved else 0):
            slope_PM = _centred(self.sign * x_PM / (1 + self.x_PK @ theta)[:, None])
            scale_M = np.sqrt((slope_PM**2).sum(0))  # columns of X differ by factors of the number of ranks
            slope_PM /= scale_M
            step_M = np.linalg.solve(slope_PM.T @ slope_PM + ridge, slope_PM.T @ self.residuals(theta)) / scale_M
            for halving in range(HALVINGS):
                trial = theta.copy()
                trial[moved] += step_M / 2**halving
                if (lower := self.square(trial)) <= square:
                    break
            else:
                break
            done = square - lower <= SETTLED * square
            theta, square = trial, lower
            if done:
                break
        return theta

    def bounded(self) -> np.ndarray:
        """θ [K] of the least square within the bounds: the free one, or the best with a parameter on a bound."""
        free = self.free()
        if all(0 <= value <= high for value, high in zip(free, self.highest)):
            return free
        edges = [(at, end) for at, high in enumerate(self.highest) for end in (0.0, high) if np.isfinite(end)]
        trials = [np.clip(self.free({at: end}), 0, self.highest) for at, end in edges]
        return min(trials, key=self.square)

    def interval(self, at: int, *, variance: float, freedom: int) -> tuple[float, float, str]:
        """Profile interval of parameter `at`, cut to its bounds, and a note where nothing of it lies within them.

        The values v whose least square, all other parameters fitted anew, exceeds the least by no more than t² · variance;
        t has `freedom` degrees of freedom. `variance` is that of one y.
        """
        free = last = self.free()
        least, limit = self.square(free), float(np.sqrt(variance) * stdtrit(freedom, (1 + LEVEL) / 2))

        def excess(value: float) -> float:  # of the root, which is nearly straight, so few steps find the ends
            nonlocal last
            last = self.free({at: value}, near=last)
            return float(np.sqrt(max(self.square(last) - least, 0.0))) - limit

        lowest, highest = 0.0, float(self.highest[at])
        start = float(np.clip(free[at], lowest, highest))
        if excess(start) > 0:
            note = f"the points ask for {free[at]:.3g}, beyond the bound {start:g} by more than their noise"
            return start, start, note
        close = max(CLOSE * start, 1e-12)
        low = lowest if excess(lowest) <= 0 else float(brentq(excess, lowest, start, xtol=close))
        end, step = highest, max(abs(start - free[at]), start, 1e-9)
        if not np.isfinite(end):
            end = start
            for _ in range(DOUBLINGS):
                end, step = end + step, 2 * step
                if excess(end) > 0:
                    break
        high = highest if excess(end) <= 0 else float(brentq(excess, start, end, xtol=close))
        return low, high, ""


def _centred(values_P: np.ndarray) -> np.ndarray:
    """Columns less their means."""
    return values_P - values_P.sum(0) / len(values_P)
