import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.data import augment
from fanlight.data.augment import Boxes
from fanlight.errors import ConfigError

KS = 1.95  # √n times the Kolmogorov-Smirnov distance: once in 1,000; the seeds here are fixed
HALF_PX = 0.5 + 1e-9  # a box's sides are rounded to whole pixels
AREA_LEVELS = 1  # of 255: OpenCV's area average rounds once, NumPy's reference too
SHARE, RATIO = (0.25, 1.0), (0.75, 4 / 3)

sides = st.one_of(st.integers(1, 12), st.integers(1, 3000))


def boxes_of(
    count: int, height: int, width: int, *, seed: int = 0, epoch: int = 0, flip: bool = True,
    share: tuple[float, float] = SHARE, ratio: tuple[float, float] = RATIO,
) -> Boxes:  # fmt: skip
    heights, widths = np.full(count, height), np.full(count, width)
    return augment.random_boxes(
        np.arange(count), heights, widths, seed=seed, epoch=epoch, flip=flip, share=share, ratio=ratio
    )


def one_box(left: int, top: int, width: int, height: int, *, mirror: bool = False) -> Boxes:
    return Boxes(*(np.array([value]) for value in (left, top, width, height)), mirror=np.array([mirror]))


def cut(canvas: np.ndarray, boxes: Boxes, side: int) -> np.ndarray:
    out = np.zeros((side, side, 3), np.uint8)
    augment.cut(canvas, boxes, 0, out=out)
    return out


def picture(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def is_uniform(values: np.ndarray) -> bool:
    ranks = np.arange(1, len(values) + 1) / len(values)
    return bool(np.abs(np.sort(values) - ranks).max() * len(values) ** 0.5 < KS)


# --- random boxes


@given(
    st.lists(st.tuples(sides, sides), min_size=1, max_size=20),
    st.integers(0, 2**62),
    st.integers(0, 1000),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted),
)
@settings(deadline=None)
def test_boxes_lie_inside_any_image(sizes, seed: int, epoch: int, share: list[float], ratio: list[float]) -> None:
    heights, widths = np.array(sizes, np.int64).T
    boxes = augment.random_boxes(
        np.arange(len(sizes)), heights, widths, seed=seed, epoch=epoch, flip=True, share=(share[0], share[1]),
        ratio=(ratio[0], ratio[1]),
    )  # fmt: skip
    for part in (boxes.left, boxes.top, boxes.width, boxes.height):
        assert part.dtype == np.int64
    assert (boxes.width >= 1).all() and (boxes.height >= 1).all()
    assert (boxes.left >= 0).all() and (boxes.top >= 0).all()
    assert (boxes.left + boxes.width <= widths).all()
    assert (boxes.top + boxes.height <= heights).all()


@pytest.mark.parametrize(("height", "width"), [(1000, 1000), (1000, 1300), (1300, 1000)])
def test_crops_keep_their_share_of_the_area(height: int, width: int) -> None:
    """Where every share allows some ratio (W/H within 3/4 … 4/3), no crop is cut: shares are uniform in their range."""
    boxes = boxes_of(4000, height, width)
    share = boxes.width * boxes.height / (height * width)
    slack = (boxes.width + boxes.height) / 2 / (height * width) + 1e-6  # half a pixel more or less on either side
    assert (share >= SHARE[0] - slack).all() and (share <= SHARE[1] + slack).all()
    assert is_uniform((share - SHARE[0]) / (SHARE[1] - SHARE[0]))


def test_small_shares_have_log_uniform_ratios() -> None:
    """Where every ratio fits, the ratio's logarithm is uniform over its range, as published."""
    boxes = boxes_of(4000, 2000, 2000, share=(0.2, 0.5))
    ratio = boxes.width / boxes.height
    assert ((boxes.width - HALF_PX) / (boxes.height + HALF_PX) <= RATIO[1]).all()
    assert ((boxes.width + HALF_PX) / (boxes.height - HALF_PX) >= RATIO[0]).all()
    assert is_uniform((np.log(ratio) - np.log(RATIO[0])) / (np.log(RATIO[1]) - np.log(RATIO[0])))


@given(st.integers(20, 3000), st.integers(20, 3000), st.integers(0, 2**62))
@settings(deadline=None)
def test_ratio_in_range_and_share_kept_unless_the_image_is_too_long(height: int, width: int, seed: int) -> None:
    boxes = boxes_of(30, height, width, seed=seed)
    is_cut = (boxes.height == height) | (boxes.width == width)
    most = (boxes.width - HALF_PX) / (boxes.height + HALF_PX)
    least = (boxes.width + HALF_PX) / (boxes.height - HALF_PX)
    assert ((most <= RATIO[1]) | is_cut).all()
    assert ((least >= RATIO[0]) | is_cut).all()
    whole = (boxes.width + HALF_PX) * (boxes.height + HALF_PX)
    assert (whole >= SHARE[0] * height * width).all() or max(height, width) > 4 / 3 * min(height, width)


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 3000), (3000, 1)])
def test_an_elongated_image_is_cut_over_its_whole_short_side(height: int, width: int) -> None:
    boxes = boxes_of(500, height, width)
    short, long = (boxes.height, boxes.width) if height < width else (boxes.width, boxes.height)
    assert (short == min(height, width)).all()
    # the nearest allowed ratio: 4/3 of √(share · area · 4/3) along, although the other side does not have it
    area = height * width
    assert long.min() >= np.floor(np.sqrt(SHARE[0] * area * 4 / 3))
    assert long.max() <= np.ceil(np.sqrt(SHARE[1] * area * 4 / 3))
    assert len(np.unique(boxes.left + boxes.top)) > 100  # and anywhere along it


def test_one_pixel_images() -> None:
    boxes = boxes_of(50, 1, 1)
    for part, value in ((boxes.left, 0), (boxes.top, 0), (boxes.width, 1), (boxes.height, 1)):
        assert (part == value).all()


def test_a_share_of_one_is_the_whole_square() -> None:
    boxes = boxes_of(50, 64, 64, share=(1.0, 1.0))
    assert (boxes.width == 64).all() and (boxes.height == 64).all()
    assert not boxes.left.any() and not boxes.top.any()


def test_places_are_uniform_and_independent() -> None:
    boxes = boxes_of(4000, 3000, 3000, share=(0.1, 0.5))
    across = boxes.left / (3000 - boxes.width)
    down = boxes.top / (3000 - boxes.height)
    assert is_uniform(across) and is_uniform(down)
    numbers = np.stack([across, down, boxes.width * boxes.height, boxes.width / boxes.height, boxes.mirror])
    correlation = np.corrcoef(numbers) - np.eye(5)
    assert np.abs(correlation).max() * 4000**0.5 < 4


def test_every_place_occurs_the_last_included() -> None:
    boxes = boxes_of(2000, 8, 8, share=(0.25, 0.25), ratio=(1, 1))
    assert (boxes.width == 4).all() and (boxes.height == 4).all()
    assert np.unique(boxes.left).tolist() == np.unique(boxes.top).tolist() == [0, 1, 2, 3, 4]
    counts = np.bincount(boxes.left)
    assert ((counts - 400) ** 2 / 400).sum() < 18.5  # chi-square, 4 degrees of freedom, once in 1,000


def test_half_of_the_images_are_mirrored_or_none() -> None:
    boxes = boxes_of(4000, 32, 32)
    assert boxes.mirror.dtype == bool
    assert abs(boxes.mirror.mean() - 0.5) < 4 * 0.5 / 4000**0.5
    still = boxes_of(4000, 32, 32, flip=False)
    assert still.mirror.dtype == bool and not still.mirror.any()
    assert np.array_equal(still.left, boxes.left)  # the crop is the same with and without


def test_two_epochs_show_both_sides() -> None:
    sides = [boxes_of(500, 32, 32, epoch=epoch).mirror for epoch in range(4)]
    assert np.array_equal(sides[1], ~sides[0])
    assert np.array_equal(sides[2], sides[0]) and np.array_equal(sides[3], sides[1])


def test_a_sample_is_cut_the_same_in_any_company() -> None:
    rng = np.random.default_rng(0)
    samples, heights, widths = np.arange(40), rng.integers(1, 300, 40), rng.integers(1, 300, 40)

    def of(chosen: np.ndarray, *, seed: int = 1, epoch: int = 2) -> list[list[int]]:
        boxes = augment.random_boxes(
            samples[chosen],
            heights[chosen],
            widths[chosen],
            seed=seed,
            epoch=epoch,
            flip=True,
            share=SHARE,
            ratio=RATIO,
        )
        return np.stack([boxes.left, boxes.top, boxes.width, boxes.height, boxes.mirror], axis=1).tolist()

    whole = of(samples)
    chosen = rng.permutation(40)[:17]
    assert of(chosen) == [whole[sample] for sample in chosen]
    assert of(samples, epoch=3) != whole != of(samples, seed=2)


def test_no_samples_give_no_boxes() -> None:
    assert len(boxes_of(0, 5, 5).left) == 0


# --- the centre


@given(sides, sides, st.floats(0.05, 1))
@settings(deadline=None)
def test_the_centre_box_is_a_centred_square(height: int, width: int, share: float) -> None:
    boxes = augment.centre_boxes(np.array([height]), np.array([width]), share=share)
    left, top, side = int(boxes.left[0]), int(boxes.top[0]), int(boxes.width[0])
    assert boxes.height[0] == side
    assert side == max(1, round(min(height, width) * share))  # Python and NumPy both round halves to even
    assert 0 <= width - (left + side) - left <= 1
    assert 0 <= height - (top + side) - top <= 1
    assert not boxes.mirror.any()


def test_the_centre_of_known_sizes() -> None:
    boxes = augment.centre_boxes(np.array([100, 7, 1]), np.array([200, 4, 1]), share=0.875)
    found = np.stack([boxes.left, boxes.top, boxes.width, boxes.height]).T.tolist()
    assert found == [[56, 6, 88, 88], [0, 1, 4, 4], [0, 0, 1, 1]]


# --- views


def view_rows(height: int, width: int, *, views: int, flip: bool, share: float = 0.875) -> list[list[int]]:
    found = augment.view_boxes(np.array([height]), np.array([width]), share=share, views=views, flip=flip)
    return [
        [int(part[0]) for part in (box.left, box.top, box.width, box.height)] + [bool(box.mirror[0])] for box in found
    ]


@given(sides, sides, st.floats(0.05, 1), st.booleans(), st.integers(1, 10))
@settings(deadline=None)
def test_views_begin_with_the_centre_and_lie_inside(height, width, share, flip, views):
    views = views if flip else min(views, 5)
    found = view_rows(height, width, views=views, flip=flip, share=share)
    assert len(found) == views
    assert found == view_rows(height, width, views=10 if flip else 5, flip=flip, share=share)[:views]
    centre = augment.centre_boxes(np.array([height]), np.array([width]), share=share)
    assert found[0] == [int(centre.left[0]), int(centre.top[0]), int(centre.width[0]), int(centre.height[0]), False]
    for left, top, side, same, mirror in found:
        assert side == same >= 1 and 0 <= left <= width - side and 0 <= top <= height - side
        assert not mirror or flip
    if flip:
        assert [row[:4] for row in found[1::2]] == [row[:4] for row in found[0::2]][: len(found[1::2])]
        assert all(row[4] for row in found[1::2]) and not any(row[4] for row in found[0::2])


def test_ten_views_of_known_size_are_those_of_alexnet():
    found = view_rows(256, 320, views=10, flip=True)
    assert [row[:3] for row in found[::2]] == [[48, 16, 224], [32, 0, 224], [64, 32, 224], [64, 0, 224], [32, 32, 224]]


def test_corners_differ_from_the_centre_where_it_is_the_whole_image():
    squares = {tuple(row) for row in view_rows(64, 64, views=5, flip=False, share=1.0)}
    assert len(squares) == 5 and (0, 0, 64, 64, False) in squares and (8, 8, 56, 56, False) in squares


@pytest.mark.parametrize(("views", "flip", "most", "use"), [(0, True, 10, 1), (11, True, 10, 10), (-3, False, 5, 1)])
def test_numbers_of_views_that_there_are_not(views, flip, most, use):
    with pytest.raises(ConfigError, match=rf"--tta {views}: an image has 1 to {most} views.*use --tta {use}$"):
        view_rows(8, 8, views=views, flip=flip)


def test_six_views_need_mirror_images():
    with pytest.raises(ConfigError, match="1 to 5 views, since this run mirrors no image; use --tta 5"):
        view_rows(8, 8, views=6, flip=False)
    assert augment.view_names(3, flip=True) == "centre, centre mirrored, top left"
    assert augment.view_names(2, flip=False) == "centre, top left"


# --- pixels


@pytest.mark.parametrize(
    ("box", "side"),
    [
        ((3, 5, 40, 30), 16),  # shrinks both ways
        ((0, 0, 64, 48), 24),
        ((10, 9, 7, 11), 16),  # enlarges both ways
        ((10, 9, 30, 11), 16),  # shrinks one way only
        ((63, 47, 1, 1), 8),  # the last pixel
        ((0, 0, 17, 48), 16),
        ((0, 0, 16, 16), 16),  # neither
    ],
)
def test_pixels_are_opencv_s(box: tuple[int, int, int, int], side: int) -> None:
    canvas = picture(48, 64)
    left, top, width, height = box
    shrinks = width > side and height > side
    crop = canvas[top : top + height, left : left + width].copy()
    wanted = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    assert np.array_equal(cut(canvas, one_box(*box), side), wanted)
    assert np.array_equal(cut(canvas, one_box(*box, mirror=True), side), wanted[:, ::-1])


def test_shrinking_averages_areas() -> None:
    canvas = picture(64, 96)
    wanted = canvas[8:56, 16:64].reshape(16, 3, 16, 3, 3).mean((1, 3))
    assert np.abs(cut(canvas, one_box(16, 8, 48, 48), 16) - wanted).max() <= AREA_LEVELS


def test_a_crop_of_the_right_size_is_copied() -> None:
    canvas = picture(40, 50)
    assert np.array_equal(cut(canvas, one_box(7, 11, 20, 20), 20), canvas[11:31, 7:27])


def test_enlarging_stays_between_neighbours() -> None:
    canvas = np.zeros((2, 2, 3), np.uint8)
    canvas[:, 1] = 200
    large = cut(canvas, one_box(0, 0, 2, 2), 8)[:, :, 0].astype(int)
    assert (large[:, 0] == 0).all() and (large[:, -1] == 200).all()
    assert (np.diff(large, axis=1) >= 0).all()
    assert 0 < large[0, 3] < large[0, 4] < 200


@given(sides.filter(lambda side: side < 400), sides.filter(lambda side: side < 400), st.integers(1, 20), st.booleans())
@settings(deadline=None)
def test_one_colour_stays_one_colour(height: int, width: int, side: int, mirror: bool) -> None:
    canvas = np.full((height, width, 3), (10, 130, 250), np.uint8)
    out = cut(canvas, one_box(0, 0, width, height, mirror=mirror), side)
    assert (out == (10, 130, 250)).all()


def test_cutting_writes_its_own_rows_of_the_batch_and_leaves_the_canvas() -> None:
    canvas = picture(30, 30)
    canvas.flags.writeable = False  # as a mapped pack gives it
    batch = np.full((3, 8, 8, 3), 77, np.uint8)
    augment.cut(canvas, one_box(2, 2, 20, 20, mirror=True), 0, out=batch[1])
    assert (batch[[0, 2]] == 77).all()
    assert np.array_equal(batch[1], cut(canvas, one_box(2, 2, 20, 20, mirror=True), 8))
    assert np.array_equal(canvas, picture(30, 30))


def test_index_chooses_the_box() -> None:
    canvas = picture(30, 30)
    boxes = Boxes(*(np.array(pair) for pair in ((0, 5), (0, 6), (10, 20), (10, 20))), mirror=np.array([False, True]))
    out = np.zeros((8, 8, 3), np.uint8)
    augment.cut(canvas, boxes, 1, out=out)
    assert np.array_equal(out, cut(canvas, one_box(5, 6, 20, 20, mirror=True), 8))


# --- the canvas


@given(st.integers(1, 2000), st.floats(0.01, 1))
def test_the_smallest_crop_of_the_canvas_holds_the_square(image_px: int, share: float) -> None:
    stored = augment.canvas_px(image_px, crop_share_min=share)
    assert image_px <= stored <= 2 * image_px
    side = np.sqrt(share)  # of the smallest square crop, in canvases
    if stored < 2 * image_px:
        assert stored * side >= image_px * (1 - 1e-9)
    assert (stored - 1) * side < image_px  # and no canvas smaller by a pixel would do


@pytest.mark.parametrize(
    ("image_px", "share", "stored"),
    [(128, 0.25, 256), (128, 1.0, 128), (128, 0.08, 256), (224, 0.5, 317), (32, 0.6, 42)],
)
def test_canvas_of_known_sizes(image_px: int, share: float, stored: int) -> None:
    assert augment.canvas_px(image_px, crop_share_min=share) == stored


# Sides that grow over the epochs


@given(st.integers(1, 60), st.integers(1, 512), st.integers(0, 512))
def test_sides_grow_to_the_full_one_and_stay_there(epochs: int, start_px: int, more_px: int) -> None:
    full_px = start_px + more_px
    sides = [augment.side_px(epoch, epochs=epochs, start_px=start_px, full_px=full_px) for epoch in range(epochs)]
    assert sides == sorted(sides) and sides[0] >= start_px and sides[-1] == full_px
    assert all(side in (start_px, full_px) or side % (32 if full_px > 64 else 16) == 0 for side in sides)
    grown = augment.grown_epoch(epochs)
    assert set(sides[grown:]) == {full_px} and epochs - grown >= max(1, int(0.3 * epochs))


@pytest.mark.parametrize(
    ("epochs", "start_px", "full_px", "sides"),
    [
        (10, 96, 160, [96, 96, 96, 96, 128, 128, 128, 160, 160, 160]),
        (4, 128, 256, [128, 160, 192, 256]),
        (5, 16, 48, [16, 16, 32, 32, 48]),
        (3, 20, 28, [20, 20, 28]),
        (1, 16, 64, [64]),
    ],
)
def test_sides_of_known_runs(epochs: int, start_px: int, full_px: int, sides: list[int]) -> None:
    found = [augment.side_px(epoch, epochs=epochs, start_px=start_px, full_px=full_px) for epoch in range(epochs)]
    assert found == sides
