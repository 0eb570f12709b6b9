"""WebDataset shards as they should not be: samples in folders, members that belong to none, labels that cannot be read."""

from collections import Counter
from pathlib import Path

import pytest

from data import layouts
from fanlight.data.formats import Listing, recognise


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))


def listing(path: Path) -> Listing:
    return recognise(str(path), cache=Path("unused"))


def samples(folder: str, *, count: int = 6, kind: str = "cls") -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for number in range(count):
        label = str(number % 2)
        said = label if kind == "cls" else f'{{"label": "{label}"}}'
        files |= {f"{folder}{number:04d}.jpg": b"image", f"{folder}{number:04d}.{kind}": said.encode()}
    return files


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_samples_in_folders_are_samples(tmp_path: Path, kind: str) -> None:
    files = samples("d1/", kind=kind) | samples("d2/", kind=kind)
    found = listing(layouts.tarred(tmp_path / "s.tar", files))
    assert found.source == "WebDataset, 1 shard"
    assert Counter(found.labels) == {"0": 6, "1": 6}, "equal names in two folders are two samples"


def test_samples_beside_folders_of_samples_are_all_used(tmp_path: Path) -> None:
    found = listing(layouts.tarred(tmp_path / "s.tar", samples("") | samples("train/more/", count=2)))
    assert len(found.paths) == 8
    assert Counter(found.splits) == {"": 6, "train": 2}


def test_json_that_says_no_label_leaves_class_folders(tmp_path: Path) -> None:
    files = {name: b"{}" if name.endswith("json") else data for name, data in samples("cat/", kind="json").items()}
    files |= {f"dog/{number}.jpg": b"image" for number in range(3)}
    found = listing(layouts.tarred(tmp_path / "s.tar", files))
    assert (found.source, set(found.labels)) == ("class folders", {"cat", "dog"})


def test_members_of_no_sample_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = samples("") | {"a.b.jpg": b"x", "lonely.cls": b"1", "zz.npy": b"x"}
    assert len(listing(layouts.tarred(tmp_path / "s.tar", files)).paths) == 6
    assert "3 files in the shards are neither a sample's image nor said of one, and are not used, such as a.b.jpg" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"0003.cls": b""}, "0003.cls is empty"),
        ({"0003.cls": b"x" * 201}, "its label has 201 letters, and at most 200 are a class's name"),
        ({"0003.json": b"{oops", "0003.cls": None}, "0003.json is no JSON: Expecting property name"),
        ({"0003.json": b"[1]", "0003.cls": None}, "0003.json is no JSON object"),
        ({"0003.json": b'{"label": null}', "0003.cls": None}, "0003.json has no label of text or a whole number"),
        ({"0003.cls": None}, "no .cls, .json or .txt is beside it"),
    ],
)
def test_the_first_sample_without_a_label_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, bytes | None], why: str
) -> None:
    files = {name: data for name, data in (samples("") | change).items() if data is not None}
    assert len(listing(layouts.tarred(tmp_path / "s.tar", files)).paths) == 5
    assert f"1 images without a label are not used, such as 0003.jpg ({why}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_said_once(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    import io
    import tarfile
    import zipfile

    path = tmp_path / f"s.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for name, data in [*samples("").items()] * 2:
                about = tarfile.TarInfo(name)
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
    else:
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in [*samples("").items()] * 2:
                packed.writestr(name, data)
    assert len(listing(path).paths) == 6
    told = capsys.readouterr().err
    assert told.count("holds 12 members under a name that another has, such as '0000.jpg'") == 1


def test_a_shard_that_is_no_tar_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.tarred(tmp_path / "a.tar", samples(""))
    (tmp_path / "b.tar").write_bytes(b"hello" * 99)
    found = listing(tmp_path)
    assert (len(found.paths), found.source) == (6, "WebDataset, 1 shard without b.tar")
    assert "shard b.tar is not used. It is empty, or no tar, as its first bytes show" in capsys.readouterr().err


def test_only_the_shards_that_were_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, folder in (("a", ""), ("b", "../"), ("c", "")):  # members above the tar: the whole of it is refused
        layouts.tarred(tmp_path / f"{name}.tar", samples(f"{folder}{name}"))
    found = listing(tmp_path)
    assert found.source == "WebDataset, 2 shards without b.tar"
    assert "Warning: shard b.tar is not used. " in capsys.readouterr().err
    assert {path.partition("/")[0] for path in found.paths} == {"a.tar", "c.tar"}
