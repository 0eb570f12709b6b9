"""Functions that tests of captioners in layouts run on ranks: one step of any layout against the serial one. fp64."""

import contextlib
import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fanlight.data import vocabulary
from fanlight.data.vocabulary import Vocabulary
from fanlight.models import keyed, recompute, told, zoo
from fanlight.parallel import comm, held
from fanlight.parallel.comm import World
from fanlight.parallel.layout import Layout
from fanlight.parallel.parallelize import place, reduced_over_ranks
from fanlight.parallel.pipeline import Pipeline, Work
from fanlight.tasks.caption import Caption
from fanlight.train import parts
from fanlight.types import END, PAD, START

ROWS, CAPTIONS, LONGEST, WORDS, PX = 4, 2, 8, 30, 16  # of each of two microbatches
TASK = Caption(
    Vocabulary((*vocabulary.SPECIAL, *map(str, range(4, WORDS)))), longest=LONGEST - 2, per_image=CAPTIONS, beams=1
)


def microbatches() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Samples, images and words; captions of 1 to 6 words, one slot without any."""
    random = torch.Generator().manual_seed(0)
    found = []
    for number in range(2):
        images = torch.randn(ROWS, 3, PX, PX, generator=random, dtype=torch.float64)
        words = torch.randint(4, WORDS, (ROWS, CAPTIONS, LONGEST), generator=random)
        lengths = torch.randint(1, LONGEST - 1, (ROWS, CAPTIONS), generator=random)[:, :, None]
        place = torch.arange(LONGEST)
        words[:, :, 0] = START
        words = words.masked_fill(place == lengths + 1, END).masked_fill(place > lengths + 1, PAD)
        words[number, 1] = PAD
        found.append((torch.arange(ROWS) + ROWS * number, images, words))
    return found


def loss_of(logits: Tensor, words: Tensor) -> Tensor:
    return TASK.loss_sum(logits, words)


def gradient_error(
    world: World, *, model: str, layout: dict[str, Any], forgets: bool = False
) -> dict[str, float] | None:
    """‖g − g₀‖ / ‖g₀‖ of the whole gradient, and the loss's relative error, on rank 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _gradient_error(world, model, Layout(**layout), forgets)


def _gradient_error(world: World, name: str, layout: Layout, forgets: bool) -> dict[str, float] | None:
    whole = zoo.create(name, classes=WORDS, image_px=PX, seed=0, longest=LONGEST).model.double()
    serial = copy.deepcopy(whole)
    expected, expected_loss = _step({0: serial}, keyed.install(serial), Layout(), comm.alone(), reduced={})
    world = comm.connect(world, layout)
    keys, words = keyed.install(whole), told.words_of(whole)
    if forgets:
        recompute.install(whole, keys)

    def ready(rows: int, device: torch.device) -> None:
        keys.set(seed=0, epoch=0, samples=torch.zeros(rows, dtype=torch.int64))
        words.set(torch.full((rows, CAPTIONS, LONGEST), END))

    example = torch.randn(2, 3, PX, PX, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    placed = place(
        whole, layout, world, channels_last=False, example=example, rows=ROWS // layout.data_ranks, microbatches=2,
        ready=ready,
    )  # fmt: skip
    reduced = reduced_over_ranks(placed, layout, world, number_format="fp32")
    found, loss = _step(placed.stages, keys, layout, world, reduced=reduced)
    whole_held = dict(placed.held)
    for each in reduced.values():
        whole_held |= getattr(each, "held", {})
    losses = world.sum_host(np.array([loss if layout.place(world.rank).tp == 0 else 0.0]))
    parts.plan(found, whole_held.get, world)
    gathered = parts.whole_on_first(found, whole_held.get, world)
    if gathered is None:
        return None
    assert gathered.keys() == expected.keys()
    first, second = (torch.cat([each[key].flatten() for key in expected]) for each in (gathered, expected))
    return {
        "gradient": float((first - second).norm() / second.norm()),
        "loss": abs(float(losses[0]) - expected_loss) / expected_loss,
    }


def _step(
    stages: dict[int, nn.Module], keys: keyed.Keys, layout: Layout, world: World, *, reduced: dict[int, Any]
) -> tuple[dict[str, Tensor], float]:
    """This rank's part of the gradient, and its rows' loss."""
    rank, ranks = layout.data_rank(world.rank), layout.data_ranks
    rows = slice(rank * ROWS // ranks, (rank + 1) * ROWS // ranks)
    mine = [[each[rows] for each in batch] for batch in microbatches()]
    called = {
        number: (reduced[number].wrapped or module) if number in reduced else module
        for number, module in stages.items()
    }
    decoder = next((words for module in stages.values() if (words := told.words_of(module))), None)
    total = 0.0

    def before(number: int) -> None:
        keys.set(seed=1, epoch=0, samples=mine[number][0])
        if decoder is not None:
            decoder.set(mine[number][2])

    def loss(logits: Tensor, number: int) -> Tensor:
        nonlocal total
        summed = loss_of(logits, mine[number][2])
        total += float(summed.detach())
        return summed

    for module in stages.values():
        module.train()
    if layout.pp > 1:
        pipeline = Pipeline(
            called, layout, world, autocast=contextlib.nullcontext,
            example=lambda key: torch.zeros(key[0], 3, PX, PX, dtype=torch.float64),
        )  # fmt: skip
        with contextlib.ExitStack() as sending:
            pipeline.step(
                Work(
                    tuple((len(batch[0]), PX) for batch in mine), lambda number: mine[number][1], loss, before,
                    ended=lambda phase: None,
                    last_backward=lambda stage: (
                        sending.enter_context(reduced[stage].accumulating(False)) if stage in reduced else None
                    ),
                )
            )  # fmt: skip
    else:
        for number in range(len(mine)):
            more = number + 1 < len(mine)
            with reduced[0].accumulating(more) if 0 in reduced else contextlib.nullcontext():
                before(number)
                loss(called[0](mine[number][1]), number).backward()
    found = {
        name: held.local(p.new_zeros(p.shape) if p.grad is None else p.grad).clone()
        for module in stages.values()
        for name, p in module.named_parameters()
    }
    return found, total
