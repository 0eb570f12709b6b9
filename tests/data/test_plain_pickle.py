"""Pickles of plain data are read; whatever else one holds is refused by its name, and nothing runs."""

import contextlib
import datetime
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import layouts
from fanlight.data import arrays, plain_pickle
from fanlight.data.formats import recognise
from fanlight.errors import DataError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150)
@given(plain, st.integers(0, 5))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    assert plain_pickle.load(pickle.dumps(value, protocol), told="p") == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "?"])
def test_arrays_come_back(dtype: str, protocol: int) -> None:
    array = np.arange(6000).reshape(60, 100).astype(dtype)
    data = pickle.dumps({"data": array, "count": np.int64(7), "scalar": np.float32(0.5)}, protocol)
    held = plain_pickle.load(data, told="p")
    found = held["data"]
    assert np.array_equal(np.frombuffer(found.data, found.dtype).reshape(found.shape), array)
    assert (held["count"], held["scalar"]) == (7, 0.5)
    assert found.start is None or data[found.start : found.start + len(found.data)] == found.data
    assert (found.start is not None) or protocol < 3, "large arrays lie in the file as they are"


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any):
        self.made = call, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_of_a_pickle_runs(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    for call, name in (
        (os.system, "posix.system"),
        (eval, r"(__builtin__|builtins).eval"),
        (Path.touch, "getattr|Path.touch"),
    ):
        data = pickle.dumps({"data": Runs(call, f"touch {mark}")}, protocol)
        with pytest.raises(
            DataError, match=f"is a pickle that wants '.*({name}).*'; only plain containers and arrays are read"
        ):
            plain_pickle.load(data, told="batch")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(ios\nsystem\n.", "wants the operation INST"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", r"wants 'os\.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"wants 'os\.system'"),
        (b"\x80\x02cnumpy\nload\n.", r"wants 'numpy\.load'"),
        (b"\x80\x02cnumpy.core.multiarray\nnumpy ndarray\n.", "wants"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "wants to call ndarray"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "wants the operation NEWOBJ"),
        (b"\x80\x02}}b.", "wants to set the state of a dict"),
        (b"\x80\x02Px\n.", "damaged pickle|wants the operation PERSID"),
        (b"\x80\x02\x82\x01.", "wants the operation EXT1"),
        (pickle.dumps(np.array([{}], object)), r"wants an array of 'O8'"),
        (pickle.dumps(datetime.datetime(2020, 1, 1)), r"wants 'datetime\.datetime'"),
        (pickle.dumps({1, 2}), "wants the operation EMPTY_SET"),
        (b"\x80\x02", "damaged pickle"),
        (b"\x80\x02h\x65.", r"damaged pickle \(its parts do not fit together\); download"),
        (b"\x80\x02}" + b"(" * 50 + b"u.", "damaged pickle"),
        (b"\x80\x02T\xff\xff\xff\x7fabc.", "damaged pickle"),
        (b"\x80\x02}]Ns.", "dict with odd keys"),
    ],
)  # fmt: skip
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plain_pickle.load(data, told="batch")


def test_a_crafted_cifar_batch_is_refused_by_the_name_it_wants(tmp_path: Path) -> None:
    root = layouts.cifar10_python(tmp_path / "set") / "cifar-10-batches-py"
    batch = {"data": Runs(os.system, f"touch {tmp_path}/mark"), "labels": [0]}
    (root / "data_batch_2").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(
        DataError, match=r"data_batch_2 is a pickle that wants 'posix\.system'; .* Use the binary version"
    ):
        recognise(str(tmp_path / "set"), cache=tmp_path)
    assert not (tmp_path / "mark").exists()


def nested(depth: int, *, opcode: bytes) -> bytes:
    """The opcodes of a value in `depth` containers."""
    return b"X\x01\x00\x00\x00x" + opcode * depth


def shared(depth: int) -> bytes:
    """A list of a list twice, which is a list of a list twice …: 2 ** depth values in a few bytes each."""
    return b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(depth))


HOSTILE = {  # a value where a name belongs -> what it is
    "shared lists": (shared(200), "list"),
    "deep tuples": (nested(100_000, opcode=b"\x85"), "tuple"),
    "a number of 6,000 digits": (pickle.dumps(10**6000, 2)[2:-1], "int"),
    "a dict": (b"}", "dict"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_none_is_refused_at_once(tmp_path: Path, name: str) -> None:
    value, kind = HOSTILE[name]
    root = layouts.cifar10_python(tmp_path / "set") / "cifar-10-batches-py"
    (root / "batches.meta").write_bytes(b"\x80\x02}X\x0b\x00\x00\x00label_names](" + value + b"es.")
    with pytest.raises(DataError, match=rf"batches\.meta has a {kind} where a name belongs, as no CIFAR file has"):
        recognise(str(tmp_path / "set"), cache=tmp_path)


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_1"])
def test_a_key_of_6000_digits_is_refused(tmp_path: Path, file: str) -> None:
    root = layouts.cifar10_python(tmp_path / "set") / "cifar-10-batches-py"
    (root / file).write_bytes(pickle.dumps({10**6000: 1}, 2))
    with pytest.raises(DataError, match=rf"{file} has a int where a name belongs"):
        recognise(str(tmp_path / "set"), cache=tmp_path)


def test_labels_and_sizes_of_6000_digits_are_refused(tmp_path: Path) -> None:
    root = layouts.cifar10_python(tmp_path / "set") / "cifar-10-batches-py"
    batch = layouts.cifar_batch(first=0)
    (root / "data_batch_1").write_bytes(pickle.dumps(batch | {b"labels": [10**6000] * 8}, 2))
    with pytest.raises(DataError, match="data_batch_1 has no data and labels for each of them"):
        recognise(str(tmp_path / "set"), cache=tmp_path)
    empty = layouts.python2_pickle({b"labels": [], b"data": np.zeros((0, 3072), np.uint8)})
    (root / "data_batch_1").write_bytes(
        empty.replace(b"M\x00\x00M\x00\x0ct", b"M\x00\x00" + pickle.dumps(10**6000, 2)[2:-1] + b"t")
    )
    with pytest.raises(DataError, match="data_batch_1 is a damaged pickle"):
        recognise(str(tmp_path / "set"), cache=tmp_path)


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_1"])
def test_a_pickle_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    root = layouts.cifar10_python(tmp_path / "set") / "cifar-10-batches-py"
    monkeypatch.setattr(arrays, "PICKLE_BYTES_MOST", max(path.stat().st_size for path in root.iterdir()))
    with open(root / file, "ab") as out:
        out.truncate(arrays.PICKLE_BYTES_MOST + 1)
    with pytest.raises(DataError, match=rf"{file} is a pickle of more than 0 GB, which is not read"):
        recognise(str(tmp_path / "set"), cache=tmp_path)


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1))
def test_damage_is_a_data_error_or_nothing(seed: int) -> None:
    data = bytearray(layouts.python2_pickle({b"a": [1, 2, {b"b": b"text"}], b"data": np.zeros((3, 4), np.uint8)}))
    draws = np.random.default_rng(seed)
    for at in draws.integers(0, len(data), draws.integers(1, 6)):
        data[at] = draws.integers(0, 256)
    with contextlib.suppress(DataError):  # and nothing else
        plain_pickle.load(bytes(data), told="p")
