"""The knee of throughput, within memory and data, on machines that are made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.train import batchsize
from fanlight.train.batchsize import Memory
from fanlight.train.probe import Timed

GB = 10**9


def machine(*, fixed_s=0.1, image_s=0.01, bytes_each=0, breaks_at=10**9, tried=None):
    """A step has a fixed part, and a part for each image."""

    def measure(b):
        if tried is not None:
            tried.append(b)
        if b >= breaks_at:
            return Timed(error="CUDA out of memory")
        return Timed((fixed_s + image_s * b,) * 3, GB + bytes_each * b, GB)

    return measure


def roomy():
    return Memory(lambda: 100 * GB)


def test_the_knee_is_where_doubling_no_longer_pays():
    found = batchsize.search(machine(), roomy(), count=10**6)
    rates = dict(found.tried)
    assert found.batch == max(rates) == 128  # 256 would be 1.036× as fast per image
    assert rates[128] >= 1.05 * rates[64] and "256 are only 1.04× as fast per image" in found.reason


def test_a_machine_that_is_never_busy_is_bounded_by_the_data():
    found = batchsize.search(machine(image_s=0.0), roomy(), count=5000)
    assert found.batch == 128 and 2 * found.batch * batchsize.STEPS_PER_EPOCH > 5000
    assert "fewer than 20 steps per epoch" in found.reason


def test_memory_is_asked_before_it_is_taken():
    tried = []
    found = batchsize.search(machine(image_s=0.0, bytes_each=GB // 100, tried=tried), Memory(lambda: GB), count=10**6)
    assert found.batch == max(tried) == 64 and "more than 80% of the memory" in found.reason


def test_out_of_memory_is_an_answer():
    found = batchsize.search(machine(image_s=0.0, breaks_at=64), roomy(), count=10**6)
    assert found.batch == 32 and "64 cannot be computed: CUDA out of memory" in found.reason


def test_time_ends_the_search():
    assert batchsize.search(machine(image_s=0.0), roomy(), count=10**6, is_late=lambda: True).batch == 8


@given(
    count=st.integers(1, 10**7), least=st.integers(1, 64), unit=st.integers(1, 2), fixed=st.floats(0, 10), image=st.floats(0, 1),
    breaks_at=st.integers(1, 10**7), available=st.integers(0, 10**12),
)  # fmt: skip
def test_never_nonsense(count, least, unit, fixed, image, breaks_at, available):
    measure = machine(fixed_s=fixed + 1e-9, image_s=image, bytes_each=10**6, breaks_at=breaks_at)
    batch = batchsize.search(measure, Memory(lambda: available), count=count, least=least * unit, unit=unit).batch
    least *= unit
    assert batch % unit == 0
    assert least <= batch <= max(least, count // batchsize.STEPS_PER_EPOCH, min(count // 4, batchsize.FIRST), 1)


def test_prediction_is_a_line_through_the_last_two():
    memory = Memory(lambda: 100)
    assert memory.fits(10**9)  # nothing is known
    memory.add(8, Timed((), 1080, 1000))
    memory.add(16, Timed((), 1160, 1100))
    assert memory.fits(18) and not memory.fits(19)  # 1180 and 1190 of 1100 + 80


@pytest.mark.parametrize(("available", "parts"), [(100 * GB, 1), (GB // 2, 2), (GB // 8, 8), (0, 32)])
def test_microbatches_that_fit(available, parts):
    """32 rows of 1/32 GB over a process of 1 GB; where nothing fits, one row at a time."""
    found, why = batchsize.microbatches(machine(bytes_each=GB // 32), Memory(lambda: available + GB // 8), rows=32)
    assert found == parts if available else found in (8, 16, 32)
    assert bool(why) == (found > 1)


def test_few_images_are_not_trained_one_by_one():
    assert batchsize.search(machine(), roomy(), count=30).batch == 7  # as by the rule: a quarter
    assert batchsize.search(machine(), roomy(), count=150).batch == 8
