import errno
import os
import threading

import pytest

from fanlight.data.writeback import STRETCH_BYTES, Writeback


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "pixels", "wb") as opened:
        yield opened


@pytest.fixture
def synced(monkeypatch):
    """The threads that waited for the disk, in order."""
    threads = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: threads.append(threading.current_thread()))
    return threads


def test_stretches_go_to_the_disk_before_the_end(file, synced):
    with Writeback(file) as disk:
        for _ in range(3):
            disk.wrote(STRETCH_BYTES // 2)
        disk._sent.result()
        assert [thread is threading.main_thread() for thread in synced] == [False]
    assert [thread is threading.main_thread() for thread in synced] == [False, True]


def test_what_the_disk_refuses_is_told_once_and_not_lost(file, monkeypatch):
    def refuse_once(descriptor):
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the system tells an error to one call alone
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse_once)
    with pytest.raises(OSError, match="Input/output error"), Writeback(file) as disk:
        disk.wrote(STRETCH_BYTES)


def test_another_error_is_not_waited_for(file, synced):
    with pytest.raises(ZeroDivisionError), Writeback(file):
        raise ZeroDivisionError
    assert synced == [] and not [each for each in threading.enumerate() if each.name.startswith("writeback")]
