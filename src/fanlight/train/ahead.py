"""Scans and packs a new run's data in a child process, while this one imports torch and the models.

Importing is Python, decoding C code with some Python around it: threads of one process would wait for each other. The
child leaves its manifest and its pack in the cache, where this process then finds them. Where a process cannot fork
safely, or has imported torch already, nothing is done ahead.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
import time
from typing import NoReturn

from fanlight import console
from fanlight.config import Config
from fanlight.data import cache
from fanlight.parallel.zygote import PR_SET_PDEATHSIG
from fanlight.train import prepare

TIDY_S = 3.0  # that a child has for it
MODULES = ("fanlight.train.job", "timm")


def gather(config: Config) -> prepare.Gathered:
    """As `prepare.gather`. What the child could not do is done here again, and said here."""
    prepare.check(config)
    can_fork = sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules
    is_known = cache.manifest_path(config.data.path).exists()  # and most likely packed: nothing much is left to do
    if is_known or not can_fork:
        return prepare.gather(config)
    begin = time.perf_counter()
    child = _start(config)
    try:
        for name in MODULES:
            importlib.import_module(name)
        if config.model.name:
            from fanlight.models import zoo  # torch comes with it

            zoo.check_name(config.model.name)  # a slip of the pen need not wait for the pack
        is_done = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    except BaseException:
        _end(child)
        raise
    with console.quiet() if is_done else contextlib.nullcontext():
        found = prepare.gather(config)
    found.phases["ahead_s"] = time.perf_counter() - begin
    return found


def _start(config: Config) -> int:
    """Forks the process that scans and packs; its number, which stays its own until it is waited for."""
    sys.stdout.flush()  # or the child would write it again
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _work(config)
    return child


def _end(child: int) -> None:
    """Ends the child, which takes a part of a pack away that is not whole; where it does not, at once."""
    try:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
    except ChildProcessError:  # it was waited for already, just before a Ctrl-C: the number may be another's by now
        return
    os.kill(child, signal.SIGINT)
    last = time.monotonic() + TIDY_S
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > last:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.01)


def _interrupted(*_: object) -> NoReturn:
    """A terminal's Ctrl-C reaches the child too, and the second of both must not disturb what the first began."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(config: Config) -> None:
    """What the child does; it never returns. Its errors are met again, and said, by the parent."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, _interrupted)
        prepare.pack_ahead(config)
        code = 0
    except BaseException:
        pass
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
