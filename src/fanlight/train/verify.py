"""`fanlight verify`: every layout that this machine can run, against the serial run, on the user's model and images.

The contract and its tolerances are the design's: one step from equal weights, fp32 for use and fp64 for proof; a run left
alone stays within FLOOR_FACTOR of the noise floor, or the floor is so high that only single steps count. Gradients have a
floor too: small batches of small images can make a step so sensitive that the serial run's own differs from itself.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanlight import __version__, console, machine
from fanlight.config import Config
from fanlight.errors import ConfigError, FanlightError, TrainingError
from fanlight.parallel import layout as layouts
from fanlight.parallel.launch import Pool
from fanlight.train import folder, layouting, prepare, resolve

RTOL = {  # of one step: its loss, ‖g − g₀‖ / ‖g₀‖ of the gradient, the same of buffers
    "fp32": {"loss_error": 1e-5, "gradient_error": 1e-4, "buffer_error": 1e-5},
    "fp64": {"loss_error": 1e-12, "gradient_error": 1e-11, "buffer_error": 1e-11},
}
FLOOR_FACTOR = 10.0
EPSILON = {"fp32": 1.2e-7, "fp64": 2.3e-16}  # the least that a floor is: one rounding of one loss
CHAOTIC = 1e-2  # of the noise floor: a run's losses are then no evidence
LACKS = (
    "not supported",
    "not implemented",
    "unsupported",
    "no backend type",
)  # what a backend says of what it cannot do
BATCH, MICROBATCHES = 16, 4  # of the proof, where not asked for: small, since the serial run is played for every layout
PROOF, FLOOR = "fanlight.train.proof:rank_proof", "fanlight.train.proof:rank_floor"
ROW = ("name", "layout", "ranks", "same_batches", "loss_error", "gradient_error", "buffer_error", "run_error",
       "evaluation_equal", "resume_equal", "passed", "reason")  # fmt: skip


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
    only: Sequence[str],
    out: Path | None,
    command: str,
) -> dict[str, Any]:
    """Runs the comparison and writes certificate.json and certificate.md into a run folder; the object of `--json`.

    Raises ConfigError for what cannot work at all; a layout that cannot run is a row with its reason.
    """
    if steps < 1:
        raise ConfigError(f"--steps is {steps}; it must be 1 or more")
    if config.execution.layout is not None:
        raise ConfigError("verify tries every layout; choose some by --only ddp,tensor instead of --layout")
    dtype = precision
    if dtype not in RTOL:
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
    with Pool(1, device=device, threads=threads) as pool:
        floor = pool.run(FLOOR, run=str(run), dtype=dtype, steps=steps)[0]
    for line in _blurred(floor["step_floor"], dtype):
        console.say(line)
    rows = _rows(run, chosen, ranks=count, device=device, threads=threads, dtype=dtype, steps=steps, floor=floor)
    resolved = folder.read_config(run)
    document = {
        "noise_floor": floor["noise_floor"], "step_floor": floor["step_floor"], "layouts": rows, "run": str(run),
        "model": resolved.model.name,
        "steps": steps, "ranks": count, "precision": dtype, "batch_size": resolved.train.batch_size,
        "microbatches": resolved.train.microbatches, "image_px": resolved.data.image_px,
        "seconds": time.perf_counter() - begin,
        "passed": any(row["passed"] for row in rows) and all(row["passed"] is not False for row in rows),
        "command": command, "machine": machine.describe(), "fanlight": __version__,
    }  # fmt: skip
    _write(run, document)
    for left in [*run.glob("step-*.safetensors"), *run.glob("checkpoints-*")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    folder.update_summary(run, status="verified")
    return document


def _chosen(found: list[Candidate], only: Sequence[str]) -> list[Candidate]:
    if not only:
        return found
    unknown = [word for word in only if not any(word in (each.name, each.layout) for each in found)]
    if unknown:
        raise ConfigError(
            f"--only names {unknown[0]!r}; on this many ranks there are {', '.join(each.name for each in found)}"
        )
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


def _rows(
    run: Path,
    chosen: Sequence[Candidate],
    *,
    ranks: int,
    device: str,
    threads: int,
    dtype: str,
    steps: int,
    floor: dict[str, Any],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    pool: Pool | None = None
    try:
        for each in chosen:
            row: dict[str, Any] = dict.fromkeys(ROW) | {
                "name": each.name,
                "layout": each.layout,
                "ranks": ranks,
                "reason": "",
            }
            if each.reason:
                rows.append(row | {"reason": each.reason})
            else:
                if pool is None or not pool.is_open:
                    pool = Pool(ranks, device=device, threads=threads)
                rows.append(row | _compared(pool, run, each, ranks=ranks, dtype=dtype, steps=steps, floor=floor))
            console.say(_line(rows[-1]))
    finally:
        if pool is not None:
            pool.close()
    return rows


def _compared(
    pool: Pool, run: Path, each: Candidate, *, ranks: int, dtype: str, steps: int, floor: dict[str, Any]
) -> dict[str, Any]:
    values: dict[str, Any] = {"execution.layout": each.layout, "execution.ranks": ranks, **dict(each.more)}
    try:
        config = folder.read_config(run).with_values(values)
        layouting.check(config)
        resolve.check_rows(config, ranks=layouts.of(config.execution, ranks=ranks).data_ranks)
        answers = pool.run(PROOF, run=str(run), values=values, dtype=dtype, steps=steps, losses=floor["losses"])
    except ConfigError as error:
        return {"reason": f"cannot run: {error}"}
    except TrainingError as error:
        if any(words in str(error).lower() for words in LACKS):
            return {"reason": f"cannot run: {error}"}
        return {"passed": False, "reason": f"failed: {error}"}
    except FanlightError as error:
        return {"reason": f"cannot run: {error}"}
    found = answers[0]
    assert found is not None
    why = _why_not(found, floor, dtype=dtype, is_replicated=each.layout == "ddp")
    return {
        **{key: value for key, value in found.items() if key in ROW},
        "passed": not why[0],
        "reason": "; ".join(why[0] or why[1]),
    }


def limits(step_floor: dict[str, float], dtype: str) -> dict[str, float]:
    """The largest differences of a step that rounding explains: the contract's, or FLOOR_FACTOR times what it does to the
    serial run itself, where a network at this size of images and microbatches is so sensitive."""
    return {key: max(limit, FLOOR_FACTOR * step_floor[key]) for key, limit in RTOL[dtype].items()}


def _blurred(step_floor: dict[str, float], dtype: str) -> list[str]:
    """Where the contract's limits are not what decides, in words."""
    way = "; --precision fp64 tells more, and so do larger images or fewer microbatches" if dtype == "fp32" else ""
    return [
        f"Rounding alone moves this network's {key.removesuffix('_error')} by {step_floor[key]:.1e} in {dtype}: less than "
        f"that shows nothing{way}"
        for key, limit in limits(step_floor, dtype).items()
        if limit > RTOL[dtype][key]
    ]


def _why_not(
    found: dict[str, Any], floor: dict[str, Any], *, dtype: str, is_replicated: bool
) -> tuple[list[str], list[str]]:
    """What breaks the contract, and what is only to be said."""
    broken, said = [], []
    noise_floor = floor["noise_floor"]
    if not found["same_batches"]:
        broken.append("ranks did not see the serial run's rows")
    for key, limit in limits(floor["step_floor"], dtype).items():
        if not found[key] <= limit:
            broken.append(f"{key.replace('_', ' ')} {found[key]:.1e} is above {limit:.0e}")
    if not found["evaluation_equal"] or (is_replicated and not found["evaluation_same_bits"]):
        broken.append("evaluation differs")
    if not found["resume_equal"]:
        broken.append("a checkpoint does not come back in every bit")
    if noise_floor > CHAOTIC:
        said.append(
            f"chaotic: the serial run differs from itself by {noise_floor:.1e} in {dtype}, so only single steps count"
        )
    elif not found["run_error"] <= FLOOR_FACTOR * max(noise_floor, EPSILON[dtype]):
        broken.append(f"left alone it drifts by {found['run_error']:.1e}, {FLOOR_FACTOR:.0f} × the noise floor is less")
    return broken, said


def _line(row: dict[str, Any]) -> str:
    if row["passed"] is None:
        return f"  –  {row['name']}: {row['reason']}"
    if row["loss_error"] is None:
        return f"  ✗  {row['name']}: {row['reason']}"
    errors = f"loss {row['loss_error']:.1e}, gradient {row['gradient_error']:.1e}, run {row['run_error']:.1e}"
    return f"  {'✓' if row['passed'] else '✗'}  {row['name']}: {errors}" + (
        f"; {row['reason']}" if row["reason"] else ""
    )


def _write(run: Path, document: dict[str, Any]) -> None:
    """The certificate, for programs and for people."""
    (run / "certificate.json").write_text(json.dumps(document, indent=1))
    (run / "certificate.md").write_text(markdown(document))


def verdict(document: dict[str, Any]) -> str:
    """The certificate in a line."""
    told = [row["passed"] for row in document["layouts"] if row["passed"] is not None]
    if not told:
        return "nothing could be compared"
    if not all(told):
        return "NOT every layout equals the serial run"
    dtype = document["precision"]
    doubt = f", as far as {dtype} can tell" if _blurred(document["step_floor"], dtype) else ""
    return f"every layout that runs equals the serial run{doubt}"


def markdown(document: dict[str, Any]) -> str:
    """The certificate as a page."""
    d = document
    lines = [
        f"# {d['model']} on {d['ranks']} ranks: {verdict(d)}",
        "",
        f"`{d['command']}`",
        "",
        f"{d['steps']} steps in lock-step and {d['steps']} left alone, {d['precision']}, batch {d['batch_size']} in "
        f"{d['microbatches']} microbatches, {d['image_px']} px; noise floor {d['noise_floor']:.1e}, of a "
        f"step's gradient {d['step_floor']['gradient_error']:.1e}; {d['seconds']:.0f} s; Fanlight {d['fanlight']}.",
        "",
        *(part for line in _blurred(d["step_floor"], d["precision"]) for part in (f"{line}.", "")),
        "| layout | ranks | same rows | loss | gradient | buffers | left alone | evaluation | resume | |",
        "|---|--:|---|--:|--:|--:|--:|---|---|---|",
    ]
    for row in d["layouts"]:
        numbers = [row[key] for key in ("loss_error", "gradient_error", "buffer_error", "run_error")]
        told = ["" if value is None else f"{value:.1e}" for value in numbers]
        yes = {True: "equal", False: "DIFFERS", None: ""}
        ended = {True: "passed", False: "FAILED", None: "not run"}[row["passed"]]
        cells = [
            row["name"], str(row["ranks"]), yes[row["same_batches"]], *told, yes[row["evaluation_equal"]],
            yes[row["resume_equal"]], ended + (f": {row['reason']}" if row["reason"] else ""),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
