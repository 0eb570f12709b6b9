"""The training loop: a page. What a step computes is in step.py, what moves weights in optim.py; here is only the
order of events: batch, step, agree, move, and at an epoch's end evaluate, log, save, and perhaps stop early."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from fanlight.config import Train
from fanlight.data.loader import train_batches
from fanlight.errors import Stopped
from fanlight.train import clock as clocks
from fanlight.train.journal import Journal
from fanlight.train.ledger import APART_STEPS, Ledger
from fanlight.train.meter import Meter
from fanlight.train.stop import Wish
from fanlight.train.timelimit import Deadline
from fanlight.train.training import Training
from fanlight.types import Position

START = Position(0, 0)


@dataclass
class Progress:
    """How far a run is: with the tensors, all that a resumed run needs."""

    position: Position = START
    step: int = 0  # optimizer steps done
    train_s: float = 0.0  # seconds of training in earlier starts
    epoch_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    best: dict[str, float] = field(default_factory=dict)  # epoch and accuracy of the best evaluation
    waited: int = 0  # evaluations since that one

    def document(self) -> dict[str, Any]:
        return {
            "step": self.step, "epoch": self.position.epoch, "epoch_step": self.position.step, "train_s": self.train_s,
            "epoch_sums": self.epoch_sums, "best": self.best, "waited": self.waited,
        }  # fmt: skip

    @classmethod
    def of(cls, document: dict[str, Any]) -> Progress:
        position = Position(document["epoch"], document["epoch_step"])
        names = ("step", "train_s", "epoch_sums", "best", "waited")
        return cls(position, **{name: document[name] for name in names})

    def is_impatient(self, config: Train) -> bool:
        """Whether the run ends before its last epoch, for want of a better evaluation. The same on every rank."""
        is_last = self.position.epoch == config.epochs
        return config.patience is not None and self.waited >= config.patience and not is_last

    def is_trained(self, config: Train) -> bool:
        """Whether no step is left."""
        return self.position.epoch >= (config.epochs or 0) or self.is_impatient(config)


def run(t: Training, progress: Progress, journal: Journal, wish: Wish, *, deadline: Deadline | None = None) -> Progress:
    """Trains from `progress` to the last epoch, until patience ends, or past the `deadline`. Raises Stopped, after saving,
    when asked to; TrainingError when the loss or a gradient is not finite. `journal` receives everything that is worth
    keeping."""
    began = time.perf_counter() - progress.train_s
    clock, meter = clocks.StepClock(t.world.device, heartbeat=t.world.heartbeat), Meter.of(t)
    ledger = Ledger(t.world, every=APART_STEPS if t.layout.is_periodic else 1)
    ledger.epoch_sums[:] = progress.epoch_sums
    with journal.following(clock, meter, progress, epochs=t.config.train.epochs or 0):
        _begin(t, progress)
        if deadline is not None and progress.step and deadline.reached(t.world.any(deadline.is_over())):
            return progress  # killed after its last step, or continued when no time is left
        while not progress.is_trained(t.config.train):
            _train_phase(
                t, progress, journal, wish, clock=clock, meter=meter, ledger=ledger, began=began, deadline=deadline
            )  # fmt: skip
            if deadline is not None and deadline.was_reached:
                return progress
            journal.write_best(t)  # while the weights beside it are those that it was scored with
            _begin(t, progress)
    return progress


def _begin(t: Training, progress: Progress) -> None:
    """Readies the step of the phase that comes next. Not a part of any step's time."""
    t.enter(progress.position.epoch)
    t.feed()


def _train_phase(
    t: Training, progress: Progress, journal: Journal, wish: Wish, *, clock: clocks.StepClock, meter: Meter,
    ledger: Ledger, began: float, deadline: Deadline | None,
) -> None:  # fmt: skip
    """Steps until the phase ends, in which the same weights train. `began`: perf_counter less earlier starts' seconds."""
    assert t.phase is not None
    heartbeat, is_new = t.world.heartbeat, True  # a phase's and an epoch's first step may compile
    batches = train_batches(
        t.samples["train"], t.cutting, start=progress.position, epochs=t.phase.end,
        workers=t.config.execution.workers or 1, pin=t.world.device.type == "cuda",
    )  # fmt: skip
    with contextlib.closing(batches):
        while True:
            heartbeat.beat("input", step=progress.step)
            if is_new:
                heartbeat.announce("first step")
                meter.begin(progress.position.epoch)
            clock.begin()
            batch = None if progress.is_impatient(t.config.train) else next(batches, None)
            if batch is None:
                heartbeat.announce("end of phase")
                return
            clock.arrived()
            sums = t.step(batch, loss_scale=t.optimizer.loss_scale, clock=clock)
            norm = t.ready()
            clock.mark("optimizer")
            ledger.add(sums, denominator=batch.denominator, norm=norm)
            last = batch.position.step + 1 == t.steps_per_epoch
            stopping, saving, over = False, False, False
            meets = ledger.may_exchange and t.meets_after(progress.step)
            if last or ledger.is_due or meets or journal.is_save_step(progress.step + 1):
                heartbeat.enter("exchange")  # before weights move: that takes ranks unequally long, and none need wait
                stopping, saving, over = ledger.exchange(
                    step=progress.step + 1, stop=wish.asked, save=journal.save_is_due(progress.step + 1),
                    over=deadline is not None and deadline.is_over(),
                )  # fmt: skip
                clock.mark("rest")
            t.move(progress.step)
            clock.mark("optimizer")
            progress.step += 1
            progress.position = (
                Position(batch.position.epoch + 1, 0)
                if last
                else Position(batch.position.epoch, batch.position.step + 1)
            )
            clock.end(step=progress.step, epoch=batch.position.epoch, images=batch.rows)
            meter.stepped(is_last=last)
            heartbeat.announce("journal")  # evaluation, checkpoints, a terminal that does not read
            is_new = last
            journal.stepped(t, batch, ledger)
            if last:
                journal.close_epoch(t, progress, ledger.close_epoch(), deadline)
                if deadline is not None and not over:  # an evaluation may have taken what was left
                    over = t.world.any(deadline.is_over())
            progress.epoch_sums = ledger.epoch_sums.tolist()
            progress.train_s = time.perf_counter() - began
            if saving or stopping:
                journal.save(t, progress)
            if stopping and not progress.is_trained(t.config.train):
                raise Stopped(f"stopped after step {progress.step}; continue with: {journal.resume_command}")
            if deadline is not None and deadline.reached(over):
                return
