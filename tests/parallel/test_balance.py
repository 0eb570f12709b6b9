"""Where a pipeline is cut: the best of all cuts, by costs that were measured."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.models import cut, small
from fanlight.parallel import balance, comm, parallelize
from fanlight.parallel.layout import Layout
from parallel import micro  # noqa: F401  (registers the networks)


@given(st.data(), st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_the_chosen_cuts_are_the_best_of_all(data, costs):
    stages = data.draw(st.integers(1, len(costs)))
    sent = data.draw(st.lists(st.integers(1, 5), min_size=len(costs) - 1, max_size=len(costs) - 1))

    def worst(at) -> tuple[int, int]:
        bounds = [0, *(index + 1 for index in at), len(costs)]
        return max(sum(costs[a:b]) for a, b in itertools.pairwise(bounds)), sum(sent[index] for index in at)

    found = balance.best(costs, sent, stages=stages)
    assert len(found) == stages - 1 and found == sorted(set(found))
    assert worst(found) == min(worst(at) for at in itertools.combinations(range(len(costs) - 1), stages - 1))


def test_measuring_changes_nothing():
    torch.manual_seed(0)
    model = small.NAMES["micro-basic"](3, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    names, costs_s = balance.choose(model, torch.randn(4, 3, 16, 16), stages=3, device=torch.device("cpu"))
    assert len(names) == 2 and len(costs_s) == 3 and min(costs_s) > 0
    assert set(names) <= set(cut.cuts(model, torch.zeros(2, 3, 16, 16)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [module.training for module in model.modules()] == modes


def test_the_update_counts_by_parameters():
    """Where the optimizer takes nearly all the time, the stage with the most parameters is as small as it can be."""
    torch.manual_seed(0)
    model, example = small.NAMES["micro-basic"](3, 16), torch.randn(2, 3, 16, 16)
    device = torch.device("cpu")
    at, costs_s = balance.choose(model, example, stages=2, device=device, update_s=1.0)
    segments = balance.measure(model, cut.cuts(model, example), example, device=device)
    counts = [each.parameters for each in segments]
    assert sum(counts) == sum(p.numel() for p in model.parameters())
    least = min(max(sum(counts[:end]), sum(counts[end:])) for end in range(1, len(counts)))
    assert max(costs_s) == pytest.approx(least, rel=1e-2)
    assert sum(p.numel() for p in cut.stages(model, at, example)[0].parameters()) in (least, sum(counts) - least)


def test_microbatches_count_and_weights_are_converted_once(monkeypatch):
    model, example = small.NAMES["micro-basic"](3, 16), torch.randn(2, 3, 16, 16)

    def short():
        return torch.autocast("cpu", torch.bfloat16)

    device, names = torch.device("cpu"), cut.cuts(model, example)
    plain = balance.measure(model, names, example, device=device)
    converted = balance.measure(model, names, example, device=device, autocast=short)
    assert {each.convert_s for each in plain} == {0.0}
    assert all(each.convert_s > 0 for each, segment in zip(converted, cut.stages(model, names, example))
               if any(p.ndim > 1 for p in segment.parameters()))  # fmt: skip
    assert [each.sent_bytes for each in converted[:-1]] <= [each.sent_bytes for each in plain[:-1]]
    ticks = itertools.count()
    monkeypatch.setattr(balance, "_now", lambda device: float(next(ticks)))  # whatever is measured takes a second
    _, few_s = balance.choose(model, example, stages=2, device=device)
    _, many_s = balance.choose(model, example, stages=2, device=device, microbatches=1000)
    assert many_s == [1000 * each for each in few_s] and min(few_s) > 0


def test_a_pass_is_of_a_whole_microbatch_however_few_rows_are_measured(monkeypatch):
    """Beside it stand an update and a conversion of weights, which no number of rows changes."""
    model, example = small.NAMES["micro-basic"](3, 16), torch.randn(8, 3, 16, 16)
    ticks = itertools.count()
    monkeypatch.setattr(balance, "_now", lambda device: float(next(ticks)))  # whatever is measured takes a second
    names = cut.cuts(model, example)
    given = {"device": torch.device("cpu"), "autocast": lambda: torch.autocast("cpu", torch.bfloat16)}
    few, many = (balance.measure(model, names, example, **given, rows=rows) for rows in (None, 80))
    assert {(each.pass_s, each.convert_s) for each in few} == {(1.0, 1.0)}
    assert {(each.pass_s, each.convert_s) for each in many} == {(10.0, 1.0)}
    assert [each.sent_bytes for each in many] == [10 * each.sent_bytes for each in few]
    _, costs_s = balance.choose(model, example, stages=2, microbatches=3, rows=80, **given)
    assert sum(costs_s) == len(balance.with_weights(model, names, example)) * 31 + 31


def test_a_cut_counts_all_rows_of_a_microbatch(monkeypatch):
    seen = {}

    def choose(model, example, **given):
        seen.update(given, measured=len(example))
        return cut.cuts(model, example)[:1], [1.0, 1.0]

    monkeypatch.setattr(balance, "choose", choose)
    model, example = small.NAMES["micro-basic"](3, 16), torch.randn(2, 3, 16, 16)
    layout = Layout(pp=2, schedule="1f1b", name="pipeline")
    parallelize.place(model, layout, comm.alone(), channels_last=False, example=example, rows=33)
    assert (seen["rows"], seen["measured"]) == (33, balance.ROWS_MOST)


def test_more_stages_than_segments_are_refused():
    model = small.NAMES["micro-basic"](3, 16)
    with pytest.raises(
        ConfigError, match=r"Micro can be cut into at most \d+ stages, and the layout has 99; use fewer ranks"
    ):
        balance.choose(model, torch.zeros(2, 3, 16, 16), stages=99, device=torch.device("cpu"))
