"""What a rank writes while it trains: metrics, step times, checkpoints, weights, and lines for the user."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from fanlight import console
from fanlight.train import clock as clocks
from fanlight.train import evaluate, export, phases, state, tracking
from fanlight.train.ledger import Ledger
from fanlight.train.meter import Meter
from fanlight.train.timelimit import Deadline
from fanlight.train.training import Training
from fanlight.types import Batch

if TYPE_CHECKING:
    from fanlight.train.loop import Progress

RECENT_STEPS = 50  # that the bar's rate is of
TELL_EVERY_S = 0.1  # the bar moves: asking for rates and memory takes longer than a step of a last layer


class Journal:
    """Keeps one rank's records of a run in its folder. Collective methods are called by all ranks; rank 0 writes."""

    def __init__(
        self, run: Path, *, rank: int, first_step: int, is_trained: bool, save_every_s: float,
        save_every_steps: int | None,
    ):  # fmt: skip
        self.run, self._rank, self._first_step = run, rank, first_step
        self._save_every_s, self._save_every_steps = save_every_s, save_every_steps
        self._saved_at = self._started = time.monotonic()
        self._bar: console.Progress | None = None
        self._scored: tuple[tuple[str, int], dict[str, Any] | None] = (("", -1), None)  # split, step: the newest scores
        self._best: tuple[float, dict[str, torch.Tensor]] | None = None  # temperature and weights, not written yet
        self._told_at = 0.0  # when the bar moved, or its epoch began
        self._epoch_rows = 0  # of the clock, where the current epoch's begin
        self._clock: clocks.StepClock | None = None
        self._meter = Meter(None)
        self._background = state.Background()
        self._tracker = tracking.Tracker(run, first_step=first_step) if rank == 0 else None
        if rank == 0:
            _cut_after(run / "metrics.jsonl", first_step, scores_too=is_trained)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._tracker.close()
        self._background.wait()

    @property
    def resume_command(self) -> str:
        return f"fanlight train --resume {shlex.quote(str(self.run))}"

    @contextlib.contextmanager
    def following(
        self, clock: clocks.StepClock, meter: Meter, progress: Progress, *, epochs: int
    ) -> Iterator[None]:  # fmt: skip
        """Shows progress, and keeps this rank's step times however training ends."""
        self._clock, self._meter = clock, meter
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.__exit__()
            self._save_steps()

    def is_save_step(self, step: int) -> bool:
        """Whether a checkpoint follows this step by its number: the same answer on every rank."""
        return self._save_every_steps is not None and step % self._save_every_steps == 0

    def save_is_due(self, step: int) -> bool:
        """Whether this rank would save now, by its number of steps or by its clock."""
        if self._save_every_steps is not None:
            return self.is_save_step(step)
        return time.monotonic() - self._saved_at >= self._save_every_s

    def save(self, t: Training, progress: Progress) -> None:
        """A checkpoint, written while training goes on. Collective."""
        self.write_best(t)  # the checkpoint's progress names it
        document = {**progress.document(), **t.optimizer.scalars(), "config": t.config.hash(), "ranks": t.world.ranks}
        if t.config.execution.bucket_mb is not None:
            document["bucket_mb"] = t.config.execution.bucket_mb
        keep = t.config.execution.keep_checkpoints
        self._background.wait()  # what the save before has not renamed yet would be taken for a killed one's remains
        tensors = t.tensors()
        _, write = state.begin(
            self.run / "checkpoints", tensors=tensors, document=document, world=t.world, keep=keep, held_of=t.held_of
        )
        self._background.start(write)
        self._save_steps()  # a killed run then lacks the times of no step that it will not do again
        self._saved_at = time.monotonic()

    def stepped(self, t: Training, batch: Batch, ledger: Ledger) -> None:
        """After a step: the bar moves, or now and then a plain line. An epoch of no time has no bar."""
        if self._rank != 0 or not ledger.recent:
            return
        now = time.monotonic()
        if batch.position.step == 0:
            self._told_at = now
            if self._bar is not None:
                self._bar.__exit__()
                self._bar = None
        if now - self._told_at < TELL_EVERY_S:
            return
        self._told_at = now
        if self._bar is None:
            title = f"epoch {batch.position.epoch + 1}/{t.config.train.epochs}"
            self._bar = console.Progress(title, total=t.steps_per_epoch, unit="steps").__enter__()
        rates = self._rates(t, most=RECENT_STEPS)
        memory = console.bytes_text(psutil.Process().memory_info().rss)
        wait = f"input wait {rates['input_wait_share']:.1%}"
        more = batch.position.step + 1 - self._bar.done
        self._bar.advance(more, f"loss {ledger.recent[-1]:.3f}  {rates['images_per_s']:.0f} img/s  {wait}  {memory}")

    def close_epoch(
        self, t: Training, progress: Progress, sums: dict[str, float], deadline: Deadline | None = None
    ) -> None:
        """Logs the epoch, evaluates where it is time, keeps the best weights; the `deadline` learns what evaluating takes.
        Collective."""
        epoch, epochs = progress.position.epoch, t.config.train.epochs or 0
        rates = self._rates(t)
        record: dict[str, Any] = {
            "epoch": epoch,
            "step": progress.step,
            **sums,
            "lr": t.optimizer.lr(progress.step - 1),
            **rates,
        }
        energy = self._meter.epoch(epoch - 1, t.world, batch=t.cutting.batch)
        if energy is not None:
            record["energy"] = energy
        grows = t.cutting.start_px is not None
        if grows:
            record["image_px"] = t.cutting.side_px(epoch - 1)
        self._log("train", record)
        line = f"epoch {epoch}/{epochs}  loss {sums['loss']:.3f}  accuracy {sums['accuracy']:.3f}"
        line += f"  {record['image_px']} px" if grows else ""
        every = t.config.train.evaluate_every or 1
        if "val" in t.samples and epoch % every == 0 and epoch < epochs:  # the last is scored with everything else
            begin = time.perf_counter()
            scores = self.evaluate(t, "val", epoch=epoch, step=progress.step)
            if deadline is not None:
                final = sum(len(part) for split, part in t.samples.items() if split != "train")
                deadline.learn(time.perf_counter() - begin, images=len(t.samples["val"]), final=final)
            if scores is not None:
                loss = "not finite" if scores["loss"] is None else f"{scores['loss']:.3f}"
                line += f" | val loss {loss}  {t.task.headline} {scores[t.task.headline]:.3f}"
            self.keep_best(t, progress, scores)
        memory = console.bytes_text(psutil.Process().memory_info().rss)
        line += f" | {rates['images_per_s']:.0f} img/s  input wait {rates['input_wait_share']:.1%}  memory {memory}"
        ends = progress.is_trained(t.config.train)
        line += "" if ends else f"  {console.seconds_text(_left_s(progress, epochs, self._elapsed_s()))} left"
        if self._rank == 0:
            console.say(line)
        self._epoch_rows = len(self._clock) if self._clock else 0

    def evaluate(self, t: Training, split: str, *, epoch: int, step: int) -> dict[str, Any] | None:
        """Scores of one split on rank 0, logged; the table of predictions is under `table`. Scores of this very step are
        not made twice. Collective."""
        if self._scored[0] == (split, step):
            return self._scored[1]
        scores = self._score(t, split, epoch=epoch, step=step)
        self._scored = ((split, step), scores)
        return scores

    def _score(self, t: Training, split: str, *, epoch: int, step: int) -> dict[str, Any] | None:
        begin = time.perf_counter()
        with t.averaged():
            logits = evaluate.outputs(
                t.step, t.task, t.samples[split], t.cutting, t.world, batch=t.config.execution.eval_batch,
                workers=t.config.execution.workers or 1,
            )  # fmt: skip
        if logits is None:
            return None
        table = t.task.table(t.manifest, t.samples[split].rows, logits)
        scores = t.task.score(table, split=split)
        logged = {name: scores[name] for name in t.task.logged}
        record = {"epoch": epoch, "step": step, "split": split, **logged}
        self._log("evaluate", {**record, "seconds": time.perf_counter() - begin})
        return {**scores, "table": table}

    def keep_best(self, t: Training, progress: Progress, scores: dict[str, Any] | None) -> None:
        """Exports the weights, with the temperature of their probabilities, when no evaluation was better, else counts it:
        `scores` of `evaluate` on validation, which rank 0 alone has. Collective."""
        told: dict[str, Any] = {}
        if scores is not None:
            accuracy = scores[t.task.headline]
            # Patience begins where the work is that of the end: whole network, full side.
            waited = progress.waited + (progress.position.epoch > phases.last_kind(t.config))
            told = {"best": progress.best, "waited": waited, "temperature": None}
            if accuracy > progress.best.get("accuracy", -1.0):
                temperature, _ = t.task.temperature(scores["table"])
                best = {"epoch": progress.position.epoch, "accuracy": accuracy}
                told = {"best": best, "waited": 0, "temperature": temperature}
        told = t.world.tell(told)
        progress.best, progress.waited = told["best"], told["waited"]
        if told["temperature"] is None:
            return
        kept: dict[str, torch.Tensor] = {}
        if t.is_cached and self._rank == 0:
            with t.averaged():
                kept = {name: p.detach().clone() for name, p in t.optimizer.named.items()}
        self._best = (told["temperature"], kept)
        if not t.is_cached:  # else copying the frozen rest again and again would take longer than the epochs
            self.write_best(t)

    def write_best(self, t: Training) -> None:
        """Exports the best weights where that is still to be done. Collective."""
        if self._best is None:
            return
        temperature, kept = self._best
        self._best = None
        with t.averaged():
            weights = t.whole_weights()
            if weights is not None:
                best = self.run / "weights" / "best.safetensors"
                write = export.copy_weights(
                    weights, best, t.config, t.task.about(), temperature=temperature, instead=kept
                )
                self._background.start(write)

    def _save_steps(self) -> None:
        if self._clock is not None:
            self._clock.save(self.run / f"steps-rank{self._rank}.parquet", before=self._first_step + 1)

    def _rates(self, t: Training, *, most: int | None = None) -> dict[str, float]:
        """Images per second of the global batch, and input's share, of the epoch or of its newest `most` steps."""
        first = max(self._epoch_rows, len(self._clock) - most if most else 0) if self._clock else 0
        rows = self._clock.since(first) if self._clock else []
        total_s = sum(row["total_s"] for row in rows) or 1e-9
        wait_s = sum(row["input_s"] for row in rows)
        return {"images_per_s": len(rows) * t.cutting.batch / total_s, "input_wait_share": wait_s / total_s}

    def energy(self, t: Training) -> dict[str, Any]:
        """As `Meter.document` tells it. Collective."""
        return self._meter.document(t.world, batch=t.cutting.batch)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def _log(self, kind: str, record: dict[str, Any]) -> None:
        if self._rank == 0:
            with open(self.run / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"kind": kind, **record, "seconds_in": self._elapsed_s()}) + "\n")
            assert self._tracker is not None
            self._tracker.add(kind, record)


def _left_s(progress: Progress, epochs: int, elapsed_s: float) -> float:
    done = progress.position.epoch
    return (progress.train_s or elapsed_s) / max(done, 1) * (epochs - done)


def _cut_after(path: Path, step: int, *, scores_too: bool) -> None:
    """Drops records of steps that a resumed run will do again, a line that a killed run left torn, and the scores after
    `step` itself where they come again (`scores_too`: all steps are done, what follows is the last evaluation)."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            if record["step"] < step or (record["step"] == step and not (scores_too and record["kind"] == "evaluate")):
                kept.append(line + "\n")
    part = path.with_suffix(".part")
    part.write_text("".join(kept))
    part.rename(path)
