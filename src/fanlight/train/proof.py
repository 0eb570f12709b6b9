"""What ranks do to prove a layout equal to the serial run, which rank 0 plays beside it: the parity contract, measured.

Runs and networks are real; only the number of steps is small. Lock-step: every step begins with the serial run's weights,
so that an error is this step's own and no drift. See docs/parity.md for the contract, docs/verify.md for the reading.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fanlight.config import Config
from fanlight.data.loader import train_batches
from fanlight.errors import ConfigError
from fanlight.parallel import comm, held
from fanlight.parallel.comm import World
from fanlight.train import build, evaluate, folder, parts, precision, state
from fanlight.train.clock import StepClock
from fanlight.train.training import Training
from fanlight.types import Batch, Position

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
ERRORS = ("loss_error", "gradient_error", "buffer_error")  # of one step
Errors = dict[str, float]  # by ERRORS
IMAGES_MOST = 256  # of the evaluation


def rank_proof(
    world: World, *, run: str, values: dict[str, Any], dtype: str, steps: int, losses: list[float]
) -> dict[str, Any] | None:
    """On rank 0 what the comparison of this layout with the serial run found; None elsewhere. `values`: config keys of the
    layout; `losses`: of the serial run left alone."""
    path = Path(run)
    t = _training(world, path, values, dtype=dtype)
    serial = _training(comm.alone(world.device.type), path, {}, dtype=dtype) if world.is_first else None
    shared = _shared(path, world)
    found, same = _lockstep(t, serial, shared, steps=steps)
    world.heartbeat.announce("evaluate")  # and what follows: rank 0 does the serial run's part of it alone
    _become(t, serial, shared)
    rows = _evaluated(t)
    expected = _evaluated(serial) if serial is not None else None
    resumed = _resumes(t, serial, path / f"checkpoints-{world.ranks}")
    task = t.task
    del t, serial
    again = _training(world, path, values, dtype=dtype)
    alone = [float(sums[0] / sums[2]) for sums in _left_alone(again, steps)]
    if not world.is_first:
        return None
    assert rows is not None and expected is not None
    return {
        "steps": found, "same_batches": same, "resume_equal": resumed,
        "evaluation_equal": task.agree(rows, expected), "evaluation_same_bits": bool(np.array_equal(rows, expected)),
        "run_error": _drift(alone, losses),
    }  # fmt: skip


def rank_steps(
    world: World, *, run: str, values: dict[str, Any], dtype: str, steps: int
) -> tuple[list[Errors], bool] | None:
    """The lock-step of rank_proof alone, on rank 0: to be repeated in another number format."""
    path = Path(run)
    t = _training(world, path, values, dtype=dtype)
    serial = _training(comm.alone(world.device.type), path, {}, dtype=dtype) if world.is_first else None
    found = _lockstep(t, serial, _shared(path, world), steps=steps)
    return found if world.is_first else None


def rank_floor(world: World, *, run: str, dtype: str, steps: int) -> dict[str, Any]:
    """What rounding alone does to the serial run: how far it is from the same run with samples exchanged inside each
    microbatch. `step_floors`: in lock-step, the errors that a layout has, by step; `noise_floor`: of losses, left alone;
    `losses`: its own. ConfigError where the serial run is no measure, since it diverges."""
    path = Path(run)
    serial, other = (_training(world, path, {}, dtype=dtype) for _ in range(2))
    losses: list[float] = []
    floors: list[Errors] = []
    for step, batch in _batches(serial, steps=steps):
        other.restore({key: value.detach().clone() for key, value in serial.tensors().items()})
        sums, turned = _sums(serial, batch), _sums(other, _reversed(batch))
        losses.append(float(sums[0] / sums[2]))
        _check_finite(serial, step=step, loss=losses[-1], gradient=gradients(serial))
        floors.append(_errors(turned, sums, gradients(other), _buffers(other), serial))
        serial.update(step), other.update(step)
        _check_finite(serial, step=step, weights=serial.weights(), loss=losses[-1])
    scored = _evaluated(serial)
    assert scored is not None
    _check_finite(serial, step=steps - 1, loss=losses[-1], weights={"its evaluation": torch.from_numpy(scored)})
    del serial, other
    again = _training(world, path, {}, dtype=dtype)
    alone = [float(sums[0] / sums[2]) for sums in _left_alone(again, steps, is_reversed=True)]
    for step, loss in enumerate(alone):
        _check_finite(again, step=step, loss=loss)
    return {"losses": losses, "noise_floor": _drift(alone, losses), "step_floors": floors}


def _check_finite(
    serial: Training, *, step: int, loss: float, gradient: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """ConfigError where something of the serial run is not finite: beside it every layout would be wrong, or none."""
    named = {"its loss": torch.tensor(loss)}
    named |= {f"the gradient of {name}": value for name, value in (gradient or {}).items()}
    named |= {name: value for name, value in (weights or {}).items() if value.is_floating_point()}
    for name, value in named.items():
        if not bool(value.isfinite().all()):
            lr = serial.config.optim.lr
            assert lr is not None
            raise ConfigError(
                f"the serial run diverges at step {step + 1}, where {name} is not finite: nothing can be compared with it. "
                f"optim.lr is {lr:g}; use a lower one, --set optim.lr={lr / 10:g}"
            )


def _drift(losses: Sequence[float], expected: Sequence[float]) -> float:
    """The worst relative difference. NaN stays NaN, which Python's max may lose."""
    return float(np.max(np.abs(np.subtract(losses, expected)) / np.abs(expected)))


def _shared(run: Path, world: World) -> Path:
    return run / f"step-{world.ranks}.safetensors"


def _errors(
    sums: np.ndarray,
    expected: np.ndarray,
    gradient: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    serial: Training,
) -> dict[str, float]:
    """How far a step is from the serial run's, relative: sums, whole gradient and buffers."""
    return {
        "loss_error": float(abs(sums[0] - expected[0]) / abs(expected[0])),
        "gradient_error": _error(gradient, gradients(serial)), "buffer_error": _error(buffers, _buffers(serial)),
    }  # fmt: skip


def _training(world: World, run: Path, values: Mapping[str, Any], *, dtype: str) -> Training:
    config: Config = folder.read_config(run).with_values(dict(values))
    torch.set_num_threads(config.execution.threads or 1)
    precision.set_up("fp32", world.device, deterministic=True)
    t = build.build(config, folder.read_manifest(run), world, dtype=DTYPES[dtype])
    t.samples = {split: _few(part) if split != "train" else part for split, part in t.samples.items()}
    return t


def _few(samples: Any) -> Any:
    cut = slice(0, IMAGES_MOST)
    return replace(samples, rows=samples.rows[cut], targets=samples.targets[cut], weights=samples.weights[cut])


def _batches(t: Training, *, steps: int) -> Iterator[tuple[int, Batch]]:
    epochs = -(-steps // t.steps_per_epoch)
    made = train_batches(t.samples["train"], t.cutting, start=Position(0, 0), epochs=epochs, workers=1)
    return zip(range(steps), made)


def _sums(t: Training, batch: Batch) -> np.ndarray:
    """One step's gradients are left in the model; [loss sum, hits, answers] over all ranks."""
    clock = StepClock(t.world.device, heartbeat=t.world.heartbeat)
    clock.begin()
    clock.arrived()
    return t.world.sum_host(t.step(batch, loss_scale=1.0, clock=clock).cpu().numpy())


def _left_alone(t: Training, steps: int, *, is_reversed: bool = False) -> Iterator[np.ndarray]:
    for step, batch in _batches(t, steps=steps):
        yield _sums(t, _reversed(batch) if is_reversed else batch)
        t.update(step)


def _reversed(batch: Batch) -> Batch:
    """The batch with the samples of each microbatch in reverse; pairs that are mixed stay pairs, their sides exchanged."""
    turned = []
    for rows in batch.parts:
        places = np.arange(len(rows.samples))[::-1].copy()
        turned.append(
            replace(
                rows, samples=rows.samples[places], images=None if rows.images is None else rows.images[places],
                targets=None if rows.targets is None else rows.targets[places],
                keys=None if rows.keys is None else rows.keys[places],
                mix=rows.mix and replace(rows.mix, share=rows.mix.share[places], box=rows.mix.box[places]),
                changes=rows.changes and replace(
                    rows.changes, op=rows.changes.op[places], amount=rows.changes.amount[places],
                    erase=rows.changes.erase[places],
                ),
            )
        )  # fmt: skip
    return replace(batch, parts=tuple(turned))


def _lockstep(t: Training, serial: Training | None, shared: Path, *, steps: int) -> tuple[list[Errors], bool]:
    """The relative differences of every step, and whether every rank saw the serial run's rows. On rank 0."""
    differences: list[Errors] = []
    same = True
    beside = _batches(serial, steps=steps) if serial is not None else iter(())
    for step, batch in _batches(t, steps=steps):
        _become(t, serial, shared)
        sums = _sums(t, batch)
        own = gradients(t)
        parts.plan(own, t.held.get, t.world)  # raises where ranks that hold the same part hold other bits
        gradient = parts.whole_on_first(own, t.held.get, t.world)
        buffers = parts.whole_on_first(_buffers(t), t.held.get, t.world)
        t.update(step)  # which also clears the gradients
        part = t.layout.data_rank(t.world.rank)
        seen = _fingerprints(batch, pixels=True) if t.cutting.has_images else None
        told = t.world.share([part, _fingerprints(batch, pixels=False), seen])
        if serial is None:
            continue
        assert gradient is not None and buffers is not None
        _, expected_batch = next(beside)
        expected = _sums(serial, expected_batch)
        same = same and sums[2] == expected[2]  # not the hits: rounding may choose the class
        same = same and _put_together([(n, made) for n, made, _ in told]) == _fingerprints(expected_batch, pixels=False)
        of_pixels = [(n, made) for n, _, made in told if made is not None]
        same = same and _put_together(of_pixels) == _fingerprints(expected_batch, pixels=True)
        differences.append(_errors(sums, expected, gradient, buffers, serial))
        serial.update(step)
    return differences, bool(same)


def _fingerprints(batch: Batch, *, pixels: bool) -> list[list[int]]:
    """By microbatch, a number for every row that changes with its sample, target, key, mixing and changes to come; with
    `pixels`, with those, too."""
    found = []
    for rows in batch.parts:
        said = [rows.samples[:, None]]
        said += [] if rows.targets is None else [rows.targets.numpy().reshape(len(rows.samples), -1)]
        said += [] if rows.keys is None else [rows.keys[:, None]]
        said += [] if rows.mix is None else [rows.mix.share.numpy()[:, None], rows.mix.box.numpy()]
        if pixels:
            assert rows.images is not None
            said += [rows.images.numpy()]
            said += [] if rows.changes is None else [rows.changes.op, rows.changes.amount, rows.changes.erase]
        made = [
            b"".join(np.ascontiguousarray(each[place]).tobytes() for each in said) for place in range(len(rows.samples))
        ]
        found.append([zlib.crc32(one) for one in made])
    return found


def _put_together(told: Sequence[tuple[int, list[list[int]]]]) -> list[list[int]]:
    """Every microbatch's rows in the order of the parts. Empty where ranks that see the same part tell different rows."""
    by_part: dict[int, list[list[int]]] = {}
    for part, made in told:
        if by_part.setdefault(part, made) != made:
            return []
    ordered = [by_part[part] for part in sorted(by_part)]
    return [[row for part in ordered for row in part[index]] for index in range(len(ordered[0]))]


def gradients(t: Training) -> dict[str, Tensor]:
    """Copies, since the optimizer clips in place. A parameter that no backward reached has a gradient of 0."""
    named = {name: p for part in t.step.parts for name, p in part.named_parameters() if p.requires_grad}
    return {name: held.local(p.new_zeros(p.shape) if p.grad is None else p.grad).clone() for name, p in named.items()}


def _buffers(t: Training) -> dict[str, Tensor]:
    return {
        name: b.clone() for part in t.step.parts for name, b in part.named_buffers() if b.is_floating_point() and b.ndim
    }


def _error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors together: some single ones are 0 but for rounding."""
    if not expected:
        return 0.0
    off = sum(float((found[name].double() - value.cpu().double()).square().sum()) for name, value in expected.items())
    size = sum(float(value.double().square().sum()) for value in expected.values())
    return (off / size) ** 0.5 if size else off**0.5


def _become(t: Training, serial: Training | None, shared: Path) -> None:
    """Every rank takes its parts of the serial run's state, which rank 0 leaves in a file."""
    if serial is not None:
        save_file({key: value.detach().cpu().contiguous() for key, value in serial.tensors().items()}, shared)
    t.world.barrier()
    take_parts(t, load_file(shared))
    t.world.barrier()


def take_parts(t: Training, tensors: Mapping[str, Tensor]) -> None:
    """Whole tensors, of which this rank takes its parts."""
    own = {}
    for key, value in tensors.items():
        part = t.part_of(key)
        if part is not parts.NOTHING:
            own[key] = value if part is None else held.cut(value, part)
    t.restore(own)


def _evaluated(t: Training) -> np.ndarray | None:
    split = "val" if "val" in t.samples else "train"
    return evaluate.outputs(
        t.step, t.task, t.samples[split], t.cutting, t.world, batch=t.config.execution.eval_batch, workers=1
    )


def _resumes(t: Training, serial: Training | None, place: Path) -> bool:
    """Whether what this layout saves is what serial reads, and what serial saves is what this layout holds, in every bit."""
    document = {"step": 1, **t.optimizer.scalars()}
    there = state.save(place, tensors=t.tensors(), document=document, world=t.world, keep=1, held_of=t.held_of)
    mine = parts.whole_on_first(t.tensors(), t.held_of, t.world)
    equal = True
    back = place.with_name(f"{place.name}-serial")
    if serial is not None:
        assert mine is not None
        read = state.load(there)[0]
        equal = read.keys() == mine.keys() and all(_same_bits(read[key], mine[key]) for key in mine)
        serial.restore(read)
        state.save(back, tensors=serial.tensors(), document=document, world=serial.world, keep=1)
    t.world.barrier()
    (newest,) = state.whole(back)
    t.restore(state.load(newest, part_of=t.part_of)[0])
    again = parts.whole_on_first(t.tensors(), t.held_of, t.world)
    if again is not None and mine is not None:
        equal = equal and again.keys() == mine.keys() and all(_same_bits(again[key], mine[key]) for key in mine)
    return equal


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """As bytes: for torch.equal NaN differs from itself, and 0 is -0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(each.detach().cpu().reshape(-1).view(torch.uint8) for each in (one, other)))
