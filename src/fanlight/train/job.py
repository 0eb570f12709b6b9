"""A run from its folder: what one rank does, and what starts the ranks."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fanlight import console, machine, tasks
from fanlight.config import Config
from fanlight.errors import ConfigError, DiskError, FanlightError, RunError, Stopped, TrainingError
from fanlight.parallel import comm, launch, shard
from fanlight.parallel import layout as layouts
from fanlight.parallel.comm import World
from fanlight.train import (
    build,
    checks,
    compiling,
    export,
    fitted,
    folder,
    ledger,
    memory,
    phases,
    precision,
    prepare,
    state,
    stop,
    writing,
)  # fmt: skip
from fanlight.train import clock as clocks
from fanlight.train.journal import Journal
from fanlight.train.loop import Progress
from fanlight.train.loop import run as loop_run
from fanlight.train.timelimit import Deadline
from fanlight.train.training import Training

JOB = "fanlight.train.job:rank_main"
SCRATCH_JOB = "fanlight.scratch.train:rank_main"  # by its path, as ranks get it: it stands above this package
GRACE_S = 600.0  # ranks may be in the middle of an evaluation when they are asked to stop


def rank_main(
    world: World, *, run: str, entered: float, wall_before_s: float = 0.0, kind: Callable[..., Training] = Training
) -> dict[str, Any] | None:
    """Trains the run in folder `run` to its end on this rank; the summary on rank 0.

    `entered` is when the user pressed Enter (seconds since 1970), `wall_before_s` what earlier starts took, `kind` as
    build.build has it.
    """
    world.heartbeat.announce("build")
    path = Path(run)
    config, manifest = folder.read_config(path), folder.read_manifest(path)
    torch.set_num_threads(config.execution.threads or 1)
    if world.device.type == "cpu":
        machine.keep_freed_memory()
    precision.set_up(config.train.precision or "fp32", world.device, deterministic=config.train.deterministic)
    begin = time.perf_counter()
    resumed = bool(state.whole(path / "checkpoints"))
    config, said = fitted.buckets(config, path, world)
    t = build.build(config, manifest, world, resumed=resumed, kind=kind)
    t.notes.extend(said)
    progress = _resume(path, t)
    steps = t.steps_per_epoch * (config.train.epochs or 0)
    verdict = compiling.prove(t, steps=steps - progress.step) if config.execution.compile else None
    phases_s = {"model_s": time.perf_counter() - begin, "start_s": time.time() - entered}  # start: from Enter to steps
    estimate = folder.read_summary(path).get("time_limit", {})
    looks_every = ledger.GPU_STEPS if world.device.type == "cuda" else 1
    deadline = Deadline.of(
        config.train.time_limit_s, estimate, entered=entered, before_s=wall_before_s, looks_every=looks_every
    )
    if world.is_first:
        for note in t.notes:
            console.say(f"  {note}")
        if verdict is not None:
            console.say(f"  {verdict.words()}")
        console.say(f"{config.model.name}: {t.parameters}")
    e = config.execution
    is_late = progress.step > 0 and deadline is not None and deadline.is_over()
    with Journal(
        path, rank=world.rank, first_step=progress.step,
        is_trained=progress.is_trained(config.train) or is_late,
        save_every_s=e.checkpoint_every_s, save_every_steps=e.checkpoint_steps,
    ) as journal, stop.listening() as wish:  # fmt: skip
        comm.sent.clear()
        with shard.counting(t.world):
            progress = loop_run(t, progress, journal, wish, deadline=deadline)
        sent, energy = dict(comm.sent), journal.energy(t)
        world.heartbeat.announce("finish")
        if deadline is not None and deadline.was_reached and progress.step < steps:
            share = t.optimizer.lr(progress.step) / (config.optim.lr or 1.0)
            t.notes.append(deadline.words(step=progress.step, steps=steps, lr_share=share))
        journal.save(t, progress)
        t.notes.extend(_early_words(progress, t))
        scores: dict[str, dict[str, Any] | None] = {
            split: journal.evaluate(t, split, epoch=progress.position.epoch, step=progress.step)
            for split in ("val", "test")
            if split in t.samples
        }
        wall_s = wall_before_s + time.time() - entered
        if "val" in scores:
            journal.keep_best(t, progress, scores["val"])
            journal.write_best(t)
    tables = _exported(path, t, {split: part["table"] for split, part in scores.items() if part})
    peak = memory.peak_over_ranks(world)
    if not world.is_first:
        return None
    if tasks.writes(t.task):
        wall_s = wall_before_s + time.time() - entered
        scores = {split: t.task.score(table, split=split) for split, table in tables.items()}
    return _finish(
        path, t, progress, scores, tables, wall_s=wall_s, peak=peak, phases_s=phases_s, verdict=verdict, sent=sent, energy=energy
    )  # fmt: skip


def _exported(path: Path, t: Training, tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Writes the last weights; where the task is one of writing, every rank then takes the whole network and writes its part
    of val and test: on rank 0 the `tables` with that. Collective."""
    with t.averaged():
        weights = t.whole_weights()
        if weights is not None:
            temperature = t.task.temperature(tables["val"])[0] if "val" in tables else 1.0
            last = path / "weights" / "last.safetensors"
            export.save_weights(weights, last, t.config, t.task.about(), temperature=temperature)
    if not tasks.writes(t.task):
        return tables
    t.world.heartbeat.announce("write")
    t.world.barrier()
    return writing.tables(path / "weights" / "last.safetensors", t, t.task, tables)


def _resume(path: Path, t: Training) -> Progress:
    """The newest whole checkpoint's progress, its tensors put in place; a fresh start where there is none."""
    checkpoints = state.whole(path / "checkpoints")
    if not checkpoints:
        return Progress()
    document = state.describe(checkpoints[-1])
    try:
        folder.check_same(path, t.config, kept=document["config"], checkpoint=checkpoints[-1].name)
        t.enter(document["epoch"])
        t.restore(state.load(checkpoints[-1], part_of=t.part_of)[0])
        t.optimizer.restore_scalars(document)
        progress = Progress.of(document)
    except KeyError as error:  # a rank's file is gone, or state.json was edited
        raise RunError(f"{checkpoints[-1]} lacks {error}; delete it to use the one before") from None
    if t.world.is_first:
        console.say(f"Continuing after step {progress.step} (epoch {progress.position.epoch + 1})")
    return progress


def _finish(
    path: Path, t: Training, progress: Progress, scores: dict[str, dict[str, Any] | None], tables: dict[str, pa.Table], *,
    wall_s: float, peak: int, phases_s: dict[str, float], verdict: compiling.Verdict | None, sent: dict[str, int],
    energy: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """On rank 0: predictions and the summary."""
    if tables:
        pq.write_table(pa.concat_tables(tables.values()), path / "predictions.parquet")
    rows = pq.read_table(path / "steps-rank0.parquet").to_pylist()
    steady = clocks.steady([row for row in rows if row["epoch"] >= phases.last_kind(t.config)])
    steady_s = sum(row["total_s"] for row in steady)
    facts: dict[str, Any] = t.task.facts(tables)
    if verdict is not None:
        t.notes.append(verdict.words())
        facts["compile"] = {**verdict.document(), "steady_step_s": steady_s / len(steady) if steady else None}
    metrics = {
        split: {name: part[name] for name in t.task.kept if name in part} for split, part in scores.items() if part
    }
    before = folder.read_summary(path)
    return folder.update_summary(
        path, **facts, status="finished", wall_s=wall_s, sent_bytes=sent, train_s=progress.train_s, peak_rss_bytes=peak,
        metrics=metrics, energy=energy,
        images_per_s=len(steady) * t.cutting.batch / steady_s if steady else None,
        input_wait_share=sum(row["input_s"] for row in steady) / steady_s if steady else None,
        best=progress.best, notes=[*before["notes"], *t.notes], steps=progress.step,
        epochs=progress.position.epoch,
        phases={**before["phases"], **phases_s, "train_s": progress.train_s},
    )  # fmt: skip


def _early_words(progress: Progress, t: Training) -> list[str]:
    """Why the run ended before its last epoch; nothing where it did not."""
    if not progress.is_impatient(t.config.train):
        return []
    best = progress.best
    note = (
        f"stopped early after epoch {progress.position.epoch} of {t.config.train.epochs}: in {progress.waited} evaluations "
        f"{t.task.headline} on val did not rise above the {best['accuracy']:.4f} of epoch {best['epoch']:.0f} (--patience)"
    )
    if t.world.is_first:
        console.say(f"  {note}")
    return [note]


def execute(run: Path, *, entered: float) -> dict[str, Any]:
    """Runs a prepared or stopped run to its end: in this process, or on ranks of its own. Raises Stopped when asked to
    stop. Out of memory, it continues with half as large microbatches at the same global batch."""
    with _recorded(run, entered=entered) as before_s:
        while True:
            config = folder.read_config(run)
            try:
                return _start(run, config, entered=entered, wall_before_s=before_s)
            except (RuntimeError, MemoryError, TrainingError) as error:
                if not memory.ran_out(error):
                    raise
                _halve(run, config, error)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                t = config.train
                raise ConfigError(
                    f"train.batch_size {t.batch_size} in {t.microbatches} microbatch(es) leaves a single image, of which the "
                    f"batch norms of {config.model.name} can take no statistics; use a larger --batch-size, or fewer "
                    "--microbatches"
                ) from None


@contextlib.contextmanager
def _recorded(run: Path, *, entered: float) -> Iterator[float]:
    """Inside, run.json says `running`; after an error what became of the run. Gives the seconds of earlier starts."""
    before_s = folder.update_summary(run, status="running").get("wall_s", 0.0)
    before_s = max(before_s, state.trained_s(run / "checkpoints"))  # a killed start wrote down no end of its own
    try:
        yield before_s
    except BaseException as error:
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        wall_s = before_s + time.time() - entered
        with contextlib.suppress(OSError, RunError):  # of a full disk, of a folder that is gone
            notes = folder.read_summary(run)["notes"] + ([] if stopped else [f"failed: {error}"])
            folder.update_summary(run, status="stopped" if stopped else "failed", notes=notes, wall_s=wall_s)
        if memory.disk_is_full(error) and not isinstance(error, DiskError):  # which says what disk, and the way out
            raise DiskError(
                f"the disk of {run} is full; make room, and continue with: fanlight train --resume {shlex.quote(str(run))}"
            ) from error
        if isinstance(error, KeyboardInterrupt):  # before the first step, or a second Ctrl-C
            raise Stopped(f"stopped at once; continue with: fanlight train --resume {shlex.quote(str(run))}") from None
        raise


def _start(run: Path, config: Config, **times: float) -> dict[str, Any]:
    ranks, device = config.execution.ranks or 1, config.execution.device or "cpu"
    job = _job_of(config)
    if ranks == 1:
        summary = launch.run_here(job, comm.alone(device), run=str(run), **times)
    else:
        preload = ("torch", "timm", "cv2", job.split(":")[0])
        with launch.Pool(
            ranks, device=device, threads=config.execution.threads, preload=preload, grace_s=GRACE_S
        ) as pool:
            summary = pool.run(job, run=str(run), **times)[0]
    assert summary is not None
    return summary


def _job_of(config: Config) -> str:
    """What each rank does."""
    return JOB if config.execution.backend is None else SCRATCH_JOB


def _halve(run: Path, config: Config, error: BaseException) -> None:
    parts = layouts.of(config.execution, ranks=config.execution.ranks).data_ranks
    rows = (config.train.batch_size or 1) // config.train.microbatches // parts
    why = (str(error).splitlines() or [type(error).__name__])[0]
    unit = config.augment.row_unit
    if rows < 2 * unit:
        raise TrainingError(
            f"out of memory with {'one image' if unit == 1 else 'one pair of images'} per microbatch and rank ({why}); "
            "use a smaller --image-size or --model"
        ) from None
    changed = prepare.with_more_microbatches(run, config)
    console.warn(
        f"out of memory with {rows} images per microbatch and rank", why=why,
        do=f"Continuing with {changed.train.microbatches} microbatches at the same global batch",
    )  # fmt: skip


def train(
    config: Config, *, out: Path | None = None, command: str, entered: float, resume: str | None = None,
    gathered: prepare.Gathered | None = None,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """A new run, or the rest of one (`resume`: its folder, or `auto`): its folder and summary. `gathered`: the new run's
    data, where it has been read already."""
    if launch.joined():
        return _train_joined(config, out=out, command=command, entered=entered, resume=resume)
    run = _resumed_folder(resume, config, out=out) if resume else None
    if run is not None:
        with folder.locked(run), folder.put_back_when_refused(run):
            _take_up(run, config)
            return run, execute(run, entered=entered)
    run = prepare.prepare(config, out=out, command=command, entered=entered, gathered=gathered)
    with folder.locked(run), folder.discarded_when_refused(run):
        return run, execute(run, entered=entered)


def _resumed_folder(resume: str, config: Config, *, out: Path | None) -> Path | None:
    """The folder to continue; None where `auto` finds nothing unfinished."""
    if resume == "auto":
        if not config.data.path:
            raise ConfigError("--resume auto needs the data: fanlight train DATA --resume auto")
        run = folder.latest_unfinished(config.data.path, out=out)
        if run is None:
            where = out or f"{folder.RUNS}/"
            console.say(f"--resume auto: no unfinished run of {config.data.path} in {where}; starting a new one")
            return None
    else:
        run = Path(resume)
        if out is not None and out.resolve() != run.resolve():
            raise ConfigError(
                f"--resume {resume} continues in its own folder, and --out names {out}; leave one of them out"
            )
    folder.read_summary(run)
    return run


def _take_up(run: Path, config: Config, **given: int) -> None:
    """Checks that the run can go on, and takes what is asked anew. `given`: ranks that a launcher started."""
    summary = folder.read_summary(run)
    for key in ("status", "notes", "phases", "data"):
        if key not in summary:
            raise RunError(f"{run / 'run.json'} lacks {key}, which every run has; put the file back, or train anew")
    if summary["status"] == "finished":
        raise RunError(f"{run} has finished; there is nothing to continue. `fanlight evaluate {run}` shows its scores")
    folder.check_unchanged(run, folder.read_manifest(run))
    prepare.take_changes(run, config, **given)
    checks.check(folder.read_config(run))  # this may be another machine, without a GPU
    console.say(f"Continuing {run}")


def _train_joined(
    config: Config, *, out: Path | None, command: str, entered: float, resume: str | None
) -> tuple[Path, dict[str, Any]]:
    """The ranks exist already: rank 0 prepares, tells the others the folder, and all train."""
    device = config.execution.device
    if device is None and resume not in (None, "auto"):
        device = folder.read_config(Path(resume)).execution.device
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world = launch.from_environment(device)
    own_threads = torch.get_num_threads()
    if config.execution.threads is None and own_threads != max(1, machine.cores_usable() // world.local_ranks):
        config = config.with_value("execution.threads", own_threads)  # Slurm bound each rank to cores of its own
    told = {"run": "", "error": ""}
    # Of this machine's ranks together: Slurm may have bound each to its own.
    bound = [set(own) for own in world.share(machine.cores())[: world.local_ranks]]
    cores = None if all(own == bound[0] for own in bound) else len(set().union(*bound))
    room = world.gather(np.array([memory.available(world.device, local_ranks=world.local_ranks)]))
    with contextlib.ExitStack() as held:
        if world.is_first:
            assert room is not None
            try:
                given: dict[str, Any] = {"ranks": world.ranks, "local_ranks": world.local_ranks, "local_cores": cores}
                run = _resumed_folder(resume, config, out=out) if resume else None
                is_new = run is None
                run = run or prepare.prepare(
                    config, out=out, command=command, entered=entered, memory_bytes=int(room.min()), **given
                )
                held.enter_context(folder.locked(run))
                if not is_new:
                    held.enter_context(folder.put_back_when_refused(run))
                    _take_up(run, config, **given)
                told["run"] = str(run)
            except FanlightError as error:
                told["error"] = json.dumps([type(error).__name__, str(error)])
        told = world.tell(told)
        if told["error"]:
            from fanlight import errors

            name, text = json.loads(told["error"])
            raise getattr(errors, name)(text)
        path = Path(told["run"])
        with _recorded(path, entered=entered) if world.is_first else contextlib.nullcontext(0.0) as before_s:
            job = _job_of(folder.read_config(path))
            summary = launch.run_here(job, world, run=str(path), entered=entered, wall_before_s=before_s)
    comm.leave()  # after an error it could wait for ranks that never come; the process ends by launch.end_rank
    return path, summary if summary is not None else {}
