"""Fixtures of the data tests."""

import pytest

from fanlight.data import canvas


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per image that is decoded."""
    calls: list[int] = []
    to_canvas = canvas.to_canvas
    monkeypatch.setattr(canvas, "to_canvas", lambda data, px: calls.append(len(data)) or to_canvas(data, px))
    return calls
