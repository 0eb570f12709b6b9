"""Results in the order of the work, with little of it under way, and nothing left behind."""

from collections.abc import Callable
from typing import Any

import pytest

from fanlight.data import pending


class Promised:
    def __init__(self, number: int, said: list[str]):
        self.number, self.said = number, said
        said.append(f"submit {number}")

    def result(self) -> int:
        self.said.append(f"result {self.number}")
        if self.number == 13:
            raise ValueError("unlucky")
        return self.number**2

    def cancel(self) -> None:
        self.said.append(f"cancel {self.number}")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def submit(said: list[str]) -> Callable[[int], Any]:
    return lambda number: Promised(number, said)


@pytest.mark.parametrize("ahead", [1, 2, 3, 7, 50])
def test_each_item_comes_with_its_result_and_few_are_under_way(submit, said: list[str], ahead: int) -> None:
    found, most = [], 0
    for item, result in pending.in_order(iter(range(7)), submit, ahead=ahead):
        found.append((item, result))
        under_way = sum(line.startswith("submit") for line in said) - sum(line.startswith("result") for line in said)
        most = max(most, under_way + 1)
    assert found == [(number, number**2) for number in range(7)]
    assert most == min(ahead, 7)
    assert not any(line.startswith("cancel") for line in said)


def test_what_is_under_way_is_cancelled_when_it_ends_early(submit, said: list[str]) -> None:
    results = pending.in_order(range(9), submit, ahead=3)
    assert next(results) == (0, 0)
    results.close()
    assert said == ["submit 0", "submit 1", "submit 2", "result 0", "cancel 1", "cancel 2"]


def test_an_error_cancels_the_rest(submit, said: list[str]) -> None:
    with pytest.raises(ValueError, match="unlucky"):
        list(pending.in_order([13, 1, 2], submit, ahead=3))
    assert said[-2:] == ["cancel 1", "cancel 2"]
