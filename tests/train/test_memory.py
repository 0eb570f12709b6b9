"""Whether an error means that memory or disk was not enough, and how much memory was used."""

import errno
import os
import types

import numpy as np
import psutil
import pytest
import torch

from fanlight.errors import TrainingError
from fanlight.parallel import comm, zygote
from fanlight.train import memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        TrainingError("rank 1 failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_memory_that_ran_out(error):
    assert memory.ran_out(error)


def test_memory_that_torch_cannot_have_on_the_cpu():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.ran_out(raised.value)
    with pytest.raises(MemoryError) as refused:
        np.empty(1 << 60, np.uint8)
    assert memory.ran_out(refused.value)


def test_a_killed_rank_is_no_proof():
    """Half as large microbatches would be other numbers; who killed the rank is not known."""
    text = zygote._end_text(0, -9)
    assert "out of memory?" in text
    assert not memory.ran_out(TrainingError(text))


def test_other_errors_are_others():
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.disk_is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.disk_is_full(MemoryError())


def test_a_full_disk_in_three_languages():
    assert memory.disk_is_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert memory.disk_is_full(Exception("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert memory.disk_is_full(TrainingError("rank 0 failed: OSError: [Errno 28] No space left on device: 'x'"))


def test_the_peak_of_this_process_is_plausible():
    resident = psutil.Process().memory_info().rss
    assert resident * 0.9 <= memory.peak_over_ranks(comm.alone()) <= psutil.virtual_memory().total


def test_pages_shared_by_ranks_count_once(monkeypatch):
    """Two ranks of 100 and 90 bytes, of which 40 and 30 are files and shared memory: 60 + 60 + 40."""
    status = {"VmHWM": 100, "RssFile": 30, "RssShmem": 10}
    other = np.array([[0, 0], [60.0, 30.0]])
    world = types.SimpleNamespace(rank=0, ranks=2, sum_host=lambda table: table + other)
    monkeypatch.setattr(memory, "_status", lambda: status)
    assert memory.peak_over_ranks(world) == 60 + 60 + 40


def test_a_system_that_does_not_tell_is_zero(monkeypatch):
    def read_text(*_):
        raise FileNotFoundError

    monkeypatch.setattr(memory.Path, "read_text", read_text)
    assert memory.peak_over_ranks(comm.alone()) == 0
