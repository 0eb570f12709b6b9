"""Every layout trains captions as the serial run does, though ranks see unlike numbers of words."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fanlight.data import order
from fanlight.data.loader import train_batches
from fanlight.parallel import comm
from fanlight.train import build, folder, prepare
from fanlight.train.clock import StepClock
from fanlight.types import Position
from train import sentences

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")
SMALL = (
    "--image-size",
    "16",
    "--ranks",
    "2",
    "--batch-size",
    "6",
    "--microbatches",
    "2",
    "--set",
    "caption.per_image=2",
)


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> Path:
    return sentences.make(tmp_path_factory.mktemp("data") / "said", images=20)


@pytest.mark.parametrize(
    ("model", "layouts"),
    [("small-resnet+lstm16", "ddp,fsdp,pipeline 1f1b"), ("small-resnet+transformer128x1", "ddp,pipeline gpipe,tensor")],
)
def test_layouts_equal_the_serial_run_in_fp64(quick_ranks, fanlight, said, model, layouts):
    answer = fanlight(
        "verify", said, "--model", model, *SMALL, "--steps", "2", "--precision", "fp64", "--only", layouts, "--json"
    )
    assert answer.code == 0, answer.err
    rows = {row["name"]: row for row in json.loads(answer.out)["layouts"]}
    assert list(rows) == layouts.split(",")
    for row in rows.values():
        assert row["passed"] and row["same_batches"] and row["evaluation_equal"] and row["resume_equal"], row
        assert row["loss_error"] < 1e-12 and row["gradient_error"] < 1e-11


def test_gathered_weights_evaluate_as_weights_at_rest_in_every_bit(quick_ranks, fanlight, said):
    """Also behind small-grid's edges, whose order in memory is nobody's but their own."""
    answer = fanlight(
        "verify", said, "--model", "small-grid+transformer64x1", *SMALL, "--steps", "1", "--precision", "fp32", "--only", "fsdp",
        "--json",
    )  # fmt: skip
    (row,) = json.loads(answer.out)["layouts"]
    assert answer.code == 0 and row["passed"], row


def built(said, run, **options):
    config = sentences.config(said, **options)
    path = prepare.prepare(config, out=run, command="test")
    return build.build(folder.read_config(path), folder.read_manifest(path), comm.alone(), dtype=torch.float64)


def batches(t, *, count):
    made = train_batches(t.samples["train"], t.cutting, start=Position(0, 0), epochs=9, workers=1)
    return [next(made) for _ in range(count)]


def gradient(t, batch) -> tuple[float, torch.Tensor]:
    clock = StepClock(t.world.device)
    clock.begin(), clock.arrived()
    for part in t.step.parts:
        part.zero_grad(set_to_none=True)
    loss = float(t.step(batch, loss_scale=1.0, clock=clock)[0]) / batch.denominator
    return loss, torch.cat([p.grad.flatten() for part in t.step.parts for p in part.parameters()])


def test_the_denominator_is_all_words_of_the_global_batch(said, own_place):
    t = built(said, own_place / "run")
    ranks = [batch_of_rank(t, rank) for rank in range(3)]
    words = sum(int((rows.targets[..., 1:] != 0).sum()) for batch in ranks for rows in batch.parts)
    assert len({batch.denominator for batch in ranks}) == 1 and ranks[0].denominator == words
    own = [sum(int((rows.targets[..., 1:] != 0).sum()) for rows in batch.parts) for batch in ranks]
    assert len(set(own)) > 1  # no rank's mean would do


def batch_of_rank(t, rank):
    cutting = replace(t.cutting, rank=rank, ranks=3)
    return next(train_batches(t.samples["train"], cutting, start=Position(0, 0), epochs=1, workers=1))


@pytest.mark.parametrize("model", ["small-cnn+lstm16", "small-cnn+transformer64x1"])
def test_padding_and_the_order_in_a_batch_change_neither_loss_nor_gradient(said, own_place, model):
    t = built(said, own_place / "run", model=model, caption__longest=15)
    (batch,) = batches(t, count=1)
    expected, expected_gradient = gradient(t, batch)
    (rows,) = batch.parts
    room = t.task.longest + 2 - rows.targets.shape[2]
    wide = replace(rows, targets=torch.nn.functional.pad(rows.targets, (0, room)))
    turned_places = np.arange(len(rows.samples))[::-1].copy()
    turned = replace(
        rows, samples=rows.samples[turned_places], images=rows.images[turned_places], keys=rows.keys[turned_places],
        targets=rows.targets[turned_places],
    )  # fmt: skip
    assert room > 0
    for changed in (wide, turned):
        loss, found = gradient(t, replace(batch, parts=(changed,)))
        assert loss == pytest.approx(expected, rel=1e-12)
        assert float((found - expected_gradient).norm() / expected_gradient.norm()) < 1e-11


def test_batches_hold_captions_of_like_length_and_every_sample_once(said, own_place):
    t = built(said, own_place / "run", batch_size=4, caption__per_image=1, caption__window=32)
    found = batches(t, count=t.steps_per_epoch)
    widths = [int((rows.targets != 0).sum(-1).max()) for batch in found for rows in batch.parts]
    own = [(rows.targets != 0).sum(-1).flatten() for batch in found for rows in batch.parts]
    everyone = torch.cat(own)
    spread = float(torch.stack([each.double().std() for each in own]).mean())
    assert spread < float(everyone.double().std()) / 2 and len(set(widths)) > 1
    samples = np.concatenate([rows.samples for batch in found for rows in batch.parts])
    assert len(np.unique(samples)) == len(samples)


def test_small_images_come_in_the_keyed_order(said, own_place):
    """Long sentences speak of much that is in a picture: batches of like pictures teach a small network less."""
    t = built(said, own_place / "run", batch_size=4, caption__per_image=1)
    found = [rows.samples for batch in batches(t, count=t.steps_per_epoch) for rows in batch.parts]
    keyed = order.samples_of(order.epoch_order(len(t.samples["train"]), seed=t.config.train.seed, epoch=0))
    assert np.concatenate(found).tolist() == keyed[: t.steps_per_epoch * 4].tolist()


def test_other_images_change_the_loss(said, own_place):
    t = built(said, own_place / "run")
    (batch,) = batches(t, count=1)
    (rows,) = batch.parts
    plain, _ = gradient(t, batch)
    other, _ = gradient(t, replace(batch, parts=(replace(rows, images=rows.images.roll(1, 0)),)))
    assert abs(other - plain) / plain > 1e-6
