"""The audit's parts: buckets, groups, thresholds, keypoints, frames."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.audit.pictures import film, folder_of, jpeg, picture, strangers
from data.audit.pictures import turned as audit_turned
from fanlight.data import audit
from fanlight.data import manifest as manifests
from fanlight.data.audit import buckets, components, frames, keypoints, near, result, rotated, turned
from fanlight.data.audit.signature import Signatures, empty, signature
from fanlight.errors import RunError


def signatures(images: list[np.ndarray], *, thorough: bool = True) -> Signatures:
    names = np.array([f"{number:05d}" for number in range(len(images))], object)
    pictures, end = empty(names, thorough=thorough, memory_bytes=1 << 30), 0
    for place, image in enumerate(images):
        end = pictures.fill(place, signature(jpeg(image), thorough=thorough), start=end)
    return pictures


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 8))
def test_small_buckets_give_all_pairs_and_large_ones_a_chain(keys: list[int], window: int) -> None:
    words = np.array(keys, np.int64) << 4
    both, capped = buckets.pairs(words, tie_bits=4, owners=np.arange(len(keys)), window=window)
    found = set(map(tuple, both.tolist()))
    members = {key: [place for place, other in enumerate(keys) if other == key] for key in set(keys)}
    for rows in members.values():
        wanted = {(a, b) for a in rows for b in rows if a < b}
        assert wanted <= found if len(rows) <= window + 1 else set(pairwise(rows)) <= found
    assert all(keys[a] == keys[b] and a < b for a, b in found) and len(both) <= len(keys) * window
    assert capped == sum(len(rows) for rows in members.values() if len(rows) > window + 1)


def grown(edges: list[tuple[int, int]], count: int, *, strong: bool = False) -> list[int]:
    both = np.array(edges, np.int64).reshape(-1, 2)
    return components.grow(both, is_strong=np.full(len(both), strong), count=count).tolist()


def clique(members: range) -> list[tuple[int, int]]:
    return [(a, b) for a in members for b in members if a < b]


def test_one_pair_does_not_weld_two_groups() -> None:
    two = clique(range(4)) + clique(range(4, 8))
    apart = [0] * 4 + [4] * 4
    assert grown(two, 8) == apart
    for strong in (False, True):
        assert grown([*two, (3, 4)], 8, strong=strong) == apart
        by_one = grown([*two, (3, 4), (3, 5), (3, 6)], 8, strong=strong)
        assert by_one[0] != by_one[7], "all by one picture, which may go to either"
        assert grown([*two, (3, 4), (2, 5)], 8, strong=strong) == [0] * 8
    assert grown([(0, 1), (1, 2)], 3) == [0, 0, 0]


def test_a_chain_of_weak_pairs_does_not_grow() -> None:
    chain = [(number, number + 1) for number in range(9)]
    assert max(np.bincount(grown(chain, 10))) <= 4
    assert grown(chain, 10, strong=True).count(0) >= 4
    assert grown([*clique(range(3)), (2, 3)], 4) == [0, 0, 0, 3]
    assert grown([*clique(range(3)), (2, 3), (1, 3)], 4) == [0] * 4


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1]), max_size=25))
def test_connected_is_what_pairs_reach(pairs: list[tuple[int, int]]) -> None:
    found = components.connected(np.array(pairs, np.int64).reshape(-1, 2), count=10)
    label = list(range(10))
    for _ in range(10):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    assert found.tolist() == label


def test_mirroring_a_picture_changes_signs_of_its_codes() -> None:
    """The descriptor of the mirrored picture is computed, not looked for."""
    grey = cv2.cvtColor(picture(2), cv2.COLOR_BGR2GRAY)
    points, codes = keypoints.describe(grey)
    mirrored_points, mirrored = keypoints.describe(np.ascontiguousarray(grey[::-1]))
    like = [
        max(
            float(code * keypoints.MIRROR @ other)
            / (np.linalg.norm(code.astype(float)) * np.linalg.norm(other.astype(float)))
            for other, at in zip(mirrored.astype(np.float32), mirrored_points)
            if np.hypot(at[0] - point[0], at[1] - (grey.shape[0] - 1 - point[1])) < 2
        )
        for code, point in zip(codes.astype(np.float32), points)
        if (
            np.hypot(mirrored_points[:, 0] - point[0], mirrored_points[:, 1] - (grey.shape[0] - 1 - point[1])) < 2
        ).any()
    ]
    assert len(like) > 30 and np.median(like) > 0.95


def test_a_picture_without_keypoints_has_none() -> None:
    points, codes = keypoints.describe(np.full((64, 64), 90, np.uint8))
    assert len(points) == len(codes) == 0


def test_geometry_tells_copies_from_strangers() -> None:
    matrix = cv2.getRotationMatrix2D((72, 56), 31, 1.3)
    images = [picture(number) for number in range(6)]
    images += [cv2.warpAffine(image, matrix, (144, 112), borderMode=cv2.BORDER_REFLECT)[:, ::-1] for image in images]
    pictures = signatures(images)
    both = np.array(clique(range(12)))
    with ThreadPoolExecutor(2) as pool:
        agree, pixels = turned.compare(pictures, both, pool=pool)
    true = both[:, 1] - both[:, 0] == 6
    assert agree[true].min() >= 10 and pixels[true].min() > 0.6
    assert agree[~true].max() <= 5 and (agree[~true] >= 4).mean() < 0.1


def test_the_limit_follows_how_alike_strangers_are() -> None:
    """A data set of one scene with small differences would flood with a fixed threshold."""
    usual = signatures([picture(number) for number in range(60)], thorough=False)
    scene = picture(1).astype(np.int16)
    alike = [
        np.clip(scene + (picture(100 + number).astype(np.int16) - 128) * 0.45, 0, 255).astype(np.uint8)
        for number in range(60)
    ]
    scenes = signatures(alike, thorough=False)
    everyone = np.arange(60)
    assert near.limit(usual, everyone) == near.CEILING
    tight = near.limit(scenes, everyone)
    assert near.FLOOR <= tight < near.CEILING
    with ThreadPoolExecutor(1) as pool:
        pairs, distances, _ = near.find(scenes, everyone, within=tight, pool=pool)
        assert len(pairs) == 0
        again = signatures([*alike[:5], *alike[:5]], thorough=False)
        pairs, distances, _ = near.find(again, np.arange(10), within=tight, pool=pool)
    assert pairs.tolist() == [[number, number + 5] for number in range(5)] and (distances < 0.002).all()
    assert near.limit(usual, everyone[:2]) == near.CEILING


def small_colours(images: list[np.ndarray]) -> np.ndarray:
    return np.array([cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA) for image in images])


def test_films_are_cut_where_the_scene_changes() -> None:
    images = film(1, 15) + film(2, 15)
    paths = [f"asl/A{number}.jpg" for number in [*range(15), *range(500, 515)]]
    order = np.random.default_rng(0).permutation(30)  # the order of rows says nothing; 2 comes before 10 by number
    runs, likeness = frames.runs([paths[place] for place in order], small_colours([images[place] for place in order]))
    named = [[paths[order[place]] for place in run] for run in runs]
    assert named == [paths[:15], paths[15:]]
    assert [len(each) for each in likeness] == [14, 14] and min(each.min() for each in likeness) > 0.3


def test_a_film_without_a_gap_in_its_numbers_is_cut_too_and_mirrored_frames_belong_to_it() -> None:
    images = film(3, 15) + film(4, 15)
    images[3], images[20] = images[3][:, ::-1], images[20][:, ::-1]
    runs, _ = frames.runs([f"a/{number}.png" for number in range(30)], small_colours(images))
    assert [run.tolist() for run in runs] == [list(range(15)), list(range(15, 30))]


def test_numbered_photos_are_no_film() -> None:
    images = [picture(number) for number in range(30)]
    assert frames.runs([f"rain/rain{number}.jpg" for number in range(30)], small_colours(images)) == ([], [])
    assert frames.runs([f"a/x{'y' * number}.jpg" for number in range(15)], small_colours(film(1, 15))) == ([], [])
    assert frames.runs([f"{number}/1.jpg" for number in range(15)], small_colours(film(1, 15))) == ([], [])


def test_frames_are_runs_and_not_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))
    files = {f"train/a/a{number}.jpg": jpeg(image) for number, image in enumerate(film(1, 12))}
    files |= {f"val/a/a{number}.jpg": jpeg(image) for number, image in enumerate(film(2, 12))}
    files |= {f"train/{path}".replace("/a/", "/c/"): data for path, data in strangers(8).items()}
    files |= {f"val/{path}".replace("/a/", "/c/"): data for path, data in strangers(8, start=90).items()}
    manifest = folder_of(tmp_path / "data", files)
    found = audit.find(manifest, thorough=True, workers=2)
    assert [len(rows) for rows in found.runs()] == [12, 12] and found.counts()["frame"] == 22
    assert not found.counts()["turned"], "frames of one run are not copies, however they are turned"
    known = manifest.with_columns(film=found.films(), copies=found.copies())
    assert manifests.audit(known)["leaks"] == []
    moved = known.column("split").copy()
    moved[found.runs()[0][0]] = "val"
    leak = manifests.audit(known.with_columns(split=moved))["leaks"]
    assert [(one["of"], len(one["paths"]), one["splits"]) for one in leak] == [("film", 12, ["train", "val"])]


def test_an_audit_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read audit .*make it again with `fanlight check`"):
        result.load(tmp_path / "none")
    (tmp_path / "rows.parquet").write_bytes(b"no")
    with pytest.raises(RunError, match="is not an audit of Fanlight"):
        result.load(tmp_path)


def stretched(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned, cut to the largest whole rectangle, and stretched to the old size, as Augmentor does."""
    height, width = image.shape[:2]
    across, down = rotated._whole(width, height, degrees, keeps_shape=False)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    matrix[:, 2] += (across - width) / 2, (down - height) / 2
    matrix = np.diag([width / across, height / down]) @ matrix
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def kept(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned and cut to its own shape."""
    across, _ = rotated._whole(image.shape[1], image.shape[0], degrees, keeps_shape=True)
    return audit_turned(image, degrees, zoom=image.shape[1] / across)


def soft(number: int) -> np.ndarray:
    """A sky: smooth colours, and nothing that a keypoint could sit on."""
    random = np.random.default_rng(number)
    noise = random.uniform(0, 255, (7, 9, 3)).astype(np.float32)
    return cv2.resize(noise, (144, 112), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def on_each_other(images: list[np.ndarray], *, known: tuple[int, ...] = ()) -> dict[tuple[int, int], float]:
    pictures = signatures(images)
    members = np.arange(len(images))
    with ThreadPoolExecutor(2) as pool:
        found = rotated.find(pictures, members, known=np.array(known, np.int64), memory_bytes=1 << 30, pool=pool)
    return {(int(a), int(b)): float(like) for (a, b), like in zip(found.both, found.like)}


@given(st.integers(20, 400), st.integers(20, 400), st.floats(-89, 89), st.booleans())
def test_what_is_cut_from_a_turned_picture_is_whole(width: int, height: int, degrees: float, keeps: bool) -> None:
    across, down = rotated._whole(width, height, degrees, keeps_shape=keeps)
    sine, cosine = abs(np.sin(np.deg2rad(degrees))), abs(np.cos(np.deg2rad(degrees)))
    assert across * cosine + down * sine <= width * (1 + 1e-9) and across * sine + down * cosine <= height * (1 + 1e-9)
    assert not keeps or across / down == pytest.approx(width / height)
    own = rotated._whole(width, height, degrees, keeps_shape=True)
    assert across * down >= own[0] * own[1] * (1 - 1e-9), "the other cut is the largest"


@pytest.mark.parametrize("degrees", [-44.0, -20.5, -6.0, 13.0, 28.0, 41.0])
@pytest.mark.parametrize("of", [soft, picture])
def test_a_picture_turned_and_cut_is_found_without_keypoints(of, degrees: float) -> None:
    images = [of(number) for number in range(8)]
    copies = [kept(images[0], degrees), stretched(images[1], degrees)[:, ::-1], np.rot90(kept(images[2], degrees))]
    copies += [kept(images[3], degrees + 90 if degrees < 0 else degrees - 90), kept(images[4], degrees)[::-1]]
    found = on_each_other(images + copies)
    for number in range(5):
        assert found.get((number, 8 + number), 0) > 0.85, number
    assert all(like < 0.85 for (a, b), like in found.items() if b != a + 8)


def test_a_square_picture_is_found_at_any_angle() -> None:
    images = [picture(number, width=120, height=120) for number in range(6)]
    copies = [kept(image, 30.0 * number + 11) for number, image in enumerate(images)]
    found = on_each_other(images + copies)
    assert {pair for pair, like in found.items() if like > 0.85} == {(number, number + 6) for number in range(6)}
    assert not on_each_other(images + copies, known=tuple(number * 12 + number + 6 for number in range(6)))


def test_pictures_of_the_same_shapes_in_other_colours_are_no_copies() -> None:
    image = picture(3)
    other = image[..., ::-1].copy()
    other[..., 1] = 255 - other[..., 1] // 2
    assert (0, 1) in on_each_other([image, kept(image, 20)])
    assert on_each_other([image, kept(other, 20)]).get((0, 1), 0) == 0


def test_more_of_one_picture_than_a_bucket_takes() -> None:
    image = picture(4)
    images = [kept(image, 4.0 * number) for number in range(12)]
    joined = components.connected(
        np.array([pair for pair, like in on_each_other(images).items() if like > 0.85]).reshape(-1, 2), count=12
    )
    assert (joined[1:] == joined[1]).all(), "each reaches the others over the nearest"
