"""Every public format in miniature: what is recognised, counted and said, in folders and in archives."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import layouts
from data.checking import check
from fanlight.data import canvas
from fanlight.data.formats import Listing, recognise
from fanlight.data.manifest import read_file
from fanlight.data.scan import scan
from fanlight.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path / "cache"))


def listing(path: Path | str) -> Listing:
    return recognise(str(path), cache=Path("unused"))


CLASSES = {  # format -> images per split, classes, words of the source
    layouts.asl_alphabet: ({"train": 15, "test": 2}, "A del nothing", "class folders in asl_alphabet_train/ and"),
    layouts.weather: ({"": 18}, "dew fogsmog rime", "class folders"),
    layouts.lung_colon: ({"": 18}, "colon_n lung_aca lung_n", "class folders"),
    layouts.cifar10_binary: ({"train": 16, "test": 8}, "airplane automobile bird", "CIFAR-10, binary version"),
    layouts.cifar100_binary: ({"train": 16, "test": 8}, "apple aquarium_fish baby", "CIFAR-100, binary version"),
    layouts.cifar10_python: ({"train": 16, "test": 8}, "airplane automobile bird", "CIFAR-10, Python version"),
    layouts.cifar10_python_tar: ({"train": 16, "test": 8}, "airplane automobile bird", "CIFAR-10, Python version"),
    layouts.cifar100_python: ({"train": 8, "test": 8}, "apple aquarium_fish baby", "CIFAR-100, Python version"),
    layouts.mnist: ({"train": 15, "test": 6}, "0 1 2", "MNIST's IDX files"),
    layouts.emnist_zip: ({"train": 15, "test": 6}, "0 1 2", "MNIST's IDX files"),
    layouts.web_dataset: ({"train": 18, "test": 9}, "0 1 2", "WebDataset, 3 shards"),
    layouts.hub_folder: ({"train": 12, "test": 12}, "0 1 2", "metadata in metadata.csv"),
    layouts.hub_parquet: ({"train": 12, "test": 12}, "cat dog owl", "Parquet tables with images (2)"),
    layouts.kaggle_csv: ({"": 18}, "0 1 2", "list file train.csv"),
    layouts.isic_csv: ({"": 18}, "bcc mel nv", "list file groundtruth.csv"),
    layouts.json_lines: ({"": 18}, "0 1 2", "list file list.jsonl"),
}


@pytest.mark.parametrize("write", CLASSES, ids=lambda write: write.__name__)
def test_labelled_sets(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    splits, classes, source = CLASSES[write]
    manifest = scan(listing(write(tmp_path / "set")), workers=1, decode=True)
    assert manifest.ok.all(), manifest.column("reason")
    assert Counter(manifest.column("split")) == splits
    assert manifest.classes == tuple(classes.split())
    assert manifest.source.startswith(source)
    assert manifest.changed() == []
    assert len(set(manifest.column("sha256"))) == len(manifest), "each is an image of its own"


def test_pixels_are_those_of_the_original(tmp_path: Path) -> None:
    """CIFAR keeps colours apart, MNIST rows together; every version of one sample has the same bytes, so the same hash."""
    versions = [write(tmp_path / write.__name__) for write in (layouts.cifar10_binary, layouts.cifar10_python)]
    rows = [listing(version) for version in versions]
    first = [read_file(found.root / found.paths[9]) for found in rows]
    assert first[0] == first[1]
    assert np.array_equal(canvas.to_canvas(first[0], None), layouts.pixels(0, 9, px=32))
    assert [found.labels[9] for found in rows] == ["airplane"] * 2  # 9 % 3 == 0
    plain, packed = (listing(layouts.mnist(tmp_path / str(each), packed=each, mark=".")) for each in (False, True))
    assert plain.paths[0] == "t10k-images.idx3-ubyte/00000" and packed.paths[0] == "t10k-images.idx3-ubyte.gz/00000"
    assert read_file(plain.root / plain.paths[3]) == read_file(packed.root / packed.paths[3])
    assert canvas.header(read_file(plain.root / plain.paths[3])).width == 28


@pytest.mark.parametrize(
    "write", [layouts.flickr8k, layouts.flickr8k_tokens, layouts.coco], ids=lambda each: each.__name__
)
def test_sets_with_captions(tmp_path: Path, write: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]) -> None:
    document = check(str(write(tmp_path / "set")), workers=1, out=None)
    out = capsys.readouterr().out
    images = {"flickr8k": 6, "flickr8k_tokens": 5, "coco": 6}[write.__name__]
    assert (document["images"], document["captions"], document["classes"]) == (images, 5 * images, {})
    assert f"{images} images, {5 * images} captions, from " in out
    if write is layouts.coco:
        assert document["splits"] == {"train": 4, "val": 2}
        assert document["quarantined"] == [{"path": "val2017/000000000002.jpg", "reason": "file not found"}]
        assert "train2017: 1 images are not in captions_train2017.json and not used, such as extra.jpg" in out
    if write is layouts.flickr8k_tokens:
        assert document["splits"] == {"train": 3, "val": 1, "test": 1}
        assert "1 images are in none of the lists of splits" in out


def test_captions_are_kept_whole(tmp_path: Path) -> None:
    found = listing(layouts.flickr8k(tmp_path))
    assert json.loads(found.captions[0])[2] == "A dog, seen from side 2 ."
    assert listing(tmp_path / "captions.txt").captions == found.captions
    (tmp_path / "captions.txt").write_text("image,caption\n0_ab.jpg,a dog, not quoted\n0_ab.jpg,another\n")
    assert listing(tmp_path).captions == [json.dumps(["a dog, not quoted", "another"])]
    assert json.loads(listing(layouts.coco(tmp_path / "coco")).captions[0]) == [f"A cat {n}." for n in range(0, 20, 4)]


def test_coco_without_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.coco(tmp_path / "set")
    (root / "val2017").rename(tmp_path / "elsewhere")
    assert set(listing(root).splits) == {"train"}
    assert "None of its images is in val2017 beside it. Put the folder val2017 beside it" in capsys.readouterr().err


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


IN_ARCHIVES = (
    layouts.asl_alphabet, layouts.lung_colon, layouts.coco, layouts.cifar10_python, layouts.hub_folder, layouts.kaggle_csv,
    layouts.mnist,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("write", IN_ARCHIVES, ids=lambda write: write.__name__)
def test_the_same_in_an_archive(tmp_path: Path, kind: str, write: Callable[[Path], Path]) -> None:
    folder = write(tmp_path / "set")
    packed = tmp_path / f"set.{kind}"
    if kind == "zip":
        layouts.zipped(packed, files_of(folder))
    else:
        layouts.tarred(packed, files_of(folder), mode=f"w:{kind[4:]}")
    plain, found = listing(folder), listing(packed)
    for name in ("paths", "labels", "splits", "captions"):
        assert getattr(found, name) == getattr(plain, name)
    one, other = scan(plain, workers=1), scan(found, workers=1)
    assert one.column("sha256").tolist() == other.column("sha256").tolist()
    assert other.fingerprint == one.fingerprint


def test_shards_by_a_pattern_and_alone(tmp_path: Path) -> None:
    layouts.web_dataset(tmp_path)
    assert Counter(listing(tmp_path / "train-{0000..0001}.tar").splits) == {"train": 18}
    assert Counter(listing(tmp_path / "{train,test}-0000.tar").splits) == {"train": 9, "test": 9}
    assert listing(tmp_path / "train-0000.tar").paths[0] == "0000.jpg"
    with pytest.raises(DataError, match=r"names 3 shards, and 1 are not there, first train-0002\.tar"):
        listing(tmp_path / "train-{0000..0002}.tar")


def test_shards_with_json_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files: dict[str, bytes] = {}
    for number in range(6):
        files |= {
            f"a/{number}.jpg": layouts.jpeg(number % 2, number),
            f"a/{number}.json": b'{"label": "%d"}' % (number % 2),
        }
    assert set(listing(layouts.tarred(tmp_path / "j.tar", files)).labels) == {"0", "1"}
    words = {name: b"cat" if "0" in name else b"dog" for name in files if "json" in name}
    texts = {name.replace("json", "txt"): words.get(name, data) for name, data in files.items()}
    assert set(listing(layouts.tarred(tmp_path / "t.tar", texts)).labels) == {"cat", "dog"}
    assert ".txt of the samples are taken as labels" in capsys.readouterr().out
    said = {name: data if "jpg" in name else b"A picture of %s" % name.encode() for name, data in texts.items()}
    found = listing(layouts.tarred(tmp_path / "c.tar", said))
    assert set(found.labels) == {""} and json.loads(found.captions[0]) == ["A picture of a/0.txt"]


def test_a_damaged_shard_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.web_dataset(tmp_path)
    data = bytearray((tmp_path / "train-0001.tar").read_bytes())
    data[1024 + 512 :: 512] = b"x" * len(data[1024 + 512 :: 512])
    (tmp_path / "train-0001.tar").write_bytes(data)
    assert Counter(listing(tmp_path).splits) == {"train": 9, "test": 9}
    assert "shard train-0001.tar is not used" in capsys.readouterr().err


def test_columns_are_found_by_what_is_in_them_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = listing(layouts.kaggle_csv(tmp_path / "k"))
    assert found.paths[0] == "train_images/a000.jpg"
    out = capsys.readouterr().out
    assert "the column id_code is taken as path, because its values are files" in out
    assert "the column diagnosis is taken as label, because it has 3 different values" in out
    listing(layouts.isic_csv(tmp_path / "i"))
    assert "the columns mel, nv, bcc are the classes" in capsys.readouterr().out


def test_columns_that_could_be_meant_are_named(tmp_path: Path) -> None:
    root = layouts.kaggle_csv(tmp_path)
    lines = (root / "train.csv").read_text().splitlines()
    more = [
        f"{line},{'side' if not number else 'left' if number % 2 else 'right'}" for number, line in enumerate(lines)
    ]
    (root / "train.csv").write_text("\n".join(more))
    with pytest.raises(
        DataError, match=r"no column 'label', and diagnosis, side could be it; .* train\.csv\?label=diagnosis"
    ):
        listing(root / "train.csv")
    assert set(listing(f"{root}/train.csv?label=side").labels) == {"left", "right"}
    assert set(listing(f"{root}/train.csv?path=id_code&label=diagnosis").labels) == {"0", "1", "2"}
    with pytest.raises(DataError, match=r"has no column 'sides'\. Near names: side\."):
        listing(f"{root}/train.csv?label=sides")
    with pytest.raises(DataError, match=r"after the \? belong path=COLUMN"):
        listing(f"{root}/train.csv?lable=side")


def test_absolute_paths_and_missing_files_in_a_list(tmp_path: Path) -> None:
    layouts.write(tmp_path / "elsewhere", layouts.class_files(count=2))
    lines = ["picture,kind"]
    for label in ("blue", "red"):
        lines += [f"{tmp_path}/elsewhere/{label}/{number}.jpg,{label}" for number in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    manifest = scan(listing(tmp_path / "list.csv"), workers=1)
    assert manifest.classes == ("blue", "red")
    assert [reason for reason in manifest.column("reason") if reason] == ["file not found"] * 2


def test_a_list_inside_an_archive(tmp_path: Path) -> None:
    folder = layouts.kaggle_csv(tmp_path / "k")
    packed = layouts.zipped(tmp_path / "k.zip", files_of(folder))
    assert listing(packed / "train.csv").labels == listing(folder / "train.csv").labels
    with pytest.raises(DataError, match=r"no\.csv does not exist: the archive has no such folder or file"):
        listing(packed / "no.csv")


def test_a_folder_inside_an_archive(tmp_path: Path) -> None:
    packed = layouts.zipped(tmp_path / "p.zip", layouts.class_files(prefix="deep/photos/") | {"deep/readme.txt": b"x"})
    found = listing(packed / "deep/photos")
    assert (len(found.paths), found.root) == (18, packed / "deep/photos")
    assert scan(found, workers=1).ok.all()


def test_a_folder_with_nothing_but_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.zipped(tmp_path / "p.zip", layouts.class_files(prefix="photos/"))
    assert listing(tmp_path).root == tmp_path / "p.zip/photos"
    assert "p.zip is all that is in it, and is looked into" in capsys.readouterr().out


def test_one_file_of_a_set_says_to_give_the_folder(tmp_path: Path) -> None:
    layouts.mnist(tmp_path / "m")
    layouts.cifar10_binary(tmp_path / "b")
    layouts.cifar10_python(tmp_path / "p")
    for name in ("m/train-images-idx3-ubyte.gz", "m/train-labels-idx1-ubyte.gz", "b/cifar-10-batches-bin/test_batch.bin",
                 "p/cifar-10-batches-py/data_batch_1"):  # fmt: skip
        with pytest.raises(DataError, match=r"is one file of a set: images, or labels, alone\. Give the folder"):
            listing(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-labels-idx1-ubyte", lambda data: None, "has no file of labels beside it; download that, too"),
        ("train-labels-idx1-ubyte", lambda data: data[:-1], "is not a whole IDX file of labels; download it again"),
        (
            "train-labels-idx1-ubyte",
            lambda data: layouts.idx(np.zeros(3, np.uint8)),
            "not of the same number of samples",
        ),
        ("train-images-idx3-ubyte", lambda data: data[:-1], r"its 15 images of 28x28 take 11776; download it again"),
        ("train-images-idx3-ubyte", lambda data: data[:8] + bytes(4) + data[12:], "and no images of 1 or 3 colours"),
        ("train-images-idx3-ubyte", lambda data: b"", "train-images-idx3-ubyte is empty; download it again"),
        (
            "train-images-idx3-ubyte",
            lambda data: b"\0\0\4\xd2" + data[4:],
            r"images-idx3-ubyte is no IDX file of bytes: it begins with 00 00 04 d2, and images with 00 00 08 03",
        ),
        (
            "train-labels-idx1-ubyte",
            lambda data: b"\0\0\0\7" + data[4:],
            r"labels-idx1-ubyte is no .* begins with 00 00 00 07",
        ),
    ],
)
def test_damaged_idx(tmp_path: Path, name: str, change: Callable[[bytes], bytes | None], message: str) -> None:
    layouts.mnist(tmp_path, packed=False)
    data = change((tmp_path / name).read_bytes())
    os.unlink(tmp_path / name)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        listing(tmp_path)


@pytest.mark.parametrize("at", [0, 4, -5])
def test_damaged_tables_with_images(tmp_path: Path, at: int) -> None:
    """In its first bytes, in its first page, in its directory."""
    file = layouts.hub_parquet(tmp_path) / "data/train-00000-of-00001.parquet"
    (tmp_path / "data/test-00000-of-00001.parquet").unlink()
    data = bytearray(file.read_bytes())
    data[at : at + 4] = b"\xff" * 4
    file.write_bytes(data)
    with pytest.raises(
        DataError, match=r"train-00000-of-00001\.parquet is a damaged Parquet table \(.*\); download it again"
    ):
        listing(tmp_path)


def test_damaged_cifar(tmp_path: Path) -> None:
    root = layouts.cifar10_binary(tmp_path) / "cifar-10-batches-bin"
    whole = (root / "test_batch.bin").read_bytes()
    (root / "test_batch.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"test_batch\.bin is not a whole number of CIFAR's records"):
        listing(tmp_path)
    (root / "test_batch.bin").write_bytes(b"\x09" + whole[1:])
    with pytest.raises(DataError, match=r"sample 0 has label 9 of 3 classes"):
        listing(tmp_path)


def test_sets_of_no_images_say_so(tmp_path: Path) -> None:
    layouts.mnist(tmp_path, packed=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(layouts.idx(np.zeros((0, 28, 28), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(layouts.idx(np.zeros(0, np.uint8)))
    with pytest.raises(DataError, match="train-images-idx3-ubyte has no images; download it again"):
        listing(tmp_path)


def test_missing_batches_of_cifar_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.cifar10_binary(tmp_path / "ten") / "cifar-10-batches-bin"
    for number in (3, 4, 5):
        (root / f"data_batch_{number}.bin").write_bytes((root / "data_batch_1.bin").read_bytes())
    listing(root)
    assert capsys.readouterr().err == ""
    (root / "data_batch_4.bin").unlink()
    (root / "test_batch.bin").unlink()
    assert len(listing(root).paths) == 32
    assert (
        "cifar-10-batches-bin lacks data_batch_4.bin, test_batch.bin. The set is not whole" in capsys.readouterr().err
    )
    layouts.cifar100_python(tmp_path / "hundred")
    (tmp_path / "hundred/cifar-100-python/test").unlink()
    listing(tmp_path / "hundred")
    assert "cifar-100-python lacks test. The set" in capsys.readouterr().err


def test_images_beside_their_zips(tmp_path: Path) -> None:
    """COCO's annotations unpacked, its images not."""
    root = layouts.coco(tmp_path)
    for split in ("train2017", "val2017"):
        layouts.zipped(
            root / f"{split}.zip", {f"{split}/{path.name}": path.read_bytes() for path in (root / split).iterdir()}
        )
        for path in (root / split).iterdir():
            path.unlink()
        (root / split).rmdir()
    manifest = scan(listing(root), workers=1)
    assert Counter(manifest.column("status")) == {"ok": 6, "quarantined": 1}
    assert manifest.column("path")[0] == "train2017.zip/train2017/000000000000.jpg"


def test_captions_in_shards_that_are_none_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [
        {"captions": [None, "a dog", " "]},
        {"caption": {"en": "a dog"}},
        {"captions": ["", None]},
        {"text": "a cat"},
    ]
    files = {f"{number}.jpg": layouts.jpeg(0, number) for number in range(4)}
    files |= {f"{number}.json": json.dumps(each).encode() for number, each in enumerate(said)}
    found = listing(layouts.tarred(tmp_path / "a.tar", files))
    assert dict(zip(found.paths, map(json.loads, found.captions))) == {"0.jpg": ["a dog"], "3.jpg": ["a cat"]}
    told = capsys.readouterr().out
    assert (
        "2 images without a caption are not used, such as 1.jpg (1.json has an object where a caption should be)"
        in told
    )
