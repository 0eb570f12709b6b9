"""Fixtures: runs that nothing disturbs, to compare others with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from train import colours as tiny
from train.stopping import LONG, OPTIONS


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, cache_folder, colours) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        return tiny.train(colours, out=tmp_path_factory.mktemp("runs") / "undisturbed", **OPTIONS)


@pytest.fixture(scope="module")
def long_runs(tmp_path_factory, colours) -> Callable[[int], Path]:
    """long_runs(ranks): an undisturbed run of LONG."""
    runs: dict[int, Path] = {}

    def of(ranks: int) -> Path:
        if ranks not in runs:
            runs[ranks] = tiny.train(colours, out=tmp_path_factory.mktemp("runs") / "long", **LONG, ranks=ranks)
        return runs[ranks]

    return of
