"""Measurements that outlive an interruption: each is a line of a file as soon as it is there, and is not made again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Kept:
    """Answers by key, in `path`. A file is of one machine and one state of the code: delete it to begin anew."""

    def __init__(self, path: Path):
        self._path, self._known = path, dict[str, Any]()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # a line whose writing was interrupted
            path.write_text("".join(whole), encoding="utf-8")
        for line in whole:
            told = json.loads(line)
            self._known[told["key"]] = told["value"]

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def of(self, key: str, make: Callable[[], Any]) -> Any:
        """What is kept under `key`, else what `make` answers, which is kept from now on. JSON's types only."""
        if key not in self._known:
            value = make()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
            self._known[key] = json.loads(json.dumps(value))
        return self._known[key]


class Clock:
    """How much of some minutes is left."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._end
