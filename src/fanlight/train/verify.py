"""`fanlight verify`: every layout that this machine can run, against the serial run, on the user's model and images.

What passes is contract.py's; what ranks do for it, proof.py's; how it is told, certificate.py's. Single steps that fp32 cannot
judge are repeated in fp64.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanlight import __version__, console, machine
from fanlight.config import Config
from fanlight.errors import ConfigError, FanlightError, TrainingError, near
from fanlight.parallel import layout as layouts
from fanlight.parallel.launch import Pool
from fanlight.train import certificate, contract, folder, layouting, prepare, resolve

# What torch says of what gloo cannot do with tensors of a GPU. Not of anything that Fanlight itself does not do.
LACKS = re.compile(
    r"ProcessGroupGloo::\w+: unsupported|Backend gloo does not support|No backend type associated with device"
)
OF_ONE = ("execution.layout", "execution.pipeline_schedule", "execution.stages_per_rank", "execution.split_at")
BATCH, MICROBATCHES = 16, 4  # of the proof, where not asked for: small, since the serial run is played for every layout
PROOF, STEPS, FLOOR = (f"fanlight.train.proof:rank_{name}" for name in ("proof", "steps", "floor"))
ROW = ("name", "layout", "ranks", "same_batches", "loss_error", "gradient_error", "buffer_error", "run_error",
       "evaluation_equal", "resume_equal", "fp64", "passed", "reason")  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One row: a name for the table, what `--layout` would be, further keys, and why it is not tried."""

    name: str
    layout: str
    more: tuple[tuple[str, object], ...] = ()
    reason: str = ""


def candidates(ranks: int) -> list[Candidate]:
    """Everything that `ranks` processes could be; other algorithms are named and not compared."""
    found = [
        Candidate("ddp", "ddp"), Candidate("fsdp", "fsdp"), Candidate("model-parallel", "model-parallel"),
        Candidate("pipeline gpipe", "pipeline", (("execution.pipeline_schedule", "gpipe"),)),
        Candidate("pipeline 1f1b", "pipeline", (("execution.pipeline_schedule", "1f1b"),)),
        Candidate("pipeline interleaved", "pipeline", (("execution.stages_per_rank", 2),)),
        Candidate("tensor", "tensor"),
    ]  # fmt: skip
    if ranks >= 4 and ranks % 2 == 0:
        half = ranks // 2
        found.insert(2, Candidate("hsdp", "hsdp"))
        for text in (
            f"replicate=2,pipe={half}", f"replicate=2,tensor={half}", f"pipe=2,tensor={half}", f"shard=2,tensor={half}"
        ):  # fmt: skip
            found.append(Candidate(text, text))
    other = "another algorithm: its results are not the serial run's"
    return found + [Candidate(name, name, reason=other) for name in layouts.OTHER]


def verify(
    config: Config,
    *,
    precision: str,
    ranks: int | None,
    steps: int,
    only: Sequence[str] | None,
    out: Path | None,
    command: str,
) -> dict[str, Any]:
    """Runs the comparison and writes certificate.json and certificate.md into a run folder; the object of `--json`.

    `only`: names of rows or layouts; None: all. Raises ConfigError for what cannot work at all; a layout that cannot run is a
    row with its reason.
    """
    if steps < 1:
        raise ConfigError(f"--steps is {steps}; it must be 1 or more")
    for key in OF_ONE:
        if (value := getattr(config.execution, key.split(".")[1])) is not None:
            told = ", ".join(value) if isinstance(value, tuple | list) else value
            raise ConfigError(
                f"{key} is {told}, and verify tries every layout, each as it chooses itself; leave it out, and choose some by "
                "--only ddp,tensor"
            )
    dtype = precision
    if dtype not in contract.RTOL:
        raise ConfigError(
            f"--precision is {dtype}; verify compares in fp32 or fp64, since bf16 and fp16 round away what it looks at"
        )
    count = ranks if ranks is not None else max(2, min(4, machine.cores_usable()))
    if count < 2:
        raise ConfigError(f"--ranks is {count}; there is nothing to compare below 2")
    chosen = _chosen(candidates(count), only)
    threads = config.execution.threads or max(1, machine.cores_usable() // count)
    device = config.execution.device or "cpu"  # where each rank has cores of its own; one GPU is seldom for several
    run = _prepared(config, dtype=dtype, device=device, threads=threads, out=out, command=command)
    begin = time.perf_counter()
    with folder.discarded_when_refused(run), Pool(1, device=device, threads=threads) as pool:
        floor = pool.run(FLOOR, run=str(run), dtype=dtype, steps=steps)[0]
    for line in certificate.blurred_words(floor["step_floors"], dtype=dtype):
        console.say(line)
    trial = Trial(run, ranks=count, device=device, threads=threads, dtype=dtype, steps=steps, floor=floor)
    rows = _rows(trial, chosen)
    resolved = folder.read_config(run)
    document = {
        "noise_floor": floor["noise_floor"], "step_floor": contract.worst(floor["step_floors"]),
        "step_floors": floor["step_floors"], "layouts": rows, "run": str(run),
        "model": resolved.model.name,
        "steps": steps, "ranks": count, "precision": dtype, "batch_size": resolved.train.batch_size,
        "microbatches": resolved.train.microbatches, "image_px": resolved.data.image_px,
        "seconds": time.perf_counter() - begin,
        "passed": certificate.is_passed(rows),
        "command": command, "machine": machine.describe(), "fanlight": __version__,
    }  # fmt: skip
    certificate.write(run, document)
    for left in [*run.glob("step-*.safetensors"), *run.glob("checkpoints-*")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    folder.update_summary(run, status="verified")
    return document


def _chosen(found: list[Candidate], only: Sequence[str] | None) -> list[Candidate]:
    if only is None:
        return found
    names = ", ".join(each.name for each in found)
    if not only:
        raise ConfigError(f"--only names nothing; leave it out for every layout, or choose of {names}")
    known = dict.fromkeys(word for each in found for word in (each.name, each.layout))
    for word in only:
        if word not in known:
            raise ConfigError(f"--only names {word!r}; on this many ranks there are {names}.{near(word, known)}")
    return [each for each in found if each.name in only or each.layout in only]


def _prepared(config: Config, *, dtype: str, device: str, threads: int, out: Path | None, command: str) -> Path:
    """A run folder with the serial config that every layout is compared with."""
    values: dict[str, object] = {
        "execution.layout": "serial", "execution.ranks": 1, "execution.threads": threads, "execution.workers": 1,
        "execution.autotune": False, "execution.device": device, "train.precision": "fp32",
    }  # fmt: skip
    if "train.batch_size" not in config.asked:
        values["train.batch_size"] = BATCH
    if "train.microbatches" not in config.asked:
        values["train.microbatches"] = MICROBATCHES
    if "train.epochs" not in config.asked:
        values["train.epochs"] = 5
    return prepare.prepare(config.with_values(values), out=out, command=command)


@dataclass(frozen=True)
class Trial:
    """What all rows have in common."""

    run: Path  # the serial run's folder
    ranks: int
    device: str
    threads: int
    dtype: str
    steps: int
    floor: dict[str, Any]  # what rank_floor found


def _rows(trial: Trial, chosen: Sequence[Candidate]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    pool: Pool | None = None
    try:
        for each in chosen:
            row: dict[str, Any] = {
                **dict.fromkeys(ROW), "name": each.name, "layout": each.layout, "ranks": trial.ranks, "reason": each.reason,
            }  # fmt: skip
            if not each.reason:
                if pool is None or not pool.is_open:
                    pool = Pool(trial.ranks, device=trial.device, threads=trial.threads)
                row |= _compared(pool, trial, each)
            rows.append(row)
            console.say(certificate.line(row))
    finally:
        if pool is not None:
            pool.close()
    return rows


def _compared(pool: Pool, trial: Trial, each: Candidate) -> dict[str, Any]:
    """What of a row the ranks find out."""
    values: dict[str, Any] = {"execution.layout": each.layout, "execution.ranks": trial.ranks, **dict(each.more)}
    given: dict[str, Any] = {"run": str(trial.run), "values": values, "steps": trial.steps}
    try:
        config = folder.read_config(trial.run).with_values(values)
        layouting.check(config)
        resolve.check_rows(config, ranks=layouts.of(config.execution, ranks=trial.ranks).data_ranks)
        found = pool.run(PROOF, **given, dtype=trial.dtype, losses=trial.floor["losses"])[0]
    except FanlightError as error:
        return why_not_compared(error, device=trial.device)
    steps = contract.judge(found["steps"], trial.floor["step_floors"], dtype=trial.dtype)
    repeated: dict[str, Any] | None = None
    if trial.dtype == "fp32" and not steps.is_proven and not steps.is_certain:
        repeated = _repeated(pool, given)
    return judged(found, steps, repeated, trial, layout=each.layout)


def why_not_compared(error: FanlightError, *, device: str) -> dict[str, Any]:
    """A row that has no numbers: refused before it began, beyond what gloo can do for a GPU, or failed."""
    is_beyond_gloo = device == "cuda" and isinstance(error, TrainingError) and LACKS.search(str(error)) is not None
    if isinstance(error, ConfigError) or is_beyond_gloo:
        return {"reason": f"cannot run: {error}"}
    return {"passed": False, "reason": f"failed: {error}"}


def _repeated(pool: Pool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same single steps in fp64: `steps` and `same_batches`, or in `error` why there are none."""
    try:
        steps, same = pool.run(STEPS, **given, dtype="fp64")[0]
    except FanlightError as error:
        return {"error": str(error)}
    return {"steps": steps, "same_batches": same}


def judged(
    found: Mapping[str, Any], steps: contract.Steps, repeated: Mapping[str, Any] | None, trial: Trial, *, layout: str
) -> dict[str, Any]:
    """A row's numbers and verdict. `repeated`: what _repeated gave, where it was asked for."""
    noise_floor, dtype = trial.floor["noise_floor"], trial.dtype
    needs_bits = contract.has_serial_bits(layout, device=trial.device, threads=trial.threads)
    broken = contract.broken_otherwise(found, noise_floor=noise_floor, dtype=dtype, needs_bits=needs_bits)
    said, fp64, unclear = contract.chaos(noise_floor, dtype=dtype), None, steps.unclear
    if repeated is None or "error" in repeated:
        broken += steps.broken
        way = f"; repeated in fp64: {repeated['error']}" if repeated else "; use larger images or fewer microbatches"
        unclear = tuple(f"undecided: {each}, so {dtype} cannot tell{way}" for each in unclear)
    else:
        fp64 = contract.worst(repeated["steps"])
        exact = [dict.fromkeys(each, 0.0) for each in repeated["steps"]]  # no floor: in fp64 the contract is the limit
        again = contract.judge(repeated["steps"], exact, dtype="fp64")
        broken += [f"{each} in fp64" for each in again.broken]
        broken += [] if repeated["same_batches"] else ["ranks did not see the serial run's rows in fp64"]
        unclear = ()
    passed = False if broken else None if unclear else True
    numbers = {**contract.worst(found["steps"]), **found}
    return {
        **{key: certificate.finite(value) for key, value in numbers.items() if key in ROW},
        "fp64": None if fp64 is None else {key: certificate.finite(value) for key, value in fp64.items()},
        "passed": passed, "reason": "; ".join(broken or [*unclear, *said]),
    }  # fmt: skip
