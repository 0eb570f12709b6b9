"""Parts of tensors: cut on some ranks, put together again, cut otherwise."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fanlight.parallel import held

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3)


def numbered(shape) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


def put_together(shape, parts) -> torch.Tensor:
    found = torch.full(tuple(shape), float("nan"))
    for each in parts:
        held.put(held.cut(numbered(shape), each), each, into=found)
    return found


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_all_of_it_and_differ_by_one(size, count):
    shares = [held.share(size, index=i, of=count) for i in range(count)]
    assert [a for a, _ in shares] + [size] == [0] + [b for _, b in shares]
    assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1


@given(shapes, st.data(), st.integers(1, 4))
def test_stretches_of_all_ranks_are_the_whole(shape, data, ranks):
    dim = data.draw(st.integers(0, len(shape) - 1))
    bounds = [held.share(shape[dim], index=rank, of=ranks) for rank in range(ranks)]
    parts = [held.stretch(shape, dim=dim, start=a, stop=b) for a, b in bounds]
    assert torch.equal(put_together(shape, parts), numbered(shape))
    assert sum(part.numel for part in parts) == numbered(shape).numel()


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_heads_of_a_fused_projection(heads, width, ranks, columns):
    shape = (3 * heads * width, columns)
    parts = []
    for rank in range(ranks):
        low, high = held.share(heads, index=rank, of=ranks)
        parts.append(held.groups(shape, count=3, start=low * width, stop=high * width))
    assert torch.equal(put_together(shape, parts), numbered(shape))
    first = numbered(shape).view(3, heads, width, columns)[:, : heads // ranks].reshape(-1, columns)
    assert torch.equal(held.cut(numbered(shape), parts[0]), first)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_a_share_of_a_share(heads, width, tensor_ranks, shard_ranks):
    shape = (3 * heads * width, 2)
    parts = []
    for rank in range(tensor_ranks):
        low, high = held.share(heads, index=rank, of=tensor_ranks)
        own = held.groups(shape, count=3, start=low * width, stop=high * width)
        local = held.cut(numbered(shape), own)
        for index in range(shard_ranks):
            first, last = held.share(own.part[0], index=index, of=shard_ranks)
            parts.append(own.rows(first, last))
            assert torch.equal(held.cut(numbered(shape), parts[-1]), local[first:last])
    assert torch.equal(put_together(shape, parts), numbered(shape))


@given(shapes, st.data(), st.integers(1, 4), st.integers(1, 4))
def test_what_was_saved_by_some_ranks_is_read_by_others(shape, data, writers, readers):
    dims = [data.draw(st.integers(0, len(shape) - 1)) for _ in range(2)]
    saved = [held.stretch(shape, dim=dims[0], start=a, stop=b) for a, b in _bounds(shape[dims[0]], writers)]
    whole = numbered(shape)
    for a, b in _bounds(shape[dims[1]], readers):
        wanted = held.stretch(shape, dim=dims[1], start=a, stop=b)
        found = torch.full(wanted.part, float("nan"))
        for each in saved:
            piece = held.cut(whole, each)
            for box in each.boxes:
                for mine, theirs in held.overlaps(wanted, at=box.whole, size=box.size):
                    found[mine] = piece[theirs]
        assert torch.equal(found, held.cut(whole, wanted))


def _bounds(size, ranks):
    return [held.share(size, index=rank, of=ranks) for rank in range(ranks)]


def test_all_of_a_tensor_is_one_box():
    whole = held.all_of((2, 3))
    assert (whole.part, whole.numel, whole.document()) == ((2, 3), 6, [[[0, 0], [0, 0], [2, 3]]])
    assert held.all_of(()).numel == 1
