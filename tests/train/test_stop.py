"""Being asked to stop, by signals to this very process."""

import os
import signal
import threading

import pytest

from fanlight.train import stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish(number):
    before = signal.getsignal(number)
    with stop.listening() as wish:
        assert not wish.asked
        os.kill(os.getpid(), number)
        assert wish.asked
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait():
    with stop.listening() as wish:
        os.kill(os.getpid(), signal.SIGINT)
        assert wish.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigterm_is_the_same_wish():
    with stop.listening() as wish:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert wish.asked


def test_wishes_are_not_shared():
    with stop.listening() as wish:
        os.kill(os.getpid(), signal.SIGTERM)
    with stop.listening() as later:
        assert wish.asked and not later.asked


def test_another_thread_may_listen_and_hears_nothing():
    """Python lets only the main thread set handlers; a notebook's or a server's thread trains all the same."""
    heard = []

    def listen() -> None:
        with stop.listening() as wish:
            heard.append(wish.asked)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [False]
    assert signal.getsignal(signal.SIGTERM) is before
