"""Ranks beside a port that a foreign program has, in plain sockets: told in bounded time; patient where nobody answers."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist

from fanlight import errors
from fanlight.parallel import comm, launch, meeting

HERE = "127.0.0.1"
PATIENCE_S = 0.2
ENDLESS_S = 3600.0

# What a program does with a connection that is none of its kind.
FOREIGN: dict[str, Callable[[socket.socket], object]] = {
    "is silent": lambda connection: None,
    "hangs up": socket.socket.close,
    "greets": lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 9),
}


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A program that takes connections; its port."""
    server, taken = socket.create_server((HERE, 0)), list[socket.socket]()

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed below
            while True:
                taken.append(server.accept()[0])
                with contextlib.suppress(OSError):
                    answer(taken[-1])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        server.close()
        thread.join()
        for each in taken:
            each.close()


def free_port() -> int:
    with socket.create_server((HERE, 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("how", FOREIGN)
def test_a_foreign_program_is_known_after_some_patience(how: str) -> None:
    """It would never answer: whoever waits for it without a limit does not come to the assertion."""
    with listening(FOREIGN[how]) as port:
        assert meeting.is_foreign(HERE, port, patience_s=PATIENCE_S)


def test_a_port_without_a_listener_is_waited_for_by_torch() -> None:
    assert not meeting.is_foreign(HERE, free_port(), patience_s=ENDLESS_S)
    assert not meeting.is_foreign("no.such.host.invalid", 29500, patience_s=ENDLESS_S)


def test_a_store_is_known_without_patience_and_counts_no_rank() -> None:
    store = dist.TCPStore(HERE, 0, world_size=2, is_master=True, wait_for_workers=False)
    keys = store.num_keys()
    assert not meeting.is_foreign(HERE, store.port, patience_s=ENDLESS_S)
    assert store.num_keys() == keys, "who asks is not taken for a rank that has come"


def test_a_store_of_torchrun_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with listening(FOREIGN["is silent"]) as port:
        assert not meeting.is_foreign(HERE, port, patience_s=PATIENCE_S)


def test_a_later_rank_names_the_port_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting.is_foreign, "__kwdefaults__", {"patience_s": PATIENCE_S})
    monkeypatch.setattr(comm, "join", lambda **_: pytest.fail("waits for ten minutes"))
    with listening(FOREIGN["is silent"]) as port:
        place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": HERE, "MASTER_PORT": str(port)}
        for name, text in place.items():
            monkeypatch.setenv(name, text)
        with pytest.raises(
            errors.ConfigError,
            match=rf"^MASTER_PORT {port}: another program on {HERE} listens there; set MASTER_PORT to a free port, the same",
        ):
            launch.from_environment("cpu", threads=torch.get_num_threads())


def test_a_name_that_is_none_has_nobody():
    assert not meeting._listens("node..1", 29500)
