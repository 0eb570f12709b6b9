"""Public data sets in miniature, in the layouts in which they are downloaded: few images, real bytes. Each function writes one
below a folder and returns what to give to `fanlight`."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CIFAR_10 = ("airplane", "automobile", "bird")
FINE = ("apple", "aquarium_fish", "baby")
PX = 16


def pixels(label: int, number: int, *, px: int = PX) -> np.ndarray:
    """uint8 [px, px, 3], noise around one colour per label."""
    made = np.random.default_rng((label, number)).integers(0, 90, (px, px, 3), np.uint8)
    made[..., label % 3] += 140
    return made


def jpeg(label: int, number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(label, number)).save(file, "JPEG")
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def class_files(
    *, prefix: str = "", count: int = 6, classes: tuple[str, ...] = ("blue", "green", "red")
) -> dict[str, bytes]:
    return {
        f"{prefix}{name}/{number}.jpg": jpeg(label, number)
        for label, name in enumerate(classes)
        for number in range(count)
    }


def zipped(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes], *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def asl_alphabet(root: Path) -> Path:
    """The flat test folder has no image of `del`."""
    write(root, class_files(prefix="asl_alphabet_train/asl_alphabet_train/", classes=("A", "del", "nothing"), count=5))
    test = {"A_test.jpg": jpeg(0, 90), "nothing_test.jpg": jpeg(2, 90)}
    return write(root, {f"asl_alphabet_test/asl_alphabet_test/{name}": data for name, data in test.items()})


def weather(root: Path) -> Path:
    return write(root, class_files(prefix="dataset/", classes=("dew", "fogsmog", "rime")))


def lung_colon(root: Path) -> Path:
    write(root, class_files(prefix="lung_colon_image_set/lung_image_sets/", classes=("lung_aca", "lung_n")))
    colon = {f"lung_colon_image_set/colon_image_sets/colon_n/{number}.jpg": jpeg(2, number) for number in range(6)}
    return write(root, colon)


def _cifar_rows(*, label_bytes: int, first: int, count: int = 8) -> tuple[list[int], bytes]:
    labels = [(first + number) % 3 for number in range(count)]
    planar = [pixels(label, first + number, px=32).transpose(2, 0, 1).tobytes() for number, label in enumerate(labels)]
    coarse = bytes(label_bytes - 1)
    return labels, b"".join(coarse + bytes([label]) + each for label, each in zip(labels, planar))


def cifar10_binary(root: Path) -> Path:
    files = {"batches.meta.txt": "\n".join(CIFAR_10).encode() + b"\n\n", "readme.html": b"<html>"}
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        files[f"{name}.bin"] = _cifar_rows(label_bytes=1, first=8 * number)[1]
    return write(root, {f"cifar-10-batches-bin/{name}": data for name, data in files.items()})


def cifar100_binary(root: Path) -> Path:
    files = {"fine_label_names.txt": "\n".join(FINE).encode(), "coarse_label_names.txt": b"fruit\nfish\npeople\n"}
    for number, name in enumerate(("train", "test")):
        files[f"{name}.bin"] = _cifar_rows(label_bytes=2, first=16 * number, count=16 - 8 * number)[1]
    return write(root, {f"cifar-100-binary/{name}": data for name, data in files.items()})


def python2_pickle(batch: dict[bytes, Any]) -> bytes:
    """As Python 2 wrote CIFAR: byte strings by the opcodes U and T, arrays by numpy.core.multiarray._reconstruct."""

    def encoded(value: Any) -> bytes:
        if isinstance(value, bytes):
            return (
                b"U" + bytes([len(value)]) + value
                if len(value) < 256
                else b"T" + len(value).to_bytes(4, "little") + value
            )
        if isinstance(value, int):
            return b"K" + bytes([value])
        if isinstance(value, list):
            return b"](" + b"".join(map(encoded, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(encoded(key) + encoded(each) for key, each in value.items()) + b"u"
        shape = b"".join(b"M" + size.to_bytes(2, "little") for size in value.shape)
        begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01(" + shape + b"t"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return begin + dtype + b"\x89" + encoded(value.tobytes()) + b"tb"

    return b"\x80\x02" + encoded(batch) + b"."


def cifar_batch(*, first: int, label: bytes = b"labels") -> dict[bytes, Any]:
    labels, records = _cifar_rows(label_bytes=1, first=first)
    data = np.frombuffer(records, np.uint8).reshape(len(labels), 3073)[:, 1:].copy()
    return {b"batch_label": b"a batch", label: labels, b"data": data, b"filenames": [b"x.png"] * len(labels)}


def cifar10_python(root: Path) -> Path:
    files = {"batches.meta": python2_pickle({b"label_names": [name.encode() for name in CIFAR_10], b"num_vis": 3})}
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        files[name] = python2_pickle(cifar_batch(first=8 * number))
    return write(root, {f"cifar-10-batches-py/{name}": data for name, data in files.items()})


def cifar100_python(root: Path) -> Path:
    """Written by Python 3, so that every protocol is met: text keys, arrays by other names."""
    files = {"meta": pickle.dumps({"fine_label_names": list(FINE), "coarse_label_names": ["fruit"]}, 0)}
    for number, (name, protocol) in enumerate((("train", 2), ("test", 5))):
        batch = {key.decode(): value for key, value in cifar_batch(first=8 * number, label=b"fine_labels").items()}
        files[name] = pickle.dumps(batch | {"coarse_labels": [0] * 8}, protocol)
    return write(root, {f"cifar-100-python/{name}": data for name, data in files.items()})


def cifar10_python_tar(root: Path) -> Path:
    cifar10_python(root / "whole")
    files = {path.relative_to(root / "whole").as_posix(): path.read_bytes() for path in (root / "whole").rglob("*_*/*")}
    files |= {"cifar-10-batches-py/batches.meta": (root / "whole/cifar-10-batches-py/batches.meta").read_bytes()}
    files = {
        path.relative_to(root / "whole").as_posix(): path.read_bytes()
        for path in (root / "whole").rglob("*")
        if path.is_file()
    }
    return tarred(root / "cifar-10-python.tar.gz", files, mode="w:gz")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def _mnist(*, first: int, count: int) -> tuple[bytes, bytes]:
    labels = np.arange(first, first + count, dtype=np.uint8) % 3
    images = np.stack(
        [pixels(0, number, px=28)[..., 0] // 2 + 40 * label for number, label in enumerate(labels, first)]
    )
    return idx(images.astype(np.uint8)), idx(labels)


def mnist(root: Path, *, packed: bool = True, mark: str = "-") -> Path:
    for name, (first, count) in {"train": (0, 15), "t10k": (15, 6)}.items():
        images, labels = _mnist(first=first, count=count)
        for kind, data in ((f"images{mark}idx3-ubyte", images), (f"labels{mark}idx1-ubyte", labels)):
            file = f"{name}-{kind}.gz" if packed else f"{name}-{kind}"
            write(root, {file: gzip.compress(data) if packed else data})
    return root


def emnist_zip(root: Path) -> Path:
    """Its files have a prefix, and come as .gz in one zip."""
    mnist(root / "whole")
    files = {
        f"gzip/emnist-letters-{path.name.replace('t10k', 'test')}": path.read_bytes()
        for path in (root / "whole").iterdir()
    }
    return zipped(root / "emnist.zip", files)


def web_dataset(root: Path) -> Path:
    """train-0000.tar, train-0001.tar, test-0000.tar with class numbers."""
    for shard, first in {"train-0000": 0, "train-0001": 9, "test-0000": 18}.items():
        files: dict[str, bytes] = {}
        for number in range(first, first + 9):
            files |= {f"{number:04d}.jpg": jpeg(number % 3, number), f"{number:04d}.cls": str(number % 3).encode()}
        root.mkdir(exist_ok=True, parents=True)
        tarred(root / f"{shard}.tar", files)
    return root


def hub_folder(root: Path) -> Path:
    """imagefolder: metadata.csv in each folder of a split."""
    for split, first in {"train": 0, "test": 12}.items():
        rows = [(f"{number:04d}.png", number % 3, jpeg(number % 3, number)) for number in range(first, first + 12)]
        text = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label, _ in rows)
        write(root / split, {"metadata.csv": text.encode()} | {name: data for name, _, data in rows})
    return root


def hub_parquet(root: Path) -> Path:
    """data/train-00000-of-00001.parquet with image bytes and a ClassLabel."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    (root / "data").mkdir(parents=True)
    for split, first in {"train": 0, "test": 12}.items():
        images = [{"bytes": jpeg(number % 3, number), "path": f"{number}.jpg"} for number in range(first, first + 12)]
        labels = [number % 3 for number in range(first, first + 12)]
        table = pa.table({"image": pa.array(images, image), "label": pa.array(labels, pa.int64())})
        pq.write_table(table.replace_schema_metadata(about), root / f"data/{split}-00000-of-00001.parquet")
    return root


def kaggle_csv(root: Path) -> Path:
    """train.csv with odd names and no extensions beside train_images/."""
    names = [f"a{number:03x}" for number in range(18)]
    text = "id_code,diagnosis\n" + "".join(f"{name},{number % 3}\n" for number, name in enumerate(names))
    write(root, {"train.csv": text.encode(), "test.csv": b"id_code\nzzz\n"})
    return write(root, {f"train_images/{name}.jpg": jpeg(number % 3, number) for number, name in enumerate(names)})


def isic_csv(root: Path) -> Path:
    """One column per class, a 1.0 in one of them."""
    lines = ["image,MEL,NV,BCC"]
    for number in range(18):
        lines.append(",".join([f"ISIC_{number:04d}", *("1.0" if number % 3 == each else "0.0" for each in range(3))]))
        write(root, {f"ISIC_images/ISIC_{number:04d}.jpg": jpeg(number % 3, number)})
    (root / "groundtruth.csv").write_text("\n".join(lines))
    return root / "groundtruth.csv"


def json_lines(root: Path) -> Path:
    lines = [json.dumps({"image": f"images/{number}.jpg", "label": number % 3}) for number in range(18)]
    write(root, {f"images/{number}.jpg": jpeg(number % 3, number) for number in range(18)})
    (root / "list.jsonl").write_text("\n".join(lines))
    return root / "list.jsonl"


def flickr8k(root: Path) -> Path:
    lines = [("image", "caption")]
    for number in range(6):
        write(root, {f"Images/{number}_ab.jpg": jpeg(number % 3, number)})
        lines += [(f"{number}_ab.jpg", f"A dog, seen from side {each} .") for each in range(5)]
    with (root / "captions.txt").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


def flickr8k_tokens(root: Path) -> Path:
    """The original's two folders, with lists of the splits."""
    names = [f"{number}_ab.jpg" for number in range(6)]
    tokens = "".join(f"{name}#{each}\tA dog , side {each} .\n" for name in names for each in range(5))
    text = {
        "Flickr8k.token.txt": tokens, "Flickr8k.lemma.token.txt": tokens.replace("dog", "DOG"),
        "Flickr_8k.trainImages.txt": "\n".join(names[:3]), "Flickr_8k.devImages.txt": names[3],
        "Flickr_8k.testImages.txt": names[4],
    }  # fmt: skip
    write(root / "Flickr8k_text", {name: value.encode() for name, value in text.items()})
    return write(root, {f"Flicker8k_Dataset/{name}": jpeg(0, number) for number, name in enumerate(names)}).resolve()


def coco(root: Path) -> Path:
    """A listed image of val is missing, one of train is not listed."""
    for split, count in {"train": 4, "val": 3}.items():
        images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in range(count)]
        said = [{"id": each, "image_id": each % count, "caption": f"A cat {each}.\n"} for each in range(5 * count)]
        text = json.dumps({"info": {}, "licenses": [], "images": images, "annotations": said})
        write(
            root, {f"annotations/captions_{split}2017.json": text.encode(), "annotations/instances_val2017.json": b"{}"}
        )
        for number in range(count):
            if (split, number) != ("val", 2):
                write(root, {f"{split}2017/{number:012d}.jpg": jpeg(number % 3, number)})
    return write(root, {"train2017/extra.jpg": jpeg(0, 99)})


COMPRESSED = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}
