"""One step's gradients and sums, whole on this rank; and the evaluation's forward."""

import contextlib
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fanlight.data import policy
from fanlight.models import keyed
from fanlight.tasks.classify import Classify
from fanlight.train.clock import StepClock
from fanlight.train.step import Normalise, Sight, WholeStep
from fanlight.types import Batch, Changes, Mix, Position, Rows

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
FP64_RTOL = 1e-12  # worst measured 3.9e-14, of a small element: the same sums in parts
CUTS = [[9], [5, 4], [1, 6, 2], [3, 3, 3]]
PIXELS = torch.randint(0, 256, (9, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Dropout2d(dropout), nn.Flatten(), nn.Dropout(dropout), nn.Linear(20, 3)]
    return nn.Sequential(*layers).double()


def normalise(*, channels_last: bool = False, dtype: torch.dtype = torch.float64) -> Normalise:
    return Normalise(MEAN, STD, like=torch.zeros((), dtype=dtype), channels_last=channels_last)


def batch(cut: list[int], *, denominator: float = 9.0, epoch: int = 0) -> Batch:
    ends = np.cumsum(cut)
    parts = tuple(
        Rows(np.arange(end - size, end) + 70, PIXELS[end - size : end], TARGETS[end - size : end])
        for size, end in zip(cut, ends)
    )
    return Batch(Position(epoch, 0), parts, denominator, 0.0)


def ticking() -> StepClock:
    clock = StepClock(CPU)
    clock.begin()
    clock.arrived()
    return clock


def stepped(
    model: nn.Module, given: Batch, *, smoothing: float = 0.0, loss_scale: float = 1.0, **options: Any
) -> tuple[list[float], list[torch.Tensor]]:
    """Sums and gradients of one step."""
    sight = Sight(Classify(("a", "b", "c"), smoothing), normalise(), 3, CPU, options.pop("keys", None))
    step = WholeStep(model, sight, number_format="fp32", **options)
    sums = step(given, loss_scale=loss_scale, clock=ticking())
    assert sums.dtype == torch.float64
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return sums.tolist(), gradients


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cut", [[8], [2, 6], [4, 2, 2]])
def test_mixed_rows_count_by_their_shares(cut, smoothing):
    """λ·CE(y) + (1−λ)·CE(y of the partner), over the denominator without mixing; hits by the larger share."""
    shares = torch.tensor([0.3, 0.3, 0.9, 0.9, 0.5, 0.5, 1.0, 1.0], dtype=torch.float64)
    box = torch.zeros((8, 4), dtype=torch.int64)
    box[4:6] = torch.tensor([0, 0, 2, 4])  # the left half
    given = batch(cut, denominator=8.0)
    parts, first = [], 0
    for rows in given.parts:
        end = first + len(rows.samples)
        mixed = Mix(shares[first:end], box[first:end])
        parts.append(Rows(rows.samples, rows.images, rows.targets, mix=mixed))
        first = end
    model = network()
    sums, gradients = stepped(model, replace(given, parts=tuple(parts)), smoothing=smoothing)
    x, partner = normalise()(PIXELS[:8]), torch.arange(8) ^ 1
    weight = shares.view(-1, 1, 1, 1).expand(8, 1, 4, 4).clone()
    weight[4:6, :, :, :2], weight[4:6, :, :, 2:] = 0, 1
    logits = model(weight * x + (1 - weight) * x[partner])
    labels = F.one_hot(TARGETS[:8], 3).double()
    soft = shares[:, None] * labels + (1 - shares[:, None]) * labels[partner]
    loss = F.cross_entropy(logits, soft, label_smoothing=smoothing)
    loss.backward()
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], rtol=FP64_RTOL, atol=1e-15)
    main = torch.where(shares >= 0.5, TARGETS[:8], TARGETS[:8][partner])
    assert sums == [pytest.approx(8 * loss.item(), rel=FP64_RTOL), float((logits.argmax(1) == main).sum()), 8]


def test_what_is_left_to_the_device_happens_before_the_network():
    names = [op.name for op in policy.OPS]
    changes = Changes(np.full((9, 1), names.index("solarize")), np.full((9, 1), 100.0), np.zeros((9, 4), int))
    given = batch([9])
    part = replace(given.parts[0], changes=changes)
    done = torch.where(PIXELS >= 156, 255 - PIXELS, PIXELS)
    sums, _ = stepped(network(), replace(given, parts=(part,)))
    expected, _ = stepped(network(), replace(given, parts=(replace(given.parts[0], images=done),)))
    assert sums == expected != stepped(network(), given)[0]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_become_zero_mean_and_unit_spread(channels_last, dtype):
    x = normalise(channels_last=channels_last, dtype=dtype)(PIXELS)
    expected = (PIXELS.double() / 255 - torch.tensor(MEAN, dtype=torch.float64)) / torch.tensor(
        STD, dtype=torch.float64
    )
    torch.testing.assert_close(x.double(), expected.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)
    assert x.dtype == dtype
    assert x.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert PIXELS.dtype == torch.uint8 and PIXELS.max() > 250  # the batch's own pixels are as they were


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cut", CUTS)
def test_microbatches_add_up_to_the_gradient_of_the_mean(cut, smoothing):
    model = network()
    sums, gradients = stepped(model, batch(cut), smoothing=smoothing)
    logits = model(normalise()(PIXELS))
    F.cross_entropy(logits, TARGETS, label_smoothing=smoothing).backward()
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], rtol=FP64_RTOL, atol=1e-15)
    loss = F.cross_entropy(logits, TARGETS, label_smoothing=smoothing).item()
    assert sums == [pytest.approx(9 * loss, rel=FP64_RTOL), float((logits.argmax(1) == TARGETS).sum()), 9]


def test_the_denominator_is_the_batchs_not_this_ranks_rows():
    model = network()
    _, gradients = stepped(model, batch([9]))
    sums, halved = stepped(model, batch([9], denominator=18.0))
    torch.testing.assert_close([2 * g for g in halved], gradients, rtol=0, atol=0)
    assert sums[2] == 9


def test_the_loss_scale_is_in_the_gradients_and_not_in_the_sums():
    model = network()
    plain_sums, gradients = stepped(model, batch([5, 4]))
    sums, scaled = stepped(model, batch([5, 4]), loss_scale=1024.0)
    assert sums == plain_sums
    torch.testing.assert_close(scaled, [1024 * g for g in gradients], rtol=0, atol=0)


@pytest.mark.parametrize("cut", CUTS[1:])
def test_keyed_dropout_drops_by_sample_epoch_and_seed(cut):
    model = network(dropout=0.4)
    keys = keyed.install(model)
    assert keyed.unkeyed(model) == []
    sums, gradients = stepped(model, batch([9]), keys=keys)
    in_parts, gradients_in_parts = stepped(model, batch(cut), keys=keys)
    assert in_parts == pytest.approx(sums, rel=FP64_RTOL)
    torch.testing.assert_close(gradients_in_parts, gradients, rtol=FP64_RTOL, atol=1e-15)
    other_epoch, _ = stepped(model, batch([9], epoch=1), keys=keys)
    assert other_epoch[0] != pytest.approx(sums[0], rel=1e-3)


def test_a_sample_that_is_drawn_again_drops_other_things():
    model = network(dropout=0.4)
    keys = keyed.install(model)
    rows = batch([9]).parts[0]
    sums = []
    for hashed_by in (None, rows.samples, rows.samples + (1 << 40)):
        given = Batch(Position(0, 0), (Rows(rows.samples, rows.images, rows.targets, keys=hashed_by),), 9.0, 0.0)
        sums.append(stepped(model, given, keys=keys)[0][0])
    assert sums[0] == sums[1] != pytest.approx(sums[2], rel=1e-3)


def test_bf16_computes_the_network_in_bf16_and_the_loss_in_fp32():
    model = network().float()
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    task = Classify(("a", "b", "c"))
    step = WholeStep(model, Sight(task, normalise(dtype=torch.float32), 0, CPU), number_format="bf16")
    losses = []
    real = Classify.loss_sum

    def loss_sum(self, logits, targets):
        losses.append(real(self, logits, targets))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classify, "loss_sum", loss_sum)
        step(batch([9]), loss_scale=1.0, clock=ticking())
    assert seen == [torch.bfloat16] and losses[0].dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_evaluation_changes_nothing_and_trains_on():
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(5).requires_grad_(False)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 1), frozen, nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Flatten(), nn.Linear(80, 3)
    )
    task = Classify(("a", "b", "c"))
    step = WholeStep(model, Sight(task, normalise(dtype=torch.float32), 0, CPU), number_format="fp32")
    assert step.parts == [model] and step.needs_images and step.needs_targets
    modes = [module.training for module in model.modules()]
    assert modes[2:4] == [False, True]  # a norm whose weights do not move keeps its statistics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = batch([9]).parts[0]
    with step.evaluating():
        first, second = step.forward(rows), step.forward(rows)
    assert torch.equal(first, second) and not first.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(first, model.eval()(normalise(dtype=torch.float32)(rows.images)))


def test_a_failed_evaluation_still_trains_on():
    model = network()
    step = WholeStep(model, Sight(Classify(("a", "b", "c")), normalise(), 0, CPU), number_format="fp32")
    with pytest.raises(RuntimeError), step.evaluating():
        step.forward(Rows(np.arange(1), PIXELS[:1, :2], TARGETS[:1]))  # too small for the network
    assert all(module.training for module in model.modules())


class Sending:
    """A stand-in for replication: the last microbatch's backward hands over one bucket, 10 ms before it ends."""

    def __init__(self, model: nn.Module):
        self.wrapped, self.sent_at, self._more, self.gathers = model, time.perf_counter(), False, False
        model[5].register_full_backward_hook(self._send)

    @contextlib.contextmanager
    def accumulating(self, more: bool):
        self._more = more
        yield

    def _send(self, *_: Any) -> None:
        if not self._more:
            self.sent_at = time.perf_counter()
            time.sleep(0.01)


class Recording(StepClock):
    """Keeps which parts were marked, and which of them were split."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.names: list[str] = []
        self.begin()
        self.arrived()
        self.names.clear()

    def mark(self, name: str) -> None:
        super().mark(name)
        self.names.append(name)


@pytest.mark.parametrize("is_replicated", [False, True])
def test_only_waiting_for_the_network_is_communication(is_replicated):
    """A microbatch that sends nothing has none, though an earlier one has sent."""
    model, clock = network(), Recording()
    replicated: Any = Sending(model) if is_replicated else None
    task = Classify(("a", "b", "c"))
    step = WholeStep(
        model, Sight(task, normalise(), 0, CPU), number_format="fp32", reduced=replicated
    )  # fmt: skip
    for _ in range(2):
        step(batch([5, 4]), loss_scale=1.0, clock=clock)
    last = "communication" if is_replicated else "backward"
    assert clock.names == ["copy", "forward", "backward", "copy", "forward", last] * 2
    clock.end(step=1)
    row = clock.finish()[0]
    assert (row["communication_s"] >= 0.02) == is_replicated
    assert row["backward_s"] > 0
