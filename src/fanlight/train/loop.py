"""The training loop: a page. What a step computes is in step.py, what moves weights in optim.py; here is only the
order of events: batch, step, update, agree, and at an epoch's end evaluate, log, save."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from fanlight.data.loader import train_batches
from fanlight.errors import Stopped
from fanlight.train import clock as clocks
from fanlight.train.build import Training
from fanlight.train.journal import Journal
from fanlight.train.ledger import Ledger
from fanlight.train.stop import Wish
from fanlight.types import Position

START = Position(0, 0)


@dataclass
class Progress:
    """How far a run is: with the tensors, all that a resumed run needs."""

    position: Position = START
    step: int = 0  # optimizer steps done
    train_s: float = 0.0  # seconds of training in earlier starts
    epoch_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    best: dict[str, float] = field(default_factory=dict)  # epoch and accuracy of the best evaluation

    def document(self) -> dict[str, Any]:
        return {
            "step": self.step, "epoch": self.position.epoch, "epoch_step": self.position.step, "train_s": self.train_s,
            "epoch_sums": self.epoch_sums, "best": self.best,
        }  # fmt: skip

    @classmethod
    def of(cls, document: dict[str, Any]) -> Progress:
        position = Position(document["epoch"], document["epoch_step"])
        return cls(position, document["step"], document["train_s"], document["epoch_sums"], document["best"])


def run(t: Training, progress: Progress, journal: Journal, wish: Wish) -> Progress:
    """Trains from `progress` to the last epoch. Raises Stopped, after saving, when asked to; TrainingError when the loss
    is not finite. `journal` receives everything that is worth keeping."""
    config, begin, train_s_before = t.config, time.perf_counter(), progress.train_s
    clock, ledger = clocks.StepClock(t.world.device), Ledger(t.world)
    ledger.epoch_sums[:] = progress.epoch_sums
    batches = train_batches(
        t.samples["train"], t.cutting, start=progress.position, epochs=config.train.epochs or 0,
        workers=config.execution.workers or 1, pin=t.world.device.type == "cuda",
    )  # fmt: skip
    with contextlib.closing(batches), journal.following(clock, progress, epochs=config.train.epochs or 0):
        while True:
            clock.begin()
            batch = next(batches, None)
            if batch is None:
                return progress
            clock.arrived()
            sums = t.step(batch, loss_scale=t.optimizer.loss_scale, clock=clock)
            t.optimizer.update(progress.step)
            clock.mark("optimizer")
            ledger.add(sums)
            progress.step += 1
            last = batch.position.step + 1 == t.steps_per_epoch
            progress.position = (
                Position(batch.position.epoch + 1, 0)
                if last
                else Position(batch.position.epoch, batch.position.step + 1)
            )
            stopping, saving = False, False
            if last or ledger.is_due or journal.is_save_step(progress.step):
                stopping, saving = ledger.exchange(
                    step=progress.step, stop=wish.asked, save=journal.save_is_due(progress.step)
                )
            clock.end(step=progress.step, epoch=batch.position.epoch, images=batch.rows)
            journal.stepped(t, batch, ledger)
            if last:
                journal.close_epoch(t, progress, ledger.close_epoch())
            progress.epoch_sums = ledger.epoch_sums.tolist()
            progress.train_s = train_s_before + time.perf_counter() - begin
            if saving or stopping:
                journal.save(t, progress)
            if stopping and progress.position.epoch < (config.train.epochs or 0):
                raise Stopped(f"stopped after step {progress.step}; continue with: {journal.resume_command}")
