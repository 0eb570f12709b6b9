"""What ends ranks in the middle of a job."""

import threading
import time

import pytest

from fanlight.errors import Stopped, TrainingError
from fanlight.study.layouts import limit


class Fake:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_job_of_real_ranks_is_ended(pool):
    kept = pool(1)
    kept.run("parallel.stall_jobs:cores")  # it is there, and waits
    with pytest.raises(limit.TimeOver) as raised, limit.until(time.monotonic() + 0.3, kept):
        kept.run("parallel.stall_jobs:work_unseen", seconds=30.0)
    assert isinstance(raised.value.__cause__, TrainingError) and not kept.is_open


def test_what_ends_in_time_is_left_alone():
    for end_s in (None, time.monotonic() + 3600):
        fake = Fake()
        with limit.until(end_s, fake):
            pass
        with pytest.raises(TrainingError, match="the loss is not finite"), limit.until(end_s, fake):
            raise TrainingError("the loss is not finite")
        assert not fake.closed


def test_a_request_to_stop_stays_one():
    fake = Fake()

    def stop() -> None:
        while not fake.closed:
            time.sleep(0.01)
        raise Stopped("stopped after step 3")

    with pytest.raises(Stopped), limit.until(time.monotonic(), fake):
        stop()


def test_a_limit_longer_than_a_thread_can_wait_is_one_all_the_same(monkeypatch):
    asked: list[float] = []

    class Timer(threading.Timer):
        def __init__(self, interval, function):
            asked.append(interval)
            super().__init__(0.0, lambda: None)

    monkeypatch.setattr(limit.threading, "Timer", Timer)
    with limit.until(1e300, Fake()):
        pass
    assert asked == [threading.TIMEOUT_MAX]
