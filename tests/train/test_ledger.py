"""What ranks agree on after a step: sums, whether to stop, whether to save, and whether the loss is still a number."""

import math

import pytest
import torch

from fanlight.errors import TrainingError
from fanlight.parallel.comm import alone
from fanlight.train.ledger import GPU_STEPS, Ledger

JOB = "parallel.state_jobs:keep_ledger"
RANKS = [1, 2, 3, 4]
FALSE = [False, False, False]


def add(ledger: Ledger, loss: float, *, norm: float = 1.0, weight: float = 4.0) -> None:
    """A step of four rows, one of them right."""
    sums = torch.tensor([loss, 1.0, 4.0], dtype=torch.float64)
    ledger.add(sums, denominator=weight, norm=torch.tensor(norm))


def sums(ranks: int, steps: int) -> list[list[list[float]]]:
    """[loss sum, hits, rows, gradient norm] by step and rank: uneven rows."""
    return [[[2.0 * step + rank, rank, 3 + rank, 1.5] for rank in range(ranks)] for step in range(1, steps + 1)]


@pytest.mark.parametrize("ranks", RANKS)
def test_an_epoch_is_the_sum_over_steps_and_ranks(pool, ranks):
    given = sums(ranks, 3)
    answers = pool(ranks).run(JOB, sums=given, stop={}, save={})
    loss, hits, rows = (sum(row[i] for step in given for row in step) for i in range(3))
    expected = {"loss": pytest.approx(loss / (rows / 2)), "accuracy": pytest.approx(hits / rows)}
    assert answers == [{"decisions": [FALSE] * 3, "epoch": expected, "after": [0, 0, 0, 0]}] * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_one_ranks_wish_stops_all_at_the_same_step(pool, ranks):
    for wishing in range(ranks):
        answers = pool(ranks).run(JOB, sums=sums(ranks, 3), stop={str(wishing): 2}, save={})
        assert [answer["decisions"] for answer in answers] == [[FALSE, [True, False, False], FALSE]] * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_only_the_first_ranks_clock_decides_to_save(pool, ranks):
    everyone = {str(rank): 1 + rank % 2 for rank in range(ranks)}
    answers = pool(ranks).run(JOB, sums=sums(ranks, 3), stop={}, save=everyone)
    assert [answer["decisions"] for answer in answers] == [[[False, True, False], FALSE, FALSE]] * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_one_ranks_clock_ends_training_on_all_at_the_same_step(pool, ranks):
    over = {str(ranks - 1): 2}
    answers = pool(ranks).run(JOB, sums=sums(ranks, 3), stop={}, save={}, over=over)
    assert [answer["decisions"] for answer in answers] == [[FALSE, [False, False, True], FALSE]] * ranks


@pytest.mark.parametrize(("value", "word"), [(math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "nan")])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_loss_that_is_no_number_ends_every_rank_with_step_and_cause(pool, ranks, value, word):
    given = sums(ranks, 4)
    given[2][ranks - 1][0] = value
    answers = pool(ranks).run(JOB, sums=given, stop={}, save={})
    assert answers == [answers[0]] * ranks
    kind, text = answers[0]["raised"]
    assert kind == "TrainingError" and len(answers[0]["decisions"]) == 2
    assert text.startswith(f"the loss is {word} at step 3; it was ")
    assert text.endswith("use --precision fp32 or a lower --lr. What was saved before that step is kept")


@pytest.mark.parametrize(
    ("losses", "cause"),
    [
        ([], "it is so from the first step: the starting weights or --lr are at fault"),
        ([2.0, 1.9], r"it was 2, 1\.9 before: a number overflowed at once"),
        ([2.0, 5.0, 80.0], r"it rose before \(2, 5, 80\): the steps are too large; use a lower --lr"),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0], "it was 7, 6, 5, 4, 3 before"),
    ],
)
def test_the_cause_is_read_from_the_losses_before(losses, cause):
    ledger = Ledger(alone())
    for step, loss in enumerate(losses, 1):
        add(ledger, 4 * loss)
        assert ledger.exchange(step=step, stop=False, save=False) == (False, False, False)
    add(ledger, math.nan)
    with pytest.raises(TrainingError, match=rf"the loss is nan at step {len(losses) + 1}; {cause}"):
        ledger.exchange(step=len(losses) + 1, stop=False, save=False)


def test_several_open_steps_are_exchanged_together_and_numbered_right():
    """As on a GPU, where reading a sum waits for the device."""
    ledger = Ledger(alone())
    for loss in (4.0, 8.0, math.inf, 1.0):
        add(ledger, loss)
    with pytest.raises(TrainingError, match=r"the loss is inf at step 9; it was 1, 2 before"):
        ledger.exchange(step=10, stop=False, save=False)
    assert ledger.recent == [1.0, 2.0]


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_gradient_that_is_no_number_ends_every_rank_with_step_and_cause(pool, ranks, value):
    """Though the loss of that step still is one."""
    given = sums(ranks, 4)
    for numbers in given[2]:
        numbers[3] = value
    answers = pool(ranks).run(JOB, sums=given, stop={}, save={})
    assert answers == [answers[0]] * ranks
    kind, text = answers[0]["raised"]
    assert kind == "TrainingError" and len(answers[0]["decisions"]) == 2
    assert text.startswith(f"the gradient's norm is {value} at step 3, where the loss is ")
    assert text.endswith("use --precision fp32 or a lower --lr. What was saved before that step is kept")


def test_the_loss_is_by_weight_and_the_accuracy_by_rows():
    ledger = Ledger(alone())
    for loss, weight in ((6.0, 2.0), (4.0, 8.0)):
        add(ledger, loss, weight=weight)
        ledger.exchange(step=1, stop=False, save=False)
    assert ledger.recent == [3.0, 0.5]
    assert ledger.close_epoch() == {"loss": 1.0, "accuracy": 0.25}


def test_an_exchange_without_new_steps_still_agrees():
    ledger = Ledger(alone())
    assert not ledger.is_due
    assert ledger.exchange(step=0, stop=True, save=False) == (True, False, False)
    assert ledger.epoch_sums.tolist() == [0, 0, 0, 0]


def test_ranks_that_train_apart_exchange_seldom():
    ledger = Ledger(alone(), every=3)
    for loss, is_due in ((4.0, False), (2.0, False), (6.0, True)):
        add(ledger, loss)
        assert ledger.is_due == is_due
    ledger.exchange(step=3, stop=False, save=False)
    assert not ledger.is_due and len(ledger.recent) == 3


def test_gpus_are_read_every_few_steps_only():
    ledger = Ledger(alone("cuda"))  # a name: nothing is put there
    for count in range(1, GPU_STEPS + 1):
        add(ledger, 1.0)
        assert ledger.is_due == (count == GPU_STEPS)
