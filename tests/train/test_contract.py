"""What differences from the serial run mean: broken, unclear, or proven; by the floor of each step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.train import contract

KEYS = tuple(contract.RTOL["fp32"])
GOOD = {
    "same_batches": True, "evaluation_equal": True, "evaluation_same_bits": True, "resume_equal": True, "run_error": 1e-7,
}  # fmt: skip


def errors(value: float = 0.0, key: str = "gradient_error") -> dict[str, float]:
    return {**dict.fromkeys(KEYS, 0.0), key: value}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dtype", contract.RTOL)
def test_a_step_is_held_to_the_contract(key, dtype):
    limit, floors = contract.RTOL[dtype][key], [errors()] * 2
    assert contract.judge([errors(), errors(limit, key)], floors, dtype=dtype).is_proven
    found = contract.judge([errors(), errors(3 * limit, key)], floors, dtype=dtype)
    name = key.replace("_", " ")
    assert found.broken == (f"{name} {3 * limit:.1e} of step 2 is above {limit:.0e}",)
    assert found.is_certain and not found.unclear


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_broken_whatever_the_floor(value):
    found = contract.judge([errors(), errors(value), errors(2e-4)], [errors(1.0)] * 3, dtype="fp32")
    assert len(found.broken) == 1 and found.is_certain
    assert found.broken[0].startswith(f"gradient error {value:.1e} of step 2 is above")


def test_a_step_is_compared_with_its_own_floor():
    """Gradients that are 5 % too large at every step, where rounding is that large at one of them."""
    steps = [errors(5e-2)] * 3
    found = contract.judge(steps, [errors(2.4e-2), errors(1e-7), errors(1e-6)], dtype="fp32")
    assert found.broken == ("gradient error 5.0e-02 of step 2 is above 1e-04",) and not found.is_proven
    assert not found.is_certain  # fp64 tells whether step 2 was only lucky
    found = contract.judge(steps, [errors(1e-3), errors(1e-7), errors(1e-6)], dtype="fp32")
    assert found.broken and found.is_certain  # more than rounding does anywhere


def test_where_the_floor_decides_nothing_is_proven():
    found = contract.judge([errors(2e-2), errors(1e-7)], [errors(1e-2), errors(1e-7)], dtype="fp32")
    assert not found.broken and not found.is_proven and not found.is_certain
    assert found.unclear == ("gradient error 2.0e-02 of step 1 is above 1e-04, and rounding may do up to 1e-01",)


@given(
    st.lists(st.tuples(st.floats(0, 1) | st.just(math.nan), st.floats(0, 1)), min_size=1, max_size=6),
    st.sampled_from(KEYS), st.sampled_from(["fp32", "fp64"]),
)  # fmt: skip
def test_proven_is_every_step_within_the_contract(pairs, key, dtype):
    steps, floors = [errors(a, key) for a, _ in pairs], [errors(b, key) for _, b in pairs]
    found = contract.judge(steps, floors, dtype=dtype)
    assert found.is_proven == all(a <= contract.RTOL[dtype][key] for a, _ in pairs)
    allowed = [max(contract.RTOL[dtype][key], contract.FLOOR_FACTOR * b) for _, b in pairs]
    assert bool(found.broken) == any(not a <= limit for (a, _), limit in zip(pairs, allowed))
    worst = contract.worst(steps)[key]
    assert math.isnan(worst) if any(math.isnan(a) for a, _ in pairs) else worst == max(a for a, _ in pairs)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("same_batches", False, "ranks did not see the serial run's rows"),
        ("evaluation_equal", False, "evaluation differs"),
        ("evaluation_same_bits", False, "evaluation differs"),
        ("resume_equal", False, "a checkpoint does not come back in every bit"),
        ("run_error", 1e-3, "left alone it drifts by 1.0e-03, above 1e-05, 10 × the noise floor"),
        ("run_error", math.nan, "left alone it drifts by nan, above 1e-05"),
    ],
)
def test_whatever_else_breaks_the_contract_is_named(key, value, why):
    given = {"noise_floor": 1e-6, "dtype": "fp32", "needs_bits": True}
    assert contract.broken_otherwise(GOOD, **given) == []
    (told,) = contract.broken_otherwise({**GOOD, key: value}, **given)
    assert told.startswith(why)


def test_where_serial_differs_from_itself_a_run_s_losses_are_no_evidence():
    given = {"noise_floor": 0.05, "dtype": "fp32", "needs_bits": False}
    assert contract.broken_otherwise({**GOOD, "run_error": 0.7, "evaluation_same_bits": False}, **given) == []
    assert contract.broken_otherwise({**GOOD, "run_error": math.nan}, **given)  # but a number it must be
    assert contract.chaos(0.05, dtype="fp32") == [
        "chaotic: the serial run differs from itself by 5.0e-02 in fp32, so only single steps count"
    ]
    assert contract.chaos(1e-3, dtype="fp32") == []


def test_evaluation_has_the_serial_bits_where_ranks_compute_it_as_serial_does():
    alike = [("ddp", 1), ("ddp", 4), ("fsdp", 1), ("hsdp", 1)]
    assert all(contract.has_serial_bits(name, device="cpu", threads=threads) for name, threads in alike)
    others = [("fsdp", 2), ("hsdp", 2), ("pipeline", 1), ("tensor", 1), ("replicate=2,pipe=2", 1)]
    assert not any(contract.has_serial_bits(name, device="cpu", threads=threads) for name, threads in others)
    assert not contract.has_serial_bits("fsdp", device="cuda", threads=1)
