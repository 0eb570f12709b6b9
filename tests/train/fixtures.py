"""The tiny data set, a finished run and the command line as fixtures: `pytest_plugins = ["train.fixtures"]` takes them.
Nothing here touches the user's cache."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fanlight import cli, console
from fanlight.parallel.launch import Pool
from fanlight.train import job, verify
from parallel.kept import Kept
from train import colours as tiny


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_place(monkeypatch, tmp_path, cache_folder) -> Iterator[Path]:
    """The test works in its own folder, with the session's cache; console and thread settings are put back."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("FANLIGHT_CACHE", str(cache_folder))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)
    console.set_json(False)


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """60 images of 3 classes, not to be changed."""
    return tiny.make(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache_folder, colours) -> Path:
    """A serial run that has finished, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FANLIGHT_CACHE", str(cache_folder))
        patch.setattr(console, "warn", lambda *_, **__: None)
        return tiny.train(colours, out=tmp_path_factory.mktemp("runs") / "finished", epochs=3)


@pytest.fixture
def fanlight(own_place, monkeypatch, capsys) -> Callable[..., Answer]:
    """fanlight("train", ...): the command line in this process."""

    def call(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["fanlight", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        text = capsys.readouterr()
        return Answer(ended.value.code, text.out, text.err)

    return call


@pytest.fixture(scope="session")
def kept_pools(pool, cache_folder) -> Callable[[int], Pool]:
    """pool(ranks), with the session's cache: jobs of other tests may have left the ranks another."""

    def of(ranks: int) -> Pool:
        kept = pool(ranks)
        kept.run("parallel.jobs:use_cache", folder=str(cache_folder))
        return kept

    return of


@pytest.fixture
def quick_ranks(own_place, monkeypatch, kept_pools) -> None:
    """Commands with several ranks take ranks that are kept: starting them costs seconds."""
    for module in (job.launch, verify):
        monkeypatch.setattr(module, "Pool", lambda ranks, **_: Kept(kept_pools(ranks)))
