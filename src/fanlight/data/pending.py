"""Work that is under way elsewhere, its results in the order in which it was given: of threads, processes or a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R", covariant=True)


class Promise(Protocol[R]):
    """As concurrent.futures and dask have it."""

    def result(self) -> R: ...

    def cancel(self) -> Any: ...


def in_order(items: Iterable[T], submit: Callable[[T], Promise[R]], *, ahead: int) -> Iterator[tuple[T, R]]:
    """Each item with its result. At most `ahead` are under way; the next is submitted when the oldest's result was taken.
    Where the results are not taken to the end, what is under way is cancelled."""
    pending: deque[tuple[T, Promise[R]]] = deque()
    try:
        for item in items:
            pending.append((item, submit(item)))
            if len(pending) >= ahead:
                first, promise = pending.popleft()
                yield first, promise.result()
        while pending:
            first, promise = pending.popleft()
            yield first, promise.result()
    finally:
        for _, promise in pending:
            promise.cancel()
