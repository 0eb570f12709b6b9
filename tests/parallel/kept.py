"""A pool of ranks that outlives who uses it."""

from typing import Any

from fanlight.parallel.launch import Pool


class Kept:
    """As the pool, for `with` and `close` that leave it open."""

    def __init__(self, pool: Pool):
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass
