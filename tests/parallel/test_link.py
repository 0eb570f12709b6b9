import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.parallel.cutting import BUCKET_LEAST_MB, BUCKET_MOST_MB, OVERHEAD
from fanlight.parallel.link import SIZES, Link
from fanlight.plan import cost


@given(st.floats(1e-6, 1e-1), st.floats(1e6, 1e12))
def test_latency_is_a_tenth_of_a_buckets_time(latency_s, bytes_per_s):
    link = Link(latency_s, bytes_per_s)
    assert BUCKET_LEAST_MB <= link.bucket_mb <= BUCKET_MOST_MB
    if BUCKET_LEAST_MB < link.bucket_mb < BUCKET_MOST_MB:
        whole_s = latency_s + link.bucket_mb * (1 << 20) / bytes_per_s
        assert latency_s / whole_s == pytest.approx(OVERHEAD, rel=0.1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_rank_knows_the_same_link(pool, ranks):
    answers = pool(ranks).run("parallel.layout_jobs:measured_link")
    assert answers == [answers[0]] * ranks
    assert answers[0]["latency_s"] > 0 and answers[0]["bytes_per_s"] > 0


def test_no_all_reduce_is_measured_that_nobody_reads():
    """A line is through two points: what lies between them takes time, and changes nothing."""
    told = {size: 1e-4 + size / 1e9 for size in SIZES}
    for size in SIZES:
        assert cost.collective({**told, size: 2 * told[size]}, 1e-4) != cost.collective(told, 1e-4)
