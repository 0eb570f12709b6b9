"""A user's wall-clock budget, from Enter to the last metric: how many epochs fit, and when training has to end.

The number of epochs is chosen before training, so that the learning rate anneals within the budget. Should a step take
longer than it was measured, training ends after the step that still fits, is evaluated, and is finished.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from fanlight.console import seconds_text
from fanlight.errors import ConfigError

EPOCHS_MOST = 100  # that are chosen, however long the budget: on small sets more rarely helps
SPARE = 0.15  # of what is left, kept free: input, checkpoints and other work of the machine are not in the measurement
EVALUATION_SHARE = 0.4  # of an image's training time: a forward is a third, and without a step's large batch
SAVE_S = 1.0  # for the last checkpoint and for writing the rows down


@dataclass(frozen=True)
class Plan:
    """What a run's parts take, in seconds."""

    start_s: float  # building the model, starting ranks
    epoch_s: float  # training one epoch
    evaluation_s: float  # scoring the validation images once
    final_s: float  # scoring everything at the end, saving, and what is written then

    def total_s(self, epochs: int, *, every: int) -> float:
        """Of a run that evaluates every so many epochs; the last evaluation is part of `final_s`."""
        return self.start_s + epochs * self.epoch_s + (epochs - 1) // every * self.evaluation_s + self.final_s

    def epochs_in(self, left_s: float, *, most: int, evaluations: int, every: int | None) -> int:
        """The most epochs whose run fits in `left_s`, up to `most`; 0 where one does not."""
        fits = 0
        for epochs in range(1, most + 1):
            if self.total_s(epochs, every=every or -(-epochs // evaluations)) <= left_s:
                fits = epochs
        return fits


def plan(
    *, step_s: float, batch: int, train: int, val: int, test: int, start_s: float, writing_s: float = 0.0
) -> Plan:  # fmt: skip
    """From a measured step of `batch` images and the numbers of images; `writing_s` is what a task of writing takes when
    training is over."""
    image_s = step_s / batch * EVALUATION_SHARE
    return Plan(start_s, train // batch * step_s, val * image_s, (val + test) * image_s + SAVE_S + writing_s)


def plan_on_features(
    *, step_s: float, feature_step_s: float, batch: int, train: int, val: int, test: int, start_s: float,
    writing_s: float = 0.0,
) -> Plan:  # fmt: skip
    """Where each image is computed once and its features are kept: from a measured step of the whole network, whose
    forward that is, and one of the last layer."""
    once_s = (train + val + test) * step_s / batch * EVALUATION_SHARE
    row_s = feature_step_s / batch
    final_s = (val + test) * row_s + SAVE_S + writing_s
    return Plan(start_s + once_s, train // batch * feature_step_s, val * row_s, final_s)


def epochs(found: Plan, *, limit_s: float, spent_s: float, evaluations: int, every: int | None) -> tuple[int, str]:
    """How many epochs to train, and why. ConfigError, with what would do, where not even one fits."""
    left_s = (limit_s - spent_s) * (1 - SPARE)
    fits = found.epochs_in(left_s, most=EPOCHS_MOST, evaluations=evaluations, every=every)
    one_s = found.total_s(1, every=1)
    if fits == 0:
        needed_s = spent_s + one_s / (1 - SPARE)
        raise ConfigError(
            f"train.time_limit_s is {limit_s:g}: one epoch and its evaluation take about {seconds_text(one_s)} here, "
            f"{seconds_text(spent_s)} are gone. Use --time-limit {round(needed_s * 1.05 + 1)}s or more, a smaller --model or "
            "--image-size, or fewer images by --limit"
        )
    said = f"{seconds_text(limit_s)} in all: an epoch takes {seconds_text(found.epoch_s)} here, measured"
    most = f"; more than {EPOCHS_MOST} are not chosen by themselves" if fits == EPOCHS_MOST else ""
    used_s = spent_s + found.total_s(fits, every=every or -(-fits // evaluations))
    return fits, f"{said}; about {seconds_text(used_s)} are used{most}"


@dataclass
class Deadline:
    """When training must end so that the last evaluation is done by then. Seconds; times since 1970."""

    limit_s: float
    entered: float
    before_s: float = 0.0  # what earlier starts of this run took
    step_s: float = 0.0  # until the next look at the clock
    reserve_s: float = 0.0  # for the evaluation, the saving and the writing that follow
    writing_s: float = 0.0  # of these, for what no evaluation before the end is like
    was_reached: bool = False  # it ended training

    @classmethod
    def of(
        cls, limit_s: float | None, estimate: dict[str, Any], *, entered: float, before_s: float, looks_every: int = 1
    ) -> Deadline | None:
        """None without a limit. `estimate`: what was measured before training, as run.json has it; ranks look at the clock
        every so many steps."""
        if limit_s is None:
            return None
        return cls(
            limit_s, entered, before_s, looks_every * estimate.get("step_s", 0.0), estimate.get("final_s", SAVE_S),
            estimate.get("writing_s", 0.0),
        )  # fmt: skip

    def learn(self, evaluation_s: float, *, images: int, final: int) -> None:
        """An evaluation of `images` took so long; `final` images will be scored at the end."""
        self.reserve_s = SAVE_S + evaluation_s / max(1, images) * final + self.writing_s

    def is_over(self) -> bool:
        """Whether another step, with what follows training, would end later than the limit."""
        return self.before_s + time.time() - self.entered + self.step_s + self.reserve_s >= self.limit_s

    def reached(self, over: bool) -> bool:
        """Takes down what the ranks agreed on, and gives it back."""
        self.was_reached = self.was_reached or over
        return over

    def words(self, *, step: int, steps: int, lr_share: float) -> str:
        """What happened; `lr_share`: the learning rate it ended at, as a share of the peak."""
        return (
            f"--time-limit {seconds_text(self.limit_s)} was reached after step {step} of {steps}: training ended there and was "
            f"evaluated, with the learning rate at {lr_share:.0%} of its peak. Fewer --epochs, or a longer limit, anneal it"
        )
