"""Films, copies and given groups, from the files to the split."""

from pathlib import Path

import numpy as np
import pytest

from data.audit.pictures import film, jpeg, picture, strangers
from data.checking import check
from fanlight.data import cache, checkup, copies, fixes, formats, grouping, scan
from fanlight.data import manifest as manifests
from fanlight.data.manifest import Manifest
from fanlight.data.split import assign
from fanlight.errors import DataError
from fanlight.study import data_report


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))


def films(root: Path, *, frames: int = 12) -> Path:
    """Two classes of a film each, beside two classes of photos."""
    for label, start in (("walk", 1), ("swim", 2)):
        for number, image in enumerate(film(start, frames)):
            path = root / label / f"{label}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(image))
    for name, data in strangers(20).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def known(root: Path, *, group_by: str | None = None) -> Manifest:
    listing = formats.recognise(str(root), cache=root / "none")
    if group_by:
        listing = grouping.regroup(listing, group_by)
    return copies.find(scan.scan(listing, workers=2), "quick", workers=2)[0]


def test_a_film_in_two_given_splits_is_a_leak_for_all_who_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = films(tmp_path / "data", frames=20)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    lines = [f"{path},{path.split('/')[0]},{('train', 'val')[number % 2]}" for number, path in enumerate(paths)]
    table = root / "list.csv"
    table.write_text("path,label,split\n" + "\n".join(lines))
    manifest, found = checkup.examine(str(table), workers=2)
    assert int(manifest.leaked.sum()) == 20
    document = checkup.tell(str(table), manifest, found, out=None, level="quick")
    assert [(leak["of"], leak["splits"]) for leak in document["leaks"]] == [("film", ["train", "val"])] * 2
    assert "2 films in several splits:" in capsys.readouterr().out
    assert (
        "2 films stand in several splits; 20 images of val"
        in data_report.verdict(manifest, manifests.audit(manifest))[0]
    )
    with pytest.raises(DataError, match="no image of class swim would be left in train"):
        fixes.fix(manifest)
    copies.tell(manifest, found)
    said = capsys.readouterr().out
    assert "Frames of films: 40 images in 2 runs" in said and "2 of them in several given splits" in said


def test_films_stay_together_where_groups_are_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last digit of a frame's number as its group cuts each film into ten."""
    root = films(tmp_path / "data", frames=24)
    manifest, found = copies.find(known(root, group_by=r"(\d)\.jpg$"), "quick", workers=2)
    assert len(set(manifest.column("film")) - {""}) == 2 and len(set(manifest.column("group"))) == 10
    for seed in range(3):
        after = assign(manifest, val_fraction=0.3, seed=seed)
        assert not after.leaked.any()
    copies.tell(manifest, found)
    assert "each kept in one split" in capsys.readouterr().out


def test_what_was_found_is_in_the_kept_manifest_and_stays(tmp_path: Path) -> None:
    root = films(tmp_path / "data")
    (root / "a/flipped.jpg").write_bytes(jpeg(picture(1000)[:, ::-1]))
    document = check(str(root), workers=2)
    kept = manifests.load(Path(document["manifest"]))
    assert kept.column("film").tolist().count("") == len(kept) - 24
    assert len(set(kept.column("copies")) - {""}) == 1
    checkup.up_to_date(str(root), decode=False)  # as `train` begins
    assert manifests.load(cache.manifest_path(str(root))).table.equals(kept.table)
    again = checkup.up_to_date(document["manifest"], decode=False)  # as data
    assert again.table.select(["path", "copies", "film"]).equals(kept.table.select(["path", "copies", "film"]))


def test_what_a_manifest_knows_is_joined_with_what_is_found(tmp_path: Path) -> None:
    root = films(tmp_path / "data")
    manifest = known(root)
    rows = {path: row for row, path in enumerate(manifest.column("path").tolist())}
    earlier = np.full(len(manifest), "", object)
    ends = [rows["walk/walk0.jpg"], rows["swim/swim3.jpg"]]
    earlier[ends] = "seen before"
    joined = copies.find(manifest.with_columns(film=earlier, copies=earlier), "quick", workers=2)[0]
    assert (
        len(set(joined.column("film")) - {""}) == 1 and joined.column("film").tolist().count("") == len(manifest) - 24
    )
    assert np.flatnonzero(joined.column("copies") != "").tolist() == sorted(ends)


def test_a_film_more_in_another_folder_moves_no_file(tmp_path: Path) -> None:
    """What a promise about films can be: runs are cut folder by folder, and named by their own files."""
    root = films(tmp_path / "data", frames=24)
    before = known(root)
    (root / "ride").mkdir()
    for number, image in enumerate(film(3, 24)):
        (root / f"ride/ride{number}.jpg").write_bytes(jpeg(image))
    after = known(root)
    assert len(set(after.column("film")) - {""}) == 3
    for seed in range(4):
        sides = [
            dict(zip(each.column("path"), assign(each, val_fraction=0.2, seed=seed).column("split")))
            for each in (before, after)
        ]
        assert {path: sides[1][path] for path in sides[0]} == sides[0]
