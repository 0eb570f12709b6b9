"""Real steps on made-up images: what they need, what they leave behind."""

import pytest
import torch

from fanlight.config import Config
from fanlight.errors import ConfigError, TrainingError
from fanlight.train import probe
from fanlight.train.probe import Bench, RankBench
from fanlight.train.step import WholeStep
from train.test_job import limit_rows

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

VALUES = {
    "data.image_px": 16, "data.canvas_px": 20, "model.name": "small-resnet", "augment.crop_share": [0.5, 1.0],
    "augment.eval_share": 1.0, "augment.flip": True, "optim.lr": 0.05, "optim.weight_decay": 5e-4, "train.epochs": 8,
    "train.batch_size": 6, "train.precision": "fp32", "execution.threads": 1, "execution.workers": 1,
    "execution.channels_last": True, "execution.layout": "serial", "execution.ranks": 1,
}  # fmt: skip


def config(**values) -> Config:
    return Config().with_values({**VALUES, **{key.replace("__", "."): value for key, value in values.items()}})


@pytest.fixture
def rows_seen(monkeypatch) -> list[int]:
    seen: list[int] = []
    inner = WholeStep._gradients

    def gradients(self, batch, rows, loss_scale, clock):
        assert rows.images.shape == (len(rows.samples), 16, 16, 3) and rows.images.dtype == torch.uint8
        seen.append(len(rows.samples))
        return inner(self, batch, rows, loss_scale, clock)

    monkeypatch.setattr(WholeStep, "_gradients", gradients)
    return seen


def test_a_bench_takes_the_runs_own_steps(rows_seen):
    timed = Bench(config(train__microbatches=2), classes=3).measure(warmup=1, steps=2)
    assert rows_seen == [3, 3] * 3
    assert len(timed.steps_s) == 2 and timed.step_s > 0 and timed.error == ""
    assert timed.peak_bytes >= timed.held_bytes > 10**7


def test_a_bench_of_several_ranks_alone_takes_one_ranks_share(rows_seen):
    Bench(config(execution__ranks=3, execution__layout="ddp"), classes=3).step()
    assert rows_seen == [2]


def test_batches_are_cut_anew(rows_seen):
    bench = Bench(config(), classes=3)
    bench.measure(batch=2, warmup=0, steps=1)
    bench.cut(40)  # more than there are rows
    bench.step()
    assert rows_seen == [2, 40]


def test_a_probe_asks_nobody_for_weights():
    assert Bench(config(model__weights="/nowhere/weights.pt", model__freeze=True), classes=3).step() > 0


def test_what_speaks_of_real_classes_is_left_out():
    values = {"optim__class_weights": "cat=2,dog=1", "data__sampling": "balanced", "train__ema": 0.9}
    assert Bench(config(**values), classes=3).step() > 0


def test_pairs_stay_together(rows_seen):
    bench = Bench(config(augment__mixup=0.2, execution__ranks=2, execution__layout="ddp"), classes=3)
    bench.step()
    bench.cut(5)
    bench.step()
    assert rows_seen == [2, 4]


def test_one_model_in_another_format_and_on_other_threads(monkeypatch):
    bench, used = Bench(config(), classes=3), []
    inner = probe.timed

    def timed(t, *arguments, **options):
        used.append((t.step.number_format, torch.get_num_threads()))
        return inner(t, *arguments, **options)

    monkeypatch.setattr(probe, "timed", timed)
    for options in ({"number_format": "bf16"}, {"threads": 2}, {}):
        bench.step(**options)
    assert used == [("bf16", 1), ("fp32", 2), ("fp32", 1)]


def test_memory_that_is_not_enough_is_an_answer(monkeypatch):
    limit_rows(monkeypatch, 2)
    bench = Bench(config(), classes=3)
    assert bench.measure(steps=1).error == "CUDA out of memory. Tried 6 rows"
    assert bench.measure(batch=2, steps=1).error == ""


def test_other_errors_are_errors():
    with pytest.raises(ConfigError, match="lenet6"):
        Bench(config(model__name="lenet6"), classes=3)


def test_nothing_is_left_behind():
    torch.set_num_threads(2)
    before = torch.random.get_rng_state()
    with probe.undisturbed(torch.device("cpu")):
        Bench(config(), classes=3).step()
        torch.rand(1)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.random.get_rng_state(), before)


def test_ranks_step_together_and_keep_their_model(pool):
    bench = RankBench(pool(2), config(execution__ranks=2, execution__layout="ddp"), classes=3)
    timed = bench.measure(batch=8, warmup=0, steps=2)
    assert len(timed.steps_s) == 2 and timed.peak_bytes > 10**7
    assert bench.step() > 0
    with pytest.raises((ConfigError, TrainingError), match="lenet6"):
        RankBench(pool(2), config(model__name="lenet6", execution__ranks=2, execution__layout="ddp"), classes=3).step()
