"""Whether the place where ranks meet is rank 0's, before a rank waits there.

Nobody may answer for minutes: a launcher starts ranks one after the other. Somebody who answers, and not as rank 0 does, will
never do so: rank 0 cannot have the port while another program listens there.
"""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta

FOREIGN_S = 30.0  # for an answer; rank 0's store answers in milliseconds, from a thread of its own
CONNECT_S = 5.0


def is_foreign(address: str, port: int, *, patience_s: float = FOREIGN_S) -> bool:
    """Whether a program listens at `address`, `port` that is no store of torch's ranks. False as soon as a store answers,
    and while nobody listens; True after `patience_s`."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or not _listens(address, port):
        return False  # the first: torchrun's agent holds the store, and has met the others already
    answered = threading.Event()

    def ask() -> None:
        import torch.distributed as dist

        try:
            dist.TCPStore(address, port, wait_for_workers=False, timeout=timedelta(seconds=patience_s))
        except RuntimeError:
            return
        answered.set()

    # torch's own timeout does not end the wait for a program that takes the connection and keeps silent.
    asking = threading.Thread(target=ask, name="meeting", daemon=True)
    asking.start()
    asking.join(patience_s)
    return not answered.is_set() and _listens(address, port)


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=CONNECT_S):
            return True
    except (OSError, UnicodeError):  # the latter of a name that is none
        return False
