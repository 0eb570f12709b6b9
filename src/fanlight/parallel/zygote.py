"""The processes' side of a Pool. The zygote, one clean single-threaded process, imports the heavy modules once, forks
the ranks, reports their ends and leaves none behind; a rank joins the others and takes jobs until its socket closes.

Messages are JSON behind eight bytes of length: nothing is pickled. To a rank: {job, arguments, folder}; from it:
{result} or {error, message, traceback, at_s}. To the zygote: {signal}, for every rank; from it: {pids}, then {rank, code}
for each rank that ended. Imports no torch by itself: the parent imports this file too.
"""

import contextlib
import ctypes
import dataclasses
import faulthandler
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from fanlight import errors
from fanlight.parallel import affinity, stall
from fanlight.parallel.heartbeat import Heartbeat, attach

ITSELF = -1  # the zygote, among ranks
LENGTH_BYTES = 8
PARENT_CHECK_S = 1.0  # a parent whose sockets another process still holds open is noticed by this
PR_SET_PDEATHSIG = 1  # prctl(2), Linux: a signal for this process when its parent dies


def send(to: socket.socket, message: dict[str, Any]) -> None:
    """One message. Raises TypeError for what JSON cannot say, OSError when nobody is at the other end."""
    body = json.dumps(message).encode()
    to.sendall(len(body).to_bytes(LENGTH_BYTES) + body)


def receive(source: socket.socket) -> dict[str, Any] | None:
    """One message, or None when the other end is closed."""
    head = _receive_bytes(source, LENGTH_BYTES)
    body = head and _receive_bytes(source, int.from_bytes(head))
    return json.loads(body) if body else None


def load(job: str) -> Callable[..., Any]:
    """The function that `package.module:function` names. Raises ConfigError when there is none."""
    module, _, name = job.partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, something that it imports does not
        raise errors.ConfigError(f"job {job!r}: no module {error.name!r}; write package.module:function") from None
    except ValueError:
        function = None
    if not callable(function):
        raise errors.ConfigError(f"job {job!r}: no function {name!r} in {module!r}; write package.module:function")
    return function


def verdict(
    answers: dict[int, dict[str, Any]], ends: dict[int, int | None], *, ranks: int
) -> errors.FanlightError | None:
    """What went wrong in one job: a rank that ended (rank -> exit code), else the error that was raised first, or None.

    Stopped counts last, and only where every rank says so: a rank that fails while it saves has not stopped well.
    """
    for rank, code in ends.items():
        return errors.TrainingError(_end_text(rank, code))
    failed = [(a["error"] == "Stopped", a["at_s"], rank) for rank, a in answers.items() if "error" in a]
    if not failed:
        return None
    only_stopped, _, rank = min(failed)
    missing = sorted(set(range(ranks)) - set(answers))
    if only_stopped and missing:
        return errors.TrainingError(f"rank {missing[0]} did not stop with rank {rank} and was killed")
    kind, message = answers[rank]["error"], answers[rank]["message"]
    error: Any = getattr(errors, kind)(message) if kind else errors.TrainingError(f"rank {rank} failed: {message}")
    error.rank_traceback = answers[rank]["traceback"]
    return error


def main(plan: dict[str, Any], *, parent: int) -> None:
    """The zygote's life. `plan` comes from launch.Pool: control and ranks (descriptors), preload, threads, cores, device,
    folder. `parent` is the process that everything here ends with."""
    control = _inherited(plan["control"])
    sockets = [_inherited(descriptor) for descriptor in plan["ranks"]]
    for module in (*plan["preload"], "fanlight.parallel.comm"):
        importlib.import_module(module)
    faulthandler.enable()
    gc.freeze()  # what is imported stays shared: no rank's collector writes to it
    sys.stdout.flush()
    sys.stderr.flush()
    zygote, pids = os.getpid(), {}
    for rank in range(len(sockets)):
        pid = os.fork()
        if pid == 0:
            _die_with(zygote)
            for other in (control, *sockets[:rank], *sockets[rank + 1 :]):
                other.close()
            _serve(sockets[rank], rank=rank, plan=plan)
        pids[pid] = rank
    for mine in sockets:
        mine.close()  # so that a rank's end closes its socket
    try:
        _watch(control, pids=pids, parent=parent)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(plan["folder"], ignore_errors=True)
        os.killpg(0, signal.SIGKILL)  # what the ranks started, and this process


def _watch(control: socket.socket, *, pids: dict[int, int], parent: int) -> None:
    """Forwards signals and reports ends until no rank is left or the parent is gone. Removes from `pids` who ended."""
    wake, wake_write = socket.socketpair()
    wake_write.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    # The sockets close with this function, ranks are killed after it: their end must not be written to a closed socket.
    with (
        contextlib.ExitStack() as closing,
        contextlib.suppress(OSError),
    ):  # OSError: a parent that is gone, see receive()
        closing.callback(signal.set_wakeup_fd, -1)
        send(control, {"pids": list(pids)})
        while True:
            for pid, rank in list(pids.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del pids[pid]
                    send(control, {"rank": rank, "code": os.waitstatus_to_exitcode(status)})
            if not pids:
                return
            ready, _, _ = select.select([control, wake], [], [], PARENT_CHECK_S)
            if wake in ready:
                wake.recv(1024)
            if control in ready:
                message = receive(control)
                if message is None:
                    return
                for pid in pids:  # not reaped yet, so the numbers are still theirs
                    os.kill(pid, message["signal"])
            if os.getppid() != parent:
                return


def _serve(parent: socket.socket, *, rank: int, plan: dict[str, Any]) -> NoReturn:
    """A rank's life: join, then one answer per job. Ends without the interpreter's way out, which is the zygote's."""
    code = 1
    try:
        _take_jobs(parent, rank=rank, plan=plan)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _take_jobs(parent: socket.socket, *, rank: int, plan: dict[str, Any]) -> None:
    import torch

    if plan["cores"]:
        affinity.bind(plan["cores"][rank])
    torch.set_num_threads(plan["threads"])  # first of all: a forked process may hang in its first operation without
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    from fanlight.parallel import comm

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stacks = open(stall.stacks_path(plan["folder"], rank), "wb")  # noqa: SIM115
    faulthandler.register(stall.STACKS_SIGNAL, file=stacks)  # which writes there as long as this process lives
    world, failure, ranks = None, None, len(plan["ranks"])
    try:
        if ranks == 1:
            world = comm.alone(plan["device"])
        else:
            meeting = f"file://{plan['folder']}/meeting"
            world = comm.join(
                rank=rank, ranks=ranks, local_rank=rank, local_ranks=ranks, device=plan["device"], init_method=meeting
            )
        world = dataclasses.replace(world, heartbeat=Heartbeat(attach(plan["folder"]), rank=rank))
    except BaseException as error:
        failure = _describe(error)  # the answer to every job
    with contextlib.suppress(ConnectionError):
        while message := receive(parent):
            try:
                send(parent, failure or _answer(message, world=world))
            except (TypeError, ValueError) as error:  # the result is not JSON
                send(parent, _describe(error))
    comm.leave()


def _answer(message: dict[str, Any], *, world: Any) -> dict[str, Any]:
    """Runs one job. SIGTERM has its usual meaning, or the one that the job gives it, only while it runs."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.chdir(message["folder"])
        return {"result": load(message["job"])(world, **message["arguments"])}
    except BaseException as error:
        return _describe(error)
    finally:
        world.heartbeat.rest()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _describe(error: BaseException) -> dict[str, Any]:
    """An error as a message: FanlightErrors by the name of their nearest class in errors.py, others with their own."""
    kind = next((kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__), None)
    text = str(error) if kind else f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return {"error": kind.__name__ if kind else None, "message": text, "traceback": trace, "at_s": time.monotonic()}


def _end_text(rank: int, code: int | None) -> str:
    if rank == ITSELF:
        return "the process that holds the ranks ended, or could not start; its last lines are on standard error"
    if code is None or code >= 0:
        return f"rank {rank} exited with code {'unknown' if code is None else code} in the middle of a job"
    name = signal.Signals(-code).name
    hints = {
        "SIGKILL": " (out of memory? try a smaller batch_size, or fewer ranks)",
        "SIGSEGV": " (a crash in compiled code; its stack is on standard error)",
    }
    return f"rank {rank} was killed by {name}{hints.get(name, '')}"


def _die_with(parent: int) -> None:
    """This process is killed when `parent` ends, however it ends (Linux; elsewhere the zygote alone sees to it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _inherited(descriptor: int) -> socket.socket:
    """A socket that this process was started with, and that those it starts do not get."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


def _receive_bytes(source: socket.socket, count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        try:
            part = source.recv(min(count, 1 << 20))
        except ConnectionError:
            part = b""
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
