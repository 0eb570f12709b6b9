"""Reads pickles of plain data without running anything: dicts, lists, tuples, text, bytes, numbers and NumPy arrays.

CIFAR's Python version is such files. The opcodes are interpreted here; what a pickle may name is a fixed list, and whatever
else it names is refused by that name. Nothing is imported, called or looked up on behalf of the file, whose size also bounds
the work. N samples.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fanlight.errors import DataError

IN_PLACE_BYTES = 4096  # longer byte strings keep the place where they were found
SIDE_MOST = 1 << 48  # of an array; beside a side of 0, any other would fit the bytes
NAME_LETTERS = 200  # said of a name that is refused
_MODULES = r"numpy\.(?:_?core)"
_KNOWN = {
    "reconstruct": re.compile(_MODULES + r"\.multiarray _reconstruct"),
    "scalar": re.compile(_MODULES + r"\.multiarray scalar"),
    "frombuffer": re.compile(_MODULES + r"\.numeric _frombuffer"),
    "ndarray": re.compile(r"numpy ndarray"),
    "dtype": re.compile(r"numpy dtype"),
    "encode": re.compile(r"_codecs encode"),
    "bytes": re.compile(r"(?:__builtin__|builtins) bytes"),
}
_DTYPE = re.compile(r"[|<>=]?([biuf])([1248])")
_PUSHED_AS_IT_IS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_PUSHED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}  # fmt: skip
_MARK = object()


@dataclass(frozen=True)
class _Named:
    """One of the names that a pickle may use; calling it is arithmetic on plain values."""

    what: str


@dataclass
class Dtype:
    """A NumPy type of plain numbers, such as `u1`; `order` as a pickle's state says it."""

    text: str
    order: str = "|"


@dataclass
class Array:
    """A NumPy array as it is pickled; not yet one."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    data: bytes = b""
    start: int | None = None  # byte of the file where `data` begins, where it lies there as it is


class _Refused(Exception):
    pass


def load(data: bytes, *, told: str) -> Any:
    """What a pickle holds. DataError that names the file, and the name that it must not use."""
    try:
        return _Machine(data).run()
    except _Refused as error:
        raise DataError(
            f"{told} is a pickle that wants {error}; only plain containers and arrays are read, since a pickle can run code. "
            "Use the binary version, or images in folders"
        ) from None
    except Exception as error:  # pickletools and this interpreter meet anything in a damaged file
        why = str(error) if isinstance(error, ValueError) and str(error) else "its parts do not fit together"
        raise DataError(f"{told} is a damaged pickle ({why}); download it again") from None


def is_pickle(head: bytes) -> bool:
    return (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5") or head.startswith((b"(dp", b"(d", b"}q"))


class _Machine:
    def __init__(self, data: bytes):
        self._file = io.BytesIO(data)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._starts: dict[int, tuple[int, bytes]] = {}  # id of a long byte string -> where it lies, and itself

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._file):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):  # Python 2's, which are bytes
            self._push_raw(argument.encode("latin-1"))
        elif name in _PUSHED_AS_IT_IS:
            self._push_raw(bytes(argument)) if isinstance(argument, bytes | bytearray) else stack.append(argument)
        elif name in _PUSHED:
            stack.append(_PUSHED[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("POP", "POP_MARK"):
            stack.pop() if name == "POP" else self._since_mark()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("LIST", "TUPLE", "DICT"):
            items = self._since_mark()
            stack.append(_dict(items) if name == "DICT" else tuple(items) if name == "TUPLE" else items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._since_mark()
            _a(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._since_mark()
            _a(dict, stack[-1]).update(_dict(items))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            text = argument if name == "GLOBAL" else f"{_a(str, stack.pop(-2))} {_a(str, stack.pop())}"
            stack.append(_named(text))
        elif name == "REDUCE":
            arguments = _a(tuple, stack.pop())
            stack.append(self._called(_a(_Named, stack.pop()).what, arguments))
        elif name == "BUILD":
            state = stack.pop()
            self._built(stack[-1], state)
        else:
            raise _Refused(f"the operation {name}")

    def _push_raw(self, raw: bytes) -> None:
        if len(raw) >= IN_PLACE_BYTES:  # an operation's text is the last of it, so the file stands at its end
            self._starts[id(raw)] = (self._file.tell() - len(raw), raw)
        self._stack.append(raw)

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _called(self, what: str, arguments: tuple[Any, ...]) -> Any:
        if what == "dtype":
            return Dtype(_a(str, _as_text(arguments[0])))
        if what == "reconstruct":
            return Array()
        if what == "bytes" and not arguments:
            return b""
        if what == "encode":
            return _a(str, arguments[0]).encode("latin-1")
        if what == "scalar":
            kind, raw = _dtype(arguments[0]), _a(bytes, arguments[1])
            import numpy as np

            return np.frombuffer(raw, kind)[0].item()
        if what == "frombuffer":
            return self._array(arguments[2], arguments[1], arguments[0], is_fortran=arguments[3] == "F")
        raise _Refused(f"to call {what}")

    def _built(self, target: Any, state: Any) -> None:
        if isinstance(target, Dtype):
            target.order = _a(str, _as_text(_a(tuple, state)[1]))
        elif isinstance(target, Array):
            _, shape, dtype, is_fortran, raw = _a(tuple, state)
            made = self._array(shape, dtype, raw, is_fortran=bool(is_fortran))
            target.shape, target.dtype, target.data, target.start = made.shape, made.dtype, made.data, made.start
        else:
            raise _Refused(f"to set the state of a {type(target).__name__}")

    def _array(self, shape: Any, dtype: Any, raw: Any, *, is_fortran: bool) -> Array:
        kind, data = _dtype(dtype), _a(bytes, raw)
        sizes = tuple(int(size) for size in _a(tuple, shape))
        count = 1
        for size in sizes:
            count *= size
        is_odd = not all(0 <= size <= SIDE_MOST for size in sizes) or (is_fortran and len(sizes) > 1)
        if is_odd or count * int(kind[-1]) != len(data):
            raise ValueError(f"an array of {sizes} {kind} in {len(data)} bytes")
        start = self._starts.get(id(data), (None, b""))[0]
        return Array(sizes, kind, data, start)


def _named(text: str) -> _Named:
    for what, pattern in _KNOWN.items():
        if pattern.fullmatch(text):
            return _Named(what)
    raise _Refused(f"{text[:NAME_LETTERS].replace(' ', '.')!r}")


def _dtype(value: Any) -> str:
    """`<i8` of a Dtype."""
    kind = _a(Dtype, value)
    found = _DTYPE.fullmatch(kind.text)
    if found is None or kind.order not in "<>|=":
        raise _Refused(f"an array of {kind.text[:NAME_LETTERS]!r}")
    return f"{'>' if kind.order == '>' else '<'}{found[1]}{found[2]}"


def _dict(items: list[Any]) -> dict[Any, Any]:
    """Keys and values in turn. Keys are plain, since a hash goes through a tuple to any depth."""
    keys = items[::2]
    if len(items) % 2 or not all(isinstance(key, str | bytes | int | float | None) for key in keys):
        raise ValueError("a dict with odd keys")
    return dict(zip(keys, items[1::2]))


def _a(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _as_text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value
