"""The parity contract for every layout and product, on micro networks that hold every kind of block."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fanlight.errors import TrainingError
from parallel import micro
from parallel.test_parity import ADAMW, FLOOR_FACTOR, SGD, folder  # noqa: F401  (a fixture)

JOBS = "parallel.layout_jobs:"
LOSS_RTOL = {"fp64": 1e-12, "fp32": 1e-5}  # the contract's: docs/parity.md
GRADIENT_RTOL = {"fp64": 1e-11, "fp32": 1e-4}
STATE_RTOL = {"fp64": 1e-11, "fp32": 1e-5}  # after the optimizer, which makes no difference larger here
STEPS = 2  # from the serial state each; the second with momentum

BASE = {"data.image_px": 16, "train.batch_size": 12, "train.microbatches": 3, "optim.clip_norm": 0.5}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {  # ranks, execution
    "ddp": (2, {"layout": "ddp"}),
    "fsdp": (2, {"layout": "fsdp"}),
    "fsdp-4": (4, {"layout": "fsdp"}),
    "hsdp": (4, {"layout": "hsdp"}),
    "model-parallel": (2, {"layout": "model-parallel"}),
    "gpipe": (2, {"layout": "pipeline", "pipeline_schedule": "gpipe"}),
    "1f1b": (4, {"layout": "pipeline"}),
    "interleaved": (2, {"layout": "pipeline", "stages_per_rank": 2}),
    "tensor": (2, {"layout": "tensor"}),
    "tensor-4": (4, {"layout": "tensor"}),
    "replicate-pipe": (4, {"layout": "replicate=2,pipe=2"}),
    "replicate-tensor": (4, {"layout": "replicate=2,tensor=2"}),
    "pipe-tensor": (4, {"layout": "pipe=2,tensor=2"}),
    "shard-tensor": (4, {"layout": "shard=2,tensor=2"}),
}


# fp64 shows any wrong term; that fp32 rounds as the contract allows is shown on every layout. Every network in one layout of
# each kind, and in every other one a transformer and a convolutional network. `make test-all` has all in both.
SLOW_FP32 = pytest.param("fp32", marks=pytest.mark.slow)
WIDELY = ("fsdp", "1f1b", "tensor")


def some_slow(*quick: str) -> list[Any]:
    """All layouts, but for these left to `make test-all`."""
    return [pytest.param(layout, marks=[] if layout in quick else pytest.mark.slow) for layout in LAYOUTS]


def rows_of_steps() -> Iterator[Any]:
    """Layout, network, number format."""
    *convolutional, transformer = micro.NAMES
    for number, layout in enumerate(LAYOUTS):
        quick = micro.NAMES if layout in WIDELY else (transformer, convolutional[number % len(convolutional)])
        for net, dtype in itertools.product(micro.NAMES, ("fp64", "fp32")):
            is_quick = net in (quick if dtype == "fp64" else (transformer,))
            yield pytest.param(layout, net, dtype, marks=[] if is_quick else pytest.mark.slow)


TWO, FOUR = ["blocks.1"], ["blocks.0", "blocks.1", "blocks.2"]
CUTS = {
    "model-parallel": TWO, "gpipe": TWO, "1f1b": FOUR, "interleaved": FOUR, "replicate-pipe": TWO, "pipe-tensor": TWO,
}  # fmt: skip
MEASURED: dict[str, Any] = {
    "execution.split_at": None
}  # as users have it: where to cut is measured, which takes longest


def values(net: str, layout: str, **more: Any) -> dict[str, Any]:
    execution = {f"execution.{key}": value for key, value in LAYOUTS[layout][1].items()} if layout else {}
    execution |= {"execution.split_at": CUTS.get(layout)}
    optim = ADAMW if net == "micro-vit" else SGD
    return {"model.name": net, **optim, **BASE, **execution, **more}


@pytest.fixture(scope="module", name="call")
def caller(pool, folder):  # noqa: F811
    """call(ranks, job, **arguments): the ranks' answers; serial ones are kept."""

    @functools.cache
    def serial(job: str, arguments: str) -> Any:
        return pool(1).run(f"{JOBS}{job}", folder=folder, **json.loads(arguments))[0]

    def answer(ranks: int, job: str, **arguments: Any) -> list[Any]:
        if ranks == 1:
            return [serial(job, json.dumps(arguments))]
        return pool(ranks).run(f"{JOBS}{job}", folder=folder, **arguments)

    return answer


@pytest.mark.parametrize(("layout", "net", "dtype"), [*rows_of_steps()])
def test_a_step_is_the_serial_step(call, layout, net, dtype):
    worst = call(LAYOUTS[layout][0], "lockstep", values=values(net, layout), dtype=dtype, steps=STEPS)[0]
    assert worst["loss"] < LOSS_RTOL[dtype], worst
    assert worst["gradient"] < GRADIENT_RTOL[dtype], worst
    assert max(worst["weights"], worst["buffers"], worst["norm"]) < STATE_RTOL[dtype], worst


# Features, on top of layouts

FEATURES: dict[str, dict[str, Any]] = {
    "recompute": {"execution.recompute": True}, "growing": {"data.image_px_start": 8, "train.epochs": 3},
    "mixed, averaged": {"augment.mixup": 0.4, "augment.cutmix": 1.0, "train.ema": 0.9},
    "unequal": {"train.batch_size": 13},
}  # fmt: skip
SOME = ["fsdp", "1f1b", "interleaved", "tensor", "replicate-pipe", "shard-tensor"]


@pytest.mark.parametrize(
    "feature", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("recompute", "growing"))) for name in FEATURES]
)
@pytest.mark.parametrize("layout", SOME)
def test_features_and_layouts_go_together(call, layout, feature):
    net = "micro-bottleneck" if "tensor" in layout else "micro-convnext"
    given = values(net, layout) | FEATURES[feature]
    worst = call(LAYOUTS[layout][0], "lockstep", values=given, dtype="fp64", steps=STEPS)[0]
    assert worst["loss"] < LOSS_RTOL["fp64"] and worst["gradient"] < GRADIENT_RTOL["fp64"], worst
    assert max(worst["weights"], worst["buffers"], worst["norm"], worst["averages"]) < STATE_RTOL["fp64"], worst


BF16_RTOL = 3e-2  # bf16 keeps 8 bits; sums over ranks round elsewhere
BF16_GRADIENT_RTOL = (
    0.2  # which many layers' rounding has passed through: another seed's gradient is off by more than 1
)


@pytest.mark.parametrize("net", [pytest.param("micro-basic", marks=pytest.mark.slow), "micro-vit"])
@pytest.mark.parametrize("layout", SOME)
def test_layouts_compute_in_bf16(call, layout, net):
    given = values(net, layout) | {"train.precision": "bf16"}
    worst = call(LAYOUTS[layout][0], "lockstep", values=given, dtype="fp32", steps=STEPS)[0]
    assert worst["loss"] < BF16_RTOL and worst["gradient"] < BF16_GRADIENT_RTOL, worst


# Ranks that train apart: with a meeting after every step they are the serial run

APART = {"local-sgd": {}, "diloco": {"optim.outer_lr": 1.0, "optim.outer_momentum": 0.0}}


@pytest.mark.parametrize("dtype", ["fp64", SLOW_FP32])
@pytest.mark.parametrize("net", ["micro-convnext", "micro-vit"])  # LayerNorms: batch norms see each rank's own rows
@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("ranks", [2, 4])
def test_meeting_after_every_step_is_ddp(call, ranks, name, net, dtype):
    """With SGD, whose mean over ranks is the step of the mean; 13 rows are unequal parts."""
    more = {"train.sync_every": 1, "optim.clip_norm": None, "train.batch_size": 13, **APART[name]}
    given = values(net, "") | SGD | more | {"execution.layout": name}
    worst = call(ranks, "lockstep", values=given, dtype=dtype, steps=STEPS)[0]
    assert worst["loss"] < LOSS_RTOL[dtype] and worst["weights"] < STATE_RTOL[dtype], worst


@pytest.mark.parametrize("ranks", [2, 3])
def test_diloco_moves_by_the_outer_formula(call, ranks):
    """Meeting after every step, the mean change is the serial step's: an outer Nesterov step of it, by hand."""
    more = {"train.sync_every": 1, "optim.clip_norm": None, "optim.outer_lr": 0.7, "optim.outer_momentum": 0.9}
    given = values("micro-convnext", "") | SGD | more | {"execution.layout": "diloco"}
    worst = call(ranks, "outer_steps", values=given, dtype="fp64", steps=5)[0]
    assert worst["weights"] < STATE_RTOL["fp64"] and worst["moved"] > 1e-3, worst


@pytest.mark.parametrize("save_at", [3, 4])  # at a meeting and between two
@pytest.mark.parametrize("name", APART)
def test_ranks_that_train_apart_go_on_with_the_same_bits(call, tmp_path, name, save_at):
    given = values("micro-bottleneck", "") | {"execution.layout": name, "train.sync_every": 3}
    whole = call(3, "train_on", values=given, to=7, save_at=save_at, checkpoints=str(tmp_path))
    resumed = call(3, "train_on", values=given, to=7, start=whole[0]["checkpoint"])
    assert [answer["losses"] for answer in resumed] == [answer["losses"][save_at:] for answer in whole]
    assert [answer["digest"] for answer in resumed] == [answer["digest"] for answer in whole]
    assert whole[0]["own"] != whole[1]["own"]  # after step 7, no meeting
    assert (whole[0]["means_bytes"] == 0) == (save_at == 3), "at a meeting the weights are equal already"


def test_ranks_that_train_apart_end_with_the_same_bits_when_resumed_at_their_end(call, tmp_path):
    """A mean of three equal numbers is not always that number: what is equal already is not averaged again."""
    given = values("micro-bottleneck", "") | {"execution.layout": "local-sgd", "train.sync_every": 3}
    whole = call(3, "train_on", values=given, to=3, save_at=3, checkpoints=str(tmp_path))
    resumed = call(3, "train_on", values=given, to=3, start=whole[0]["checkpoint"])
    assert [answer["averaged"] for answer in resumed] == [answer["averaged"] for answer in whole]


def test_parameters_without_dimensions_are_averaged_for_checkpoints(pool):
    assert pool(3).run(f"{JOBS}mean_gain") == [1.0, 1.0, 1.0]


def test_rounded_gradients_are_another_algorithm_and_near(call):
    """bf16 keeps 8 bits: the sum is off by about that, and half the bytes are sent."""
    given = values("micro-vit", "ddp") | {"train.compress_gradients": "bf16"}
    worst = call(2, "lockstep", values=given, dtype="fp32", steps=STEPS)[0]
    assert worst["loss"] < LOSS_RTOL["fp32"] and GRADIENT_RTOL["fp32"] < worst["gradient"] < 2**-7, worst


# 1. Data


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_sees_the_serial_batches(call, layout):
    """Ranks of one part of the batch see the same rows; the parts in their order are the serial microbatch."""
    given = values("micro-basic", layout) | {"train.batch_size": 13}
    serial = call(1, "seen", values={**given, "execution.layout": "serial"}, steps=STEPS)[0]["samples"]
    answers = call(LAYOUTS[layout][0], "seen", values=given, steps=STEPS)
    by_part: dict[int, Any] = {}
    for answer in answers:
        assert by_part.setdefault(answer["data rank"], answer["samples"]) == answer["samples"]
    assert sorted(by_part) == list(range(answers[0]["data ranks"]))
    for step, microbatches in enumerate(serial):
        for index, expected in enumerate(microbatches):
            assert [row for part in sorted(by_part) for row in by_part[part][step][index]] == expected


# 3. A run that is left alone


@pytest.mark.parametrize("dtype", ["fp64", SLOW_FP32])
@pytest.mark.parametrize("net", [pytest.param("micro-bottleneck", marks=pytest.mark.slow), "micro-vit"])
@pytest.mark.parametrize(
    "layout", some_slow("ddp", "fsdp", "hsdp", "gpipe", "1f1b", "interleaved", "tensor", "pipe-tensor")
)
def test_a_run_stays_within_the_noise_of_the_serial_run(call, layout, net, dtype):
    """The noise is how far serial is from itself with samples in other places of their microbatches."""
    given: dict[str, Any] = {"values": values(net, ""), "to": 6, "dtype": dtype}
    serial = np.array(call(1, "train_on", **given)[0]["losses"])

    def distance(losses: list[float]) -> float:
        return float(np.max(np.abs(np.array(losses) - serial) / serial))

    floor = max(distance(call(1, "train_on", **given, exchange=how)[0]["losses"]) for how in ("reversed", "rolled"))
    assert floor > 0
    found = call(LAYOUTS[layout][0], "train_on", **{**given, "values": values(net, layout) | MEASURED})
    if layout == "ddp":
        assert len({answer["digest"] for answer in found}) == 1
    assert distance(found[0]["losses"]) <= FLOOR_FACTOR * floor


# 4. Evaluation


@pytest.fixture(scope="module")
def checkpoint(call, tmp_path_factory) -> dict[str, str]:
    """A serial checkpoint of each network after three steps."""
    place = tmp_path_factory.mktemp("serial")
    return {
        net: call(1, "train_on", values=values(net, ""), to=3, checkpoints=str(place / net))[0]["checkpoint"]
        for net in micro.NAMES
    }


@pytest.mark.parametrize(
    ("layout", "net"),
    [
        *((layout, "micro-vit") for layout in LAYOUTS),
        *((layout, "micro-basic") for layout in WIDELY),
        *(pytest.param(layout, "micro-basic", marks=pytest.mark.slow) for layout in LAYOUTS if layout not in WIDELY),
    ],
)
def test_evaluation_scores_every_sample_once(call, checkpoint, layout, net):
    serial = np.array(call(1, "rows", values=values(net, ""), checkpoint=checkpoint[net])[0])
    answers = call(LAYOUTS[layout][0], "rows", values=values(net, layout), checkpoint=checkpoint[net])
    found = np.array(answers[0])
    assert all(answer is None for answer in answers[1:])
    if layout in ("ddp", "fsdp", "fsdp-4", "hsdp"):  # with one thread
        np.testing.assert_array_equal(found, serial)
    np.testing.assert_allclose(found, serial, rtol=1e-4, atol=1e-5)
    best = np.sort(serial, 1)
    clear = best[:, -1] - best[:, -2] > 1e-4
    assert (found.argmax(1) == serial.argmax(1))[clear].all()


# 5. Checkpoints


PAIRED = [  # layers that tensor parallelism divides, of either kind
    "micro-bottleneck",
    pytest.param("micro-vit", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def checkpoints(call, checkpoint, tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """checkpoints(network), by layout: the serial checkpoint, read by the layout and saved again as it holds it."""
    place = tmp_path_factory.mktemp("layouts")

    @functools.cache
    def of(net: str) -> dict[str, str]:
        return {
            layout: call(
                ranks, "through", values=values(net, layout), start=checkpoint[net], to=str(place / net / layout)
            )[0]
            for layout, (ranks, _) in LAYOUTS.items()
        }

    return of


@pytest.mark.parametrize(
    "others", [(1, 4, 9), pytest.param(range(len(LAYOUTS)), marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("net", PAIRED)
@pytest.mark.parametrize("layout", ["", *LAYOUTS])
def test_what_any_layout_saved_any_other_reads_bit_for_bit(call, checkpoint, checkpoints, layout, net, others):
    """Serial reads all; the others serial's and those of the layouts so many places on, so that all are read by some."""
    saved, names = checkpoints(net), list(LAYOUTS)
    read = [names[(names.index(layout) + on) % len(names)] for on in others] if layout else names
    given, starts = values(net, layout), {"serial": checkpoint[net], **{name: saved[name] for name in read}}
    ranks = LAYOUTS[layout][0] if layout else 1
    found = call(ranks, "differing", values=given, expected=checkpoint[net], starts=starts)[0]
    assert found == {name: [] for name in starts}


@pytest.mark.parametrize(
    "layout", some_slow("ddp", "fsdp-4", "1f1b", "interleaved", "tensor-4", "replicate-pipe", "shard-tensor")
)
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(call, tmp_path, layout):
    """Weights, their averages, and states of the optimizer, of every rank."""
    given, ranks = values("micro-bottleneck", layout) | MEASURED | {"train.ema": 0.9}, LAYOUTS[layout][0]
    whole = call(ranks, "train_on", values=given, to=4, save_at=2, checkpoints=str(tmp_path))
    if whole[0]["cuts"]:  # chosen by measured costs, perhaps others the next time
        given |= {"execution.split_at": whole[0]["cuts"]}
    resumed = call(ranks, "train_on", values=given, to=4, start=whole[0]["checkpoint"])
    assert [answer["losses"] for answer in resumed] == [answer["losses"][2:] for answer in whole]
    assert [answer["digest"] for answer in resumed] == [answer["digest"] for answer in whole]


CHAIN = ["ddp", "fsdp", "gpipe", "tensor", "shard-tensor", "replicate-pipe", "1f1b", "hsdp"]


def test_a_run_goes_on_from_layout_to_layout(call, tmp_path):
    """Two steps in each: the next samples are the undisturbed serial run's, losses stay within the noise."""
    net, steps = "micro-bottleneck", 2
    serial_values = values(net, "")
    whole = call(1, "train_on", values=serial_values, to=steps * (len(CHAIN) + 2))[0]
    start, done = "", 0
    for number, layout in enumerate(["", *CHAIN, ""]):
        ranks = LAYOUTS[layout][0] if layout else 1
        given = values(net, layout) if layout else serial_values
        answers = call(
            ranks, "train_on", values=given, to=done + steps, checkpoints=str(tmp_path / str(number)), start=start
        )
        parts = {answer["data rank"]: answer["samples"] for answer in answers}
        for step in range(steps):
            for index, expected in enumerate(whole["samples"][done + step]):
                assert [row for part in sorted(parts) for row in parts[part][step][index]] == expected, layout
        np.testing.assert_allclose(answers[0]["losses"], whole["losses"][done : done + steps], rtol=1e-4)
        start, done = answers[0]["checkpoint"], done + steps


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "tensor", "replicate-tensor"])
def test_whole_tensors_that_differ_between_ranks_are_not_saved(call, layout):
    with pytest.raises(TrainingError, match=r"differs between rank 0 and ranks \[\d\] \(1 such tensors\); not saved"):
        call(LAYOUTS[layout][0], "spoiled", values=values("micro-bottleneck", layout))


@pytest.mark.parametrize("layout", ["tensor", "tensor-4", "shard-tensor"])
def test_copies_that_drifted_apart_become_equal(call, layout):
    """What GPUs and several machines need, on ranks whose copies of whole gradients and statistics were spoiled."""
    answers = call(LAYOUTS[layout][0], "kept_equal", values=values("micro-bottleneck", layout))
    assert any(len(before) > 3 for before, _ in answers) and not any(after for _, after in answers)
