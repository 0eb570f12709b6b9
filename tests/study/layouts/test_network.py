"""Pieces of a network that cannot be counted."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fanlight.config import Config
from fanlight.study.layouts import network


def counted(monkeypatch: pytest.MonkeyPatch, error: Exception) -> dict[str, Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    task = SimpleNamespace(model=lambda *_, **__: SimpleNamespace(model=nn.Linear(2, 2)))
    monkeypatch.setattr(network.tasks, "of", lambda *_: task)
    monkeypatch.setattr(network.counting, "count", fail)
    config = Config().with_values({"model.name": "one", "data.image_px": 8})
    return network.counted(SimpleNamespace(config=config, manifest=None))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RuntimeError("no meta kernel\nand more"), NotImplementedError("no meta kernel")])
def test_a_network_that_cannot_be_counted_says_so(monkeypatch, error):
    assert counted(monkeypatch, error) == {
        "blocks": [], "reason": "the network's pieces could not be counted: no meta kernel"
    }  # fmt: skip


@pytest.mark.parametrize("error", [TypeError("an argument too many"), AttributeError("no such field")])
def test_mistakes_of_ours_are_not_hidden(monkeypatch, error):
    with pytest.raises(type(error)):
        counted(monkeypatch, error)
