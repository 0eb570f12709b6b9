"""Scores of a table of captions."""

import json
from pathlib import Path

import numpy as np
import pytest

from fanlight.data.shapes import judge, part, reading, write
from fanlight.errors import DataError


def made(split: str, count: int) -> tuple[list[str], list[str], dict[str, object]]:
    """Paths, a caption of each, and scenes."""
    drawn = {f"{split}/{number:05d}.png": part.made(split, number) for number in range(count)}
    return list(drawn), [texts[0] for _, texts in drawn.values()], {path: scene for path, (scene, _) in drawn.items()}


def test_true_captions_are_true_and_those_of_others_are_not() -> None:
    paths, captions, scenes = made("val", 60)
    found = judge.judged(scenes, paths, captions)
    shares = found.shares()
    assert (shares["count"], shares["true_and_complete"], shares["only_true"], shares["complete"]) == (60, 1, 1, 1)
    assert all(value == 1 for name, value in shares.items() if name != "count")
    assert not found.has_unseen.any() and "true_and_complete_unseen_pairs" not in shares
    turned = judge.judged(scenes, paths, captions[1:] + captions[:1]).shares()
    assert turned["true_and_complete"] < 0.05 and turned["readable"] == 1


def test_chance_is_that_of_every_shuffle() -> None:
    paths, captions, scenes = made("val", 40)
    captions[3], captions[5] = captions[4], "two red unicorns"
    found = judge.elsewhere(scenes, paths, captions)
    by_turns = sum(
        judge.judged(scenes, paths, captions[turn:] + captions[:turn]).true_and_complete.sum() for turn in range(1, 40)
    )
    assert found.sum() * 39 == pytest.approx(by_turns) and 0 < found.mean() < 0.05
    assert found[3] >= 1 / 39 and found[5] == 0
    assert judge.elsewhere(scenes, paths[:1], captions[:1]).tolist() == [0.0]


def test_equal_captions_and_scenes_are_asked_once_and_count_each(monkeypatch: pytest.MonkeyPatch) -> None:
    paths, captions, scenes = made("val", 30)
    captions[7:11] = captions[12:14] * 2
    twins = {f"again/{path}": scenes[path] for path in paths[::2]}
    paths, captions, scenes = [*paths, *twins], [*captions, *captions[::2]], {**scenes, **twins}
    expected = [
        sum(reading.true_and_complete(text, scenes[path]) for place, path in enumerate(paths) if place != number)
        for number, text in enumerate(captions)
    ]
    read: list[str] = []
    monkeypatch.setattr(judge, "parse", lambda text: read.append(text) or reading.parse(text))
    assert (judge.elsewhere(scenes, paths, captions) * 44).round(9).tolist() == expected and max(expected) > 1
    assert sorted(read) == sorted(set(captions))


def test_what_is_wrong_is_told_apart() -> None:
    paths, captions, scenes = made("test", 8)
    captions[0] += " and a unicorn"
    captions[1] = ""
    captions[2] = "a pair of black crosses and three white crosses"
    found = judge.judged(scenes, paths, captions)
    assert found.is_true.tolist() == [False, True, False] + [True] * 5
    assert found.is_complete.tolist() == [True, False, False] + [True] * 5
    assert found.is_readable.tolist() == [False] + [True] * 7
    assert found.has_unseen.all()
    shares = found.shares()
    assert shares["true_and_complete"] == shares["true_and_complete_unseen_pairs"] == 5 / 8
    assert shares["true_count"] < 1 and shares["true_number"] < 1
    assert np.isnan(judge.judged(scenes, [], []).shares()["true_and_complete"])


def test_an_image_of_another_set_is_named() -> None:
    with pytest.raises(DataError, match=r"a/1\.png is no image of shapes: scenes\.json has no scene of it"):
        judge.judged({}, ["a/1.png"], ["a"])


def test_other_data_have_no_scenes(tmp_path: Path) -> None:
    assert judge.scenes_of(tmp_path) is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged"), ('{"version": 1, "scenes": []}', "is damaged"),
        ('{"version": 1, "scenes": {"a": {"things": [{}]}}}', "is damaged"), ('{"version": 2}', "is of version 2, not 1"),
    ],
)  # fmt: skip
def test_damaged_scenes_are_named(tmp_path: Path, document: str, message: str) -> None:
    (tmp_path / "scenes.json").write_text(document)
    with pytest.raises(DataError, match=rf"scenes\.json {message}; remove the folder with `fanlight cache clear`"):
        judge.scenes_of(tmp_path)


def test_scenes_come_back(tmp_path: Path) -> None:
    scene, _ = part.made("val", 3)
    document = {"version": write.VERSION, "scenes": {"val/3.png": scene.as_json()}}
    (tmp_path / "scenes.json").write_text(json.dumps(document))
    assert judge.scenes_of(tmp_path) == {"val/3.png": scene}
