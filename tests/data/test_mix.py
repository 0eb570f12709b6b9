"""Pairs of images: how they are drawn, and what becomes of pixels and labels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from fanlight.config import Augment
from fanlight.data import mix
from fanlight.types import Mix

KS = 1.95  # √n times the Kolmogorov-Smirnov distance: once in 1,000; the seeds here are fixed


def drawn(count: int = 4000, *, epoch: int = 0, seed: int = 0, image_px: int = 32, **values) -> Mix:
    found = mix.draw(np.arange(count), Augment(**values), seed=seed, epoch=epoch, image_px=image_px)
    assert found is not None
    return found


def is_uniform(values: np.ndarray) -> bool:
    ranks = np.arange(1, len(values) + 1) / len(values)
    return bool(np.abs(np.sort(values) - ranks).max() * len(values) ** 0.5 < KS)


def area(found: Mix) -> torch.Tensor:
    return (found.box[:, 2] - found.box[:, 0]) * (found.box[:, 3] - found.box[:, 1])


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 3.0, 50.0])
def test_the_beta_is_undone_by_its_distribution(alpha):
    u, v = np.random.default_rng(0).random((2, 5000))
    share = mix.symmetric_beta(u, v, alpha=alpha)
    assert (share >= 0).all() and (share <= 1).all()
    # below 1/2, where a double still tells values near the end apart; the other half is its mirror image
    low = np.minimum(share, 1 - share)
    assert is_uniform(2 * special.betainc(alpha, alpha, low)) or alpha < 0.1
    assert abs((share > 0.5).mean() - 0.5) < 4 * 0.5 / 5000**0.5


@given(st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53]), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53]),
       st.sampled_from([1e-3, 0.2, 1.0, 1e4]))  # fmt: skip
def test_the_ends_of_the_uniforms_are_shares_too(u, v, alpha):
    assert 0 <= mix.symmetric_beta(np.array([u]), np.array([v]), alpha=alpha)[0] <= 1


@pytest.mark.parametrize("values", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_a_pair_has_one_share_and_one_box(values):
    found = drawn(**values)
    assert torch.equal(found.share[::2], found.share[1::2]) and torch.equal(found.box[::2], found.box[1::2])
    assert found.share.dtype == torch.float64 and ((found.share >= 0) & (found.share <= 1)).all()


def test_mixup_shares_are_beta():
    found = drawn(8000, mixup=0.5)
    assert is_uniform(special.betainc(0.5, 0.5, found.share[::2].numpy())) and not found.box.any()


def test_cutmix_shares_are_the_area_that_is_left():
    found = drawn(8000, cutmix=1.0, image_px=50)
    assert (found.box >= 0).all() and (found.box <= 50).all()
    assert torch.allclose(found.share, 1 - area(found).double() / 2500)
    is_whole = ((found.box > 0) & (found.box < 50)).all(1)  # not cut off by the image's edge
    side = found.box[is_whole, 2:] - found.box[is_whole, :2]
    assert torch.equal(side[:, 0], side[:, 1]) and is_whole.sum() > 1000
    # boxes of uniform centres that are cut off leave more: E[1 − λ] for α = 1 is below 1/2
    assert 0.2 < 1 - found.share.mean() < 0.45


def test_both_are_drawn_half_of_the_time_and_neither_by_probability():
    found = drawn(8000, mixup=1.0, cutmix=1.0, mix_probability=0.6)
    cut, plain = area(found)[::2] > 0, found.share[::2] == 1
    blended = ~cut & ~plain
    assert abs(plain.double().mean() - 0.4) < 0.05  # a few boxes are empty
    assert abs(cut.double().mean() - 0.3) < 0.05 and abs(blended.double().mean() - 0.3) < 0.05


def test_a_pair_is_mixed_the_same_in_any_company():
    whole = drawn(40, mixup=1.0, cutmix=1.0)
    part = mix.draw(np.arange(10, 18), Augment(mixup=1.0, cutmix=1.0), seed=0, epoch=0, image_px=32)
    assert part is not None
    assert torch.equal(part.share, whole.share[10:18]) and torch.equal(part.box, whole.box[10:18])
    assert not torch.equal(drawn(40, epoch=1, mixup=1.0).share, drawn(40, mixup=1.0).share)


def test_without_mixing_nothing_is_drawn_and_odd_rows_are_refused():
    assert mix.draw(np.arange(3), Augment(), seed=0, epoch=0, image_px=8) is None
    with pytest.raises(ValueError, match="3 rows are not pairs"):
        mix.draw(np.arange(3), Augment(mixup=0.2), seed=0, epoch=0, image_px=8)


# --- pixels and labels


@pytest.mark.parametrize("channels_last", [True, False])
def test_pixels_are_mixed_pair_by_pair(channels_last):
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    share = torch.tensor([0.25, 0.25, 0.75, 0.75, 1.0, 1.0], dtype=torch.float64)
    box = torch.tensor([[0, 0, 0, 0]] * 2 + [[2, 1, 6, 5]] * 2 + [[0, 0, 0, 0]] * 2)
    before = x.clone()
    found = mix.pixels(x, Mix(share, box))
    assert torch.equal(x, before)
    torch.testing.assert_close(found[0], 0.25 * x[0] + 0.75 * x[1])
    torch.testing.assert_close(found[1], 0.25 * x[1] + 0.75 * x[0])
    for own, other in ((2, 3), (3, 2)):
        wanted = x[own].clone()
        wanted[:, 1:5, 2:6] = x[other][:, 1:5, 2:6]
        assert torch.equal(found[own], wanted)
    assert torch.equal(found[4:], x[4:])
    assert found.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@given(st.integers(1, 8), st.integers(0, 7))
@settings(deadline=None)
def test_pixels_of_a_pair_do_not_depend_on_the_others(pairs, first):
    x = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    found = drawn(16, mixup=0.4, cutmix=1.0, image_px=5)
    rows = slice(2 * first, min(16, 2 * (first + pairs)))
    assert torch.equal(mix.pixels(x[rows], Mix(found.share[rows], found.box[rows])), mix.pixels(x, found)[rows])


def test_labels_of_the_partner_and_of_the_larger_share():
    targets = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    assert mix.partners(targets).tolist() == [1, 0, 3, 2]
    found = Mix(torch.tensor([0.4, 0.4, 0.5, 0.5], dtype=torch.float64), torch.zeros(4, 4, dtype=torch.int64))
    assert mix.larger(targets, found).tolist() == [[3, 4], [1, 2], [5, 6], [7, 8]]
