"""Which candidate wins, on made-up times: turns, clear gains, the budget."""

import itertools

import pytest

from fanlight.train import autotune
from fanlight.train.autotune import Budget, Gain, Tuner, in_turns


class Clock:
    """A machine whose steps take what is said, on a clock of its own."""

    def __init__(self):
        self.s, self.order = 0.0, []

    def step(self, name, *times):
        endless = itertools.cycle(times)

        def run():
            taken = next(endless)
            self.s += taken
            self.order.append(name)
            return taken

        return run

    def budget(self, seconds=100.0):
        return Budget(seconds, now=lambda: self.s)


def choose(clock, *, base, others, budget=None, **options):
    tuner = Tuner(budget or clock.budget(), clock.step("base", *base), base[0])
    steps = {name: (lambda name=name, times=times: clock.step(name, *times)) for name, times in others.items()}
    return tuner, tuner.choose("train.precision", "fp32", steps, **options)


def test_candidates_take_turns():
    clock = Clock()
    in_turns(clock.step("a", 1.0), [clock.step("b", 1.1), clock.step("c", 0.9)], budget=clock.budget())
    assert clock.order == ["a", "b", "c"] * (1 + autotune.TURNS)  # the first of them warms up


def test_a_clear_winner_is_chosen_and_said_with_n_and_spread():
    tuner, (name, why) = choose(Clock(), base=[1.0], others={"bf16": [0.5], "fp16": [0.8]})
    assert name == "bf16"
    assert "bf16 2.00× of fp32 (n = 5, quartiles 2.00 … 2.00)" in why and "fp16 1.25× of fp32" in why
    assert tuner.base_s == 0.5 and tuner.base() == 0.5
    assert [gain["candidate"] for gain in tuner.document()["gains"]] == ["bf16", "fp16"]


def test_a_plain_answer_needs_fewer_turns():
    clock = Clock()
    tuner, (name, _) = choose(clock, base=[1.0], others={"bf16": [0.5]})
    assert name == "bf16" and len(tuner.gains[0].ratios) == autotune.TURNS_LEAST


def test_quick_steps_are_measured_more_often():
    tuner, _ = choose(Clock(), base=[0.01], others={"bf16": [0.009]})
    assert len(tuner.gains[0].ratios) == autotune.TURNS_MOST


@pytest.mark.parametrize("times", [[0.97], [1.2], [0.5, 0.6, 2.0, 2.0, 0.5]], ids=["small", "slower", "noisy"])
def test_what_is_not_clear_changes_nothing(times):
    tuner, (name, why) = choose(Clock(), base=[1.0], others={"bf16": times})
    assert name == "fp32" and "no clear gain" in why
    assert tuner.base() == 1.0


def test_a_candidate_may_have_to_bring_more():
    assert choose(Clock(), base=[1.0], others={"bf16": [0.9]}, least=1.2)[1][0] == "fp32"
    assert choose(Clock(), base=[1.0], others={"bf16": [0.9]})[1][0] == "bf16"


def test_one_burst_of_another_program_does_not_decide():
    assert Gain("k", "b", "a", (1.2, 1.2, 0.1, 1.2, 1.2)).is_clear()
    assert not Gain("k", "b", "a", (1.2, 1.2, 0.1, 0.2, 1.2)).is_clear()


def test_what_does_not_fit_the_budget_is_left_out_and_said():
    clock = Clock()
    tuner, answer = choose(clock, base=[1.0], others={"bf16": [0.5]}, budget=clock.budget(7.9))
    assert answer == ("", "") and clock.order == [] and not tuner.gains
    assert "train.precision: measuring bf16 takes about 8.0 s, and 7.9 s of 8 s are left" in tuner.left_out
    assert choose(Clock(), base=[1.0], others={"bf16": [0.5]}, start_s=93)[1] == ("", "")


def test_a_budget_that_ends_meanwhile_ends_the_turns():
    clock = Clock()
    tuner, _ = choose(clock, base=[1.0], others={"bf16": [0.9]}, budget=clock.budget(8.0))
    assert len(tuner.gains[0].ratios) == autotune.TURNS_LEAST + 1
    assert tuner.document()["seconds"] == pytest.approx(clock.s)


def test_measuring_is_repaid_by_long_training_only():
    assert not autotune.pays_back(20 * autotune.BUDGET_S - 1)
    assert autotune.pays_back(20 * autotune.BUDGET_S)
    assert autotune.budget_s(0) == autotune.budget_s(300) == autotune.BUDGET_S
    assert autotune.budget_s(600) == 30 and autotune.budget_s(1e6) == autotune.BUDGET_MOST_S
