"""Who writes which part of a checkpoint, and that every part is there once, whoever held it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import TrainingError
from fanlight.parallel import held
from fanlight.train import parts

SHAPE = (6, 4)


@dataclass
class Ranks:
    """A world as `plan` asks for it, played in one process: first every rank tells, then every rank plans."""

    ranks: int
    rank: int = 0
    host: Any = "gloo"
    told: list[Any] = field(default_factory=list)

    def share(self, document: Any) -> list[Any]:
        if len(self.told) < self.ranks:
            self.told.append(document)
        return self.told


def plans(tensors_by_rank, held_by_rank) -> list[parts.Plan]:
    world: Any = Ranks(len(tensors_by_rank))
    for turn in range(2):
        found = []
        for rank, (tensors, part) in enumerate(zip(tensors_by_rank, held_by_rank)):
            world.rank = rank
            try:
                found.append(parts.plan(tensors, part.get, world))
            except TrainingError:
                if turn:
                    raise
    return found


@given(st.integers(1, 5), st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_ranks_write_every_whole_tensor_once(ranks, sizes):
    tensors = {f"model.{index}": torch.zeros(size) for index, size in enumerate(sizes)}
    written = [name for plan in plans([tensors] * ranks, [{}] * ranks) for name in plan.mine]
    assert sorted(written) == sorted(tensors)


def test_bytes_are_spread_over_ranks():
    tensors = {f"model.{index}": torch.zeros(10) for index in range(12)}
    assert [len(plan.mine) for plan in plans([tensors] * 4, [{}] * 4)] == [3] * 4


def rows_of(rank: int, ranks: int) -> held.Held:
    first, last = held.share(SHAPE[0], index=rank, of=ranks)
    return held.stretch(SHAPE, dim=0, start=first, stop=last)


@pytest.mark.parametrize("copies", [1, 2])
def test_parts_are_written_once_and_named_by_their_place(copies):
    whole = torch.arange(24.0).view(SHAPE)
    owned = [rows_of(index, 2) for index in range(2) for _ in range(copies)]
    found = plans([{"model.w": held.cut(whole, part)} for part in owned], [{"model.w": part} for part in owned])
    written = [name for plan in found for name in plan.mine]
    assert sorted(written) == ["model.w#0", "model.w#1"]
    assert found[0].parts["model.w"] == {
        "shape": list(SHAPE), "boxes": {"model.w#0": [[[0, 0], [0, 0], [3, 4]]], "model.w#1": [[[3, 0], [0, 0], [3, 4]]]}
    }  # fmt: skip


def test_an_empty_part_is_no_part():
    whole = torch.arange(24.0).view(SHAPE)
    owned = [held.all_of(SHAPE), held.all_of(SHAPE).rows(6, 6)]
    found = plans([{"w": held.cut(whole, part)} for part in owned], [{"w": part} for part in owned])
    assert [list(plan.mine) for plan in found] == [["w#0"], []]


def test_whole_tensors_that_differ_are_refused_by_name():
    tensors = [
        {"model.a": torch.ones(3), "model.b": torch.ones(2)},
        {"model.a": torch.ones(3), "model.b": torch.zeros(2)},
    ]
    with pytest.raises(
        TrainingError, match=r"model\.b differs between rank 0 and ranks \[1\] \(1 such tensors\); not saved"
    ):
        plans(tensors, [{}, {}])


def test_halves_that_are_told_as_whole_are_refused():
    """What torch's own checkpoints would give back as rank 0's half on every rank, without an error."""
    whole = torch.arange(24.0).view(SHAPE)
    halves = [{"model.w": held.cut(whole, rows_of(rank, 2))} for rank in range(2)]
    with pytest.raises(TrainingError, match=r"model\.w differs between rank 0 and ranks \[1\]"):
        plans(halves, [{}, {}])


def test_parts_that_are_not_the_whole_are_refused():
    part = rows_of(0, 2)
    with pytest.raises(TrainingError, match=r"model\.w of 24 numbers is held in parts of 12 altogether; not saved"):
        plans([{"model.w": torch.zeros(3, 4)}] * 2, [{"model.w": part}] * 2)


class File(dict):
    """As an open safetensors file."""

    def get_tensor(self, name: str) -> torch.Tensor:
        return self[name]


@given(st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_what_some_ranks_wrote_others_read(writers, readers, by_columns):
    whole = torch.arange(24.0).view(SHAPE)
    owned = [rows_of(rank, writers) for rank in range(writers)]
    tensors = [{"model.w": held.cut(whole, part), "model.b": torch.ones(2)} for part in owned]
    found = plans(tensors, [{"model.w": part} for part in owned])
    files = [File({name: mine[key] for name, key in plan.mine.items()}) for plan, mine in zip(found, tensors)]
    for rank in range(readers):
        dim = 1 if by_columns else 0
        first, last = held.share(SHAPE[dim], index=rank, of=readers)
        wanted = held.stretch(SHAPE, dim=dim, start=first, stop=last)
        read = parts.read(files, found[0].parts, {"model.w": wanted}.get)
        assert torch.equal(read["model.w"], held.cut(whole, wanted)) and torch.equal(read["model.b"], torch.ones(2))
    assert torch.equal(parts.read(files, found[0].parts, parts.whole_tensors)["model.w"], whole)
    assert parts.read(files, found[0].parts, lambda key: parts.NOTHING) == {}


def test_the_order_of_values_is_part_of_what_ranks_compare():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 3.0])
    assert parts._checksum(a) != parts._checksum(b)
    assert parts._checksum(a) == parts._checksum(a.clone())
    assert parts._checksum(torch.zeros(2)) != parts._checksum(-torch.zeros(2))
