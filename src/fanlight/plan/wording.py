"""Training's words in a plan: a flag that `fanlight train` has and `fanlight plan` lacks is said as the config key that `--set`
takes. Imports no torch."""

from __future__ import annotations

import contextlib
import re
import typing
from collections.abc import Iterator
from functools import lru_cache

from fanlight.config import Config, keys
from fanlight.errors import FanlightError

FLAGS = {
    "model", "cluster", "ranks", "batch-size", "image-size", "precision", "device", "recipe", "limit", "trace", "anew", "confirm",
    "no-confirm", "set", "json", "help",
}  # fmt: skip
OTHERS = {"image-size-start": "data.image_px_start", "optimizer": "optim.name", "time-limit": "train.time_limit_s"}
WORDS = {
    "none",
    "auto",
    "step",
    "wsd",
    "epoch",
    "weighted",
    "balanced",
    "rand",
    "adamw",
    "sgd",
}  # that are a flag's value
_FLAG = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)(?: ([\d.]+[\w.]*|[A-Z]+\b|[a-z]+\b))?")


def of_plan(text: str) -> str:
    """`use --epochs 3, or leave --ema out` as `use --set train.epochs=3, or leave train.ema out`. Every layout is compared, so
    none is asked for by a flag. What belongs to another command, named before it, stays."""
    parts = re.split(r"(`?fanlight (?!plan)\w+[^;`]*`?)", text)
    return "".join(part if index % 2 else _FLAG.sub(_said, part) for index, part in enumerate(parts))


@contextlib.contextmanager
def errors_of_plan() -> Iterator[None]:
    """Inside, errors are said in the words of `of_plan`."""
    try:
        yield
    except FanlightError as error:
        error.args = tuple(of_plan(each) if isinstance(each, str) else each for each in error.args)
        raise


def _said(found: re.Match[str]) -> str:
    flag, after = found.group(1), found.group(2)
    if flag in FLAGS:
        return found.group()
    if flag == "layout":
        return found.group().removeprefix("--")
    key, value = _key(flag.removeprefix("no-")), "false" if flag.startswith("no-") else "true"
    if flag == "no-augment":
        key, value = "augment.off", "true"
    rest = f" {after}" if after else ""
    if key is None:
        return found.group()
    if key in _switches():
        return f"--set {key}={value}{rest}"
    if after and (after in WORDS or not after.islower()):
        return f"--set {key}={after}"
    return f"{key}{rest}"


def _key(flag: str) -> str | None:
    """The config key of a flag: the one field of its name."""
    name = flag.replace("-", "_")
    found = [each for each in keys() if each.partition(".")[2] == name]
    return OTHERS.get(flag) or (found[0] if len(found) == 1 else None)


@lru_cache
def _switches() -> frozenset[str]:
    """Keys that are true or false."""
    sections = typing.get_type_hints(Config)
    kinds = {each: typing.get_type_hints(sections[each.partition(".")[0]])[each.partition(".")[2]] for each in keys()}
    return frozenset(key for key, kind in kinds.items() if kind in (bool, bool | None))
