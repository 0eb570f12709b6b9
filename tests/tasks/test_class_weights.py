"""Weights of classes: formulas by inverting them, words that mean none, and the loss that they weigh."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.tasks import class_weights
from fanlight.tasks.classify import Classify

CLASSES = ("cat", "dog", "emu")
some_counts = st.lists(st.integers(0, 5000), min_size=3, max_size=3)


@given(some_counts)
def test_balanced_classes_count_the_same_in_all(counts):
    weights = np.array(class_weights.of("balanced", classes=CLASSES, counts=np.array(counts)))
    totals = weights * counts
    here = np.array(counts) > 0
    assert totals[here] == pytest.approx(sum(counts) / max(1, here.sum()))
    assert (weights[~here] == 1).all()


@given(some_counts.filter(any))
def test_effective_numbers_invert_to_the_images(counts):
    weights = np.array(class_weights.of("effective", classes=CLASSES, counts=np.array(counts)))
    here = np.array(counts) > 0
    assert (weights * counts).sum() == pytest.approx(sum(counts))  # a mean of 1 over images
    numbers = 1 / weights[here]  # effective, but for a common factor
    factor = (1 - class_weights.BETA ** np.array(counts)[here]) / (1 - class_weights.BETA) / numbers
    assert factor == pytest.approx(factor[0])
    assert (weights[~here] == 1).all()


def test_effective_numbers_are_between_none_and_balanced():
    counts = np.array([10, 1000, 100_000])
    balanced, effective = (
        np.array(class_weights.of(name, classes=CLASSES, counts=counts)) for name in ("balanced", "effective")
    )
    assert balanced[0] / balanced[1] == pytest.approx(100)
    assert effective[0] / effective[1] == pytest.approx((1 - 0.999**1000) / (1 - 0.999**10))
    assert 1 < effective[1] / effective[2] < 2  # beyond 1 / (1 − β) images more of them matter little


def test_explicit_weights():
    assert class_weights.of("emu=2.5, cat = 0.5", classes=CLASSES, counts=np.zeros(3)) == (0.5, 1.0, 2.5)
    assert class_weights.of("a=b=3", classes=("a=b", "c"), counts=np.zeros(2)) == (3.0, 1.0)
    assert class_weights.of("balanced=2", classes=("balanced", "c"), counts=np.zeros(2)) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("equal", "'equal' is no name=weight; use balanced, effective, or name=weight pairs such as cat=2,emu=0.5"),
        ("cat=2,", "'' is no name=weight"),
        ("cta=2", "there is no class 'cta'. Near names: cat."),
        ("cat=2,cat=3", "names cat twice; keep one of them"),
        ("cat=0", "cat=0 should be a number above 0"),
        ("cat=-1", "cat=-1 should be a number above 0"),
        ("cat=inf", "cat=inf should be a number above 0"),
        ("cat=1e38,dog=1e38", r"cat=1e38 should be a number above 0, from 1e-06 to 1e\+06"),
        ("cat=1e-300", "cat=1e-300 should be a number above 0, from 1e-06"),
        ("cat=much", "cat=much should be a number above 0"),
    ],
)
def test_what_is_no_weight_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        class_weights.of(text, classes=CLASSES, counts=np.ones(3))


def test_words_name_the_heaviest_first():
    assert class_weights.words((0.5, 1, 2.5), CLASSES) == "emu 2.5, dog 1, cat 0.5"
    many = class_weights.words(range(20), [f"c{number}" for number in range(20)])
    assert many == "c19 19, c18 18, c17 17, c16 16, …, c3 3, c2 2, c1 1, c0 0"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_over_the_summed_weights_is_a_mean_over_copies(smoothing):
    """A weight of 3 is the row three times: the definition, also with smoothing, where torch's own weights differ."""
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 2])
    task = Classify(CLASSES, smoothing, (1.0, 3.0, 2.0))
    weights = task.weights(targets.numpy())
    assert weights.tolist() == [1, 3, 2, 2]
    copies = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 3, 2, 2]))
    expected = F.cross_entropy(logits[copies], targets[copies], label_smoothing=smoothing)
    assert float(task.loss_sum(logits, targets) / weights.sum()) == pytest.approx(float(expected), rel=1e-12)
    assert task.loss_sum(logits.bfloat16(), targets).dtype == torch.float32
    assert task.notes == ["weights of the classes in the training loss: dog 3, emu 2, cat 1"]


def test_equal_weights_are_no_weights():
    logits, targets = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    plain, weighted = Classify(CLASSES, 0.1), Classify(CLASSES, 0.1, (1.0, 1.0, 1.0))
    assert plain.notes == []
    torch.testing.assert_close(plain.loss_sum(logits, targets), weighted.loss_sum(logits, targets), rtol=1e-12, atol=0)
