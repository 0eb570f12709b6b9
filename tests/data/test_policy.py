"""Every operation is a row: what it does against Pillow or a plain reference, on a batch against on an image; and what
is drawn for whom."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from fanlight.config import Augment
from fanlight.data import augment as boxes
from fanlight.data import policy, warp
from fanlight.data.policy import OPS
from fanlight.types import Changes

SIDE = 33
WARP_LEVELS = 3  # of 255, on a smooth picture: OpenCV interpolates at 1/32 px
WARPS = {"shear-x", "shear-y", "translate-x", "translate-y", "rotate"}
PILLOW_LEVELS = 2  # Pillow cuts fractions off where these round: of the result, and of the grey before it
# Of 255, the batch against the image: whether a half rounds up; grey's fixed point times the amount; 8-bit HSV.
BATCH_LEVELS = dict.fromkeys((op.name for op in OPS), 1) | dict.fromkeys(WARPS, WARP_LEVELS) | {"hue": 8}
AMOUNTS = {"posterize": (1, 3, 6), "solarize": (10, 128, 256), "rotate": (-30.0, 77.0, 135.0), "hue": (-0.5, -0.1, 0.3)}
KS = 1.95  # √n times the Kolmogorov-Smirnov distance: once in 1,000; the seeds here are fixed


def noise(seed: int = 0, *, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 236, (side, side, 3), dtype=np.uint8)


def smooth(*, side: int = SIDE) -> np.ndarray:
    """Slow waves, of values 20 … 235, another in each channel."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(3 * x + 2 * y), np.cos(4 * x - y), np.sin(5 * y * x)]
    return np.rint(128 + 107 * np.stack(waves, axis=-1)).astype(np.uint8)


def amounts_of(op: policy.Op) -> tuple[float, ...]:
    return AMOUNTS.get(op.name, (-0.9, 0.25, 0.99) if op.signed else (0.0,))


def rows(condition) -> list:
    return [pytest.param(op, id=op.name) for op in OPS if condition(op)]


def on_batch(op: policy.Op, images: list[np.ndarray], amounts: list[float]) -> np.ndarray:
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    before = x.clone()
    found = op.batch(x, np.array(amounts, np.float64))
    assert torch.equal(x, before), "its argument is changed"
    assert torch.equal(found, found.round()) and found.min() >= 0 and found.max() <= 255
    return found.permute(0, 2, 3, 1).numpy()


def warped(image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    """Linear interpolation, pixel by pixel."""
    side, out = len(image), np.zeros(image.shape)
    for y in range(side):
        for x in range(side):
            at = matrix[0] * x + matrix[1] * y + matrix[2], matrix[3] * x + matrix[4] * y + matrix[5]
            left, top = int(np.floor(at[0])), int(np.floor(at[1]))
            for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                weight = (1 - abs(at[0] - column)) * (1 - abs(at[1] - row))
                inside = 0 <= column < side and 0 <= row < side
                out[y, x] += weight * (image[row, column] if inside else np.array(warp.FILL))
    return out


def pillow(name: str, image: np.ndarray, amount: float) -> np.ndarray:
    picture = Image.fromarray(image)
    enhancers = {
        "brightness": ImageEnhance.Brightness, "saturation": ImageEnhance.Color, "contrast": ImageEnhance.Contrast,
    }  # fmt: skip
    if name in enhancers:
        return np.asarray(enhancers[name](picture).enhance(1 + amount))
    if name == "sharpness":
        return np.asarray(Image.blend(picture.filter(ImageFilter.SMOOTH), picture, 1 + amount))
    if name == "posterize":
        return np.asarray(ImageOps.posterize(picture, 8 - round(amount)))
    if name == "solarize":
        return np.asarray(ImageOps.solarize(picture, 256 - round(amount)))
    return np.asarray({"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](picture))


# --- operations


@pytest.mark.parametrize("op", rows(lambda op: op.name not in ("autocontrast", "equalize")))
def test_no_amount_changes_nothing(op):
    image = noise()
    assert np.array_equal(op.image(image, 0.0), image)
    assert np.array_equal(on_batch(op, [image], [0.0])[0], image)


@pytest.mark.parametrize("op", rows(lambda op: op.name not in {"identity", "hue"} | WARPS))
@pytest.mark.parametrize("picture", [noise, smooth])
def test_colours_are_pillow_s(op, picture):
    image, largest = picture(), 0
    for amount in amounts_of(op):
        found, wanted = op.image(image, amount).astype(int), pillow(op.name, image, amount).astype(int)
        assert np.abs(found - wanted).max() <= PILLOW_LEVELS
        largest = max(largest, np.abs(found - image).max())
    assert largest > (5 if picture is noise else 0)
    assert np.array_equal(image, picture()), "its argument is changed"


@pytest.mark.parametrize("op", rows(lambda op: op.name in WARPS))
def test_maps_are_linear_interpolation(op):
    matrix = {
        "shear-x": warp.shear_x, "shear-y": warp.shear_y, "translate-x": warp.translate_x,
        "translate-y": warp.translate_y, "rotate": warp.rotate,
    }[op.name]  # fmt: skip
    edged = smooth()
    edged[[0, -1]] = edged[:, [0, -1]] = warp.FILL  # a soft border, or a 1/32 px would be many levels
    edged[[1, -2]] = edged[:, [1, -2]] = warp.FILL
    for amount in amounts_of(op):
        wanted = warped(edged, matrix(amount, SIDE))
        inner = np.abs(op.image(edged, amount) - wanted)
        assert np.quantile(inner, 0.95) <= WARP_LEVELS
        assert np.abs(wanted - edged).max() > 20


def test_maps_go_where_they_say():
    image = np.full((9, 9, 3), warp.FILL, np.uint8)
    image[4, 6] = 255  # two to the right of the middle
    found = {
        name: np.argwhere((op.image(image, amount) == 255).all(-1)).tolist()
        for op in OPS
        for name, amount in [("translate-x", 1 / 9), ("translate-y", -1 / 9), ("rotate", 90.0), ("shear-y", -0.5)]
        if op.name == name
    }
    assert found == {"translate-x": [[4, 7]], "translate-y": [[3, 6]], "rotate": [[2, 4]], "shear-y": [[5, 6]]}


def test_a_whole_turn_of_hue_and_its_thirds():
    op = next(op for op in OPS if op.name == "hue")
    image = np.zeros((4, 4, 3), np.uint8)
    image[...] = (200, 40, 40)
    for amount, colour in ((1 / 3, (40, 200, 40)), (-1 / 3, (40, 40, 200)), (0.5, (40, 200, 200))):
        for found in (op.image(image, amount), on_batch(op, [image], [amount])[0]):
            assert np.abs(found.astype(int) - colour).max() <= BATCH_LEVELS["hue"]


@pytest.mark.parametrize("op", rows(lambda op: True))
def test_a_batch_is_changed_as_its_images_are(op):
    images = [smooth() if op.name in WARPS else noise(seed) for seed in range(3)]
    amounts = list((amounts_of(op) * 3)[:3])
    found = on_batch(op, images, amounts)
    for row, image, amount in zip(found, images, amounts):
        difference = np.abs(row - op.image(image, amount))
        # at the rim of what a map brings in, 1/32 px is many levels
        most = np.quantile(difference, 0.95) if op.name in WARPS else difference.max()
        assert most <= BATCH_LEVELS[op.name]


@pytest.mark.parametrize("op", rows(lambda op: True))
def test_a_row_of_a_batch_does_not_depend_on_the_others(op):
    images, amounts = [noise(seed) for seed in range(7)], list(np.linspace(0.1, 0.9, 7))
    whole = on_batch(op, images, amounts)
    for chosen in ([3], [6, 0], [5, 4, 3, 2]):
        part = on_batch(op, [images[row] for row in chosen], [amounts[row] for row in chosen])
        assert np.array_equal(part, whole[chosen])


@pytest.mark.parametrize("op", rows(lambda op: True))
@pytest.mark.parametrize("side", [1, 2, 3, 16])
def test_small_and_flat_images(op, side):
    """One colour has no contrast to stretch and no histogram to flatten."""
    image = np.full((side, side, 3), (10, 130, 250), np.uint8)
    for amount in amounts_of(op):
        found = op.image(image, amount)
        assert found.shape == image.shape and found.dtype == np.uint8
        difference = np.abs(found - on_batch(op, [image], [amount])[0])
        assert difference.max() <= BATCH_LEVELS[op.name] or op.name in WARPS
        if op.name in ("autocontrast", "equalize"):
            assert np.array_equal(found, image)


# --- what is drawn


def drawn(count: int = 2000, *, epoch: int = 0, seed: int = 0, image_px: int = 128, **values) -> Changes:
    found = policy.draw(np.arange(count), Augment(**values), seed=seed, epoch=epoch, image_px=image_px)
    assert found is not None
    return found


def is_uniform(values: np.ndarray) -> bool:
    ranks = np.arange(1, len(values) + 1) / len(values)
    return bool(np.abs(np.sort(values) - ranks).max() * len(values) ** 0.5 < KS)


def test_nothing_is_drawn_where_nothing_is_asked():
    assert policy.draw(np.arange(3), Augment(mixup=0.2), seed=0, epoch=0, image_px=8) is None


def test_draws_of_different_kinds_are_apart():
    taken = [(0, boxes.CROP_DRAWS), (boxes.JITTER_DRAW, boxes.JITTER_DRAWS), (boxes.ERASE_DRAW, boxes.ERASE_DRAWS),
             (boxes.MIX_DRAW, boxes.MIX_DRAWS)]  # fmt: skip
    numbers = [number for first, count in taken for number in range(first, first + count)]
    assert len(set(numbers)) == len(numbers) and max(numbers) < boxes.POLICY_DRAW


def test_trivial_draws_one_operation_of_fourteen_at_any_magnitude():
    found = drawn(14_000, policy="trivial")
    assert found.op.shape == (14_000, 1) and not found.erase.any()
    counts = np.bincount(found.op[:, 0], minlength=len(OPS))
    assert counts[-1] == 0 and OPS[-1].name == "hue"
    assert ((counts[:14] - 1000) ** 2 / 1000).sum() < 34.5  # chi-square, 13 degrees of freedom, once in 1,000
    for index, op in enumerate(OPS[:14]):
        amounts = found.amount[found.op == index]
        levels = np.unique(np.round(amounts / (op.wide or 1) * 30))
        assert len(levels) == (1 if not op.wide else 61 if op.signed else 31), op.name
        assert np.abs(amounts).max() == pytest.approx(op.wide)
        if op.signed:
            assert abs((amounts > 0).sum() - (amounts < 0).sum()) < 4 * len(amounts) ** 0.5


def test_rand_draws_several_at_one_magnitude():
    found = drawn(3000, policy="rand", rand_ops=3, rand_magnitude=15)
    assert found.op.shape == found.amount.shape == (3000, 3)
    most = np.array([op.rand or 0 for op in OPS])[found.op]
    assert np.allclose(np.abs(found.amount), most / 2)
    assert abs(np.corrcoef(found.op[:, 0], found.op[:, 1])[0, 1]) < 4 / 3000**0.5
    assert np.array_equal(drawn(3000, policy="rand", rand_ops=2, rand_magnitude=15).op, found.op[:, :2])


def test_jitter_draws_each_once_in_any_order():
    strengths = (0.4, 0.3, 0.2, 0.1)
    found = drawn(4800, jitter=strengths)
    names = [OPS[op].name for op in found.op[0]]
    assert sorted(names) == ["brightness", "contrast", "hue", "saturation"]
    orders = np.unique(found.op, axis=0, return_counts=True)
    assert len(orders[0]) == 24 and ((orders[1] - 200) ** 2 / 200).sum() < 49.7  # 23 degrees, once in 1,000
    for name, strength in zip(("brightness", "contrast", "saturation", "hue"), strengths):
        amounts = found.amount[found.op == [op.name for op in OPS].index(name)]
        assert is_uniform((amounts / strength + 1) / 2)


def test_jitter_leaves_out_what_has_no_strength():
    found = drawn(50, jitter=(0.0, 0.3, 0.0, 0.1))
    assert {OPS[op].name for op in found.op.flat} == {"contrast", "hue"} and found.op.shape == (50, 2)


def test_erasing_has_the_papers_shares_and_ratios():
    found = drawn(4000, erase=0.25).erase
    is_erased = found.any(1)
    assert abs(is_erased.mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    width, height = (found[is_erased][:, 2:] - found[is_erased][:, :2]).T
    assert (found >= 0).all() and (found <= 128).all()
    share, ratio = width * height / 128**2, width / height
    assert 0.018 < share.min() < 0.04 and 0.38 < share.max() < 0.41
    assert 0.25 < ratio.min() < 0.4 and 2.5 < ratio.max() < 4
    assert len(drawn(5, erase=1.0).op[0]) == 0


def test_a_sample_is_changed_the_same_in_any_company():
    values = {"policy": "rand", "jitter": (0.4, 0.4, 0.4, 0.1), "erase": 0.5}
    whole = drawn(40, **values)
    chosen = np.random.default_rng(0).permutation(40)[:17]
    part = policy.draw(chosen, Augment(**values), seed=0, epoch=0, image_px=128)
    assert part is not None
    for name in ("op", "amount", "erase"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[chosen])
    assert not np.array_equal(drawn(40, epoch=1, **values).op, whole.op)
    assert not np.array_equal(drawn(40, seed=1, **values).op, whole.op)


# --- what is done


def changed(images: np.ndarray, changes: Changes) -> tuple[np.ndarray, np.ndarray]:
    """By the two engines."""
    one = images.copy()
    for index, image in enumerate(one):
        policy.change(image, changes, index)
    batch = policy.change_batch(torch.from_numpy(images), changes)
    assert batch.dtype == torch.uint8 and batch.shape == images.shape
    return one, batch.numpy()


@pytest.mark.parametrize("values", [{"policy": "trivial"}, {"policy": "rand"}, {"jitter": (0.4, 0.4, 0.4, 0.1)}])
def test_both_engines_do_the_same_within_rounding(values):
    images = np.stack([smooth(side=32)] * 64)
    one, batch = changed(images, drawn(64, image_px=32, erase=0.3, **values))
    difference = np.abs(one.astype(int) - batch)
    assert np.quantile(difference, 0.99) <= 8  # a posterized or equalized level may jump where an earlier one rounded
    assert difference.mean() < 0.5
    assert np.abs(one.astype(int) - images).mean() > 5


def test_erasing_fills_the_box_and_nothing_else():
    images = np.stack([noise(seed, side=32) for seed in range(20)])
    changes = drawn(20, image_px=32, erase=0.5)
    one, batch = changed(images, changes)
    assert np.array_equal(one, batch)
    for image, before, (left, top, right, bottom) in zip(one, images, changes.erase):
        wanted = before.copy()
        wanted[top:bottom, left:right] = warp.FILL
        assert np.array_equal(image, wanted)
    assert 0 < changes.erase.any(1).sum() < 20


def test_operations_follow_one_another():
    images = noise()[None]
    names = [op.name for op in OPS]
    changes = Changes(
        np.array([[names.index("solarize"), names.index("posterize")]]), np.array([[128.0, 4.0]]), np.zeros((1, 4), int)
    )
    one, batch = changed(images, changes)
    wanted = np.where(images >= 128, 255 - images, images) & 0xF0
    assert np.array_equal(one, wanted) and np.array_equal(batch, wanted)
