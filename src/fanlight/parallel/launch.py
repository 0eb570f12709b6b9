"""Starts ranks and gives them jobs: one way for train, study, verify, tests and notebooks. Imports no torch, so that a
pool can start before its owner has imported anything, and import while the owner works.

A pool is one zygote process (zygote.py) and the ranks that it forks. They are kept and take any number of jobs.
Whatever happens to a rank, to the pool's owner or to its terminal: `run` ends within seconds, with a result or an error
that names the rank that failed first, and no process or file stays behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from fanlight import errors, machine
from fanlight.parallel import affinity, heartbeat, meeting, slurm, stall, zygote

if TYPE_CHECKING:
    from fanlight.parallel.comm import World

HEAVY = ("torch", "timm", "cv2")  # imported once per pool
SETTLE_S = 1.0  # from the first failure to the end of the other ranks: most often they wait for the one that failed
CLOSE_S = 2.0  # for ranks to leave by themselves
BOOT = (
    "import json, sys; plan = json.loads(sys.argv[1]); sys.path[:] = plan['path']; "
    "from fanlight.parallel import zygote; zygote.main(plan, parent=plan['parent'])"
)


class Pool:
    """Ranks of one machine. The constructor returns at once; the first `run` waits for what is not ready by then.

    `threads`: compute threads per rank; None: usable cores over ranks. `cores`: that CPU ranks keep to, all together, input
    threads and all; None: as many as can be used. `grace_s`: how long ranks may take to save after
    they were asked to stop. `preload`: modules that jobs need and that are slow to import. `stall_s`: how long ranks of a
    job that beats (heartbeat.py) may stand still; None: as stall.py says. Ranks on CPUs keep to cores of their own
    (affinity.py).
    """

    def __init__(
        self,
        ranks: int,
        *,
        device: str = "cpu",
        threads: int | None = None,
        cores: int | None = None,
        preload: tuple[str, ...] = HEAVY,
        grace_s: float = 60.0,
        stall_s: float | None = None,
    ):
        if ranks < 1:
            raise errors.ConfigError(f"ranks: {ranks} processes cannot work; use 1 or more")
        self.ranks, self.grace_s = ranks, grace_s
        self.threads = threads or max(1, machine.cores_usable() // ranks)
        self.cores = affinity.of_ranks(ranks, threads=self.threads, cores=cores) if device == "cpu" else None
        stall.chosen(stall_s)  # refused before anything is started
        self.pids: list[int] = []  # of the ranks, by rank; known after the first run
        self._busy = threading.Lock()
        self._stops = self._signal = 0
        self._wake, self._wake_write = socket.socketpair()
        self._control, control = socket.socketpair()
        self._ranks, theirs = zip(*[socket.socketpair() for _ in range(ranks)])
        self._folder = folder = tempfile.mkdtemp(prefix="fanlight-ranks-")
        self._watch = stall.Watch(heartbeat.create(folder, ranks), ranks=ranks, stall_s=stall_s)
        given = [control.fileno(), *(each.fileno() for each in theirs)]
        plan = {
            "control": given[0], "ranks": given[1:], "parent": os.getpid(),
            "path": sys.path, "preload": preload, "threads": self.threads, "device": device, "folder": folder,
            "cores": self.cores,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, json.dumps(plan)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **_environment(self.threads)},
            pass_fds=given,
            start_new_session=True,  # a terminal's Ctrl-C reaches the parent alone, which forwards it once
        )
        for each in (control, *theirs):
            each.close()
        sockets = (*self._ranks, self._wake, self._wake_write, self._control)
        self._end = weakref.finalize(self, _end, process, sockets, pids=self.pids, folder=folder, owner=os.getpid())

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether it takes jobs: neither closed nor lost to a failure."""
        return self._end.alive

    def run(self, job: str, **arguments: Any) -> list[Any]:
        """Calls the function that `package.module:function` names as function(world, **arguments) on every rank;
        its results by rank. Arguments and results are what JSON can say: tuples come back as lists.

        A FanlightError of a rank is raised as the same class, any other as a TrainingError that names the rank; the
        rank's traceback is its `rank_traceback`. The pool is then closed, since others may wait for the one that
        failed, unless every rank raised the same FanlightError. SIGINT and SIGTERM to the main thread are forwarded to
        the ranks as one SIGTERM; ranks that do not answer it by Stopped within grace_s are killed, and the signal takes
        its usual way.
        """
        message = {"job": job, "arguments": arguments, "folder": os.getcwd()}
        json.dumps(message)  # a TypeError belongs to the caller, before anything is sent
        with self._busy:
            if not self.is_open:
                raise errors.TrainingError(f"cannot run {job}: this pool of ranks was closed; open a new one")
            self._stops = self._signal = 0
            self._watch.begin()
            try:
                with self._forwarding_signals():
                    answers, ends = self._exchange(message)
            except BaseException:
                self._kill()
                raise
            error = zygote.verdict(answers, ends, ranks=self.ranks)
            if self._stops and (error is None or -signal.SIGTERM in ends.values()):  # no rank heeded the request
                self._kill()
                if self._signal:
                    signal.raise_signal(self._signal)
                raise errors.TrainingError(f"{job} was asked to stop, and its ranks do not know how: nothing was saved")
            if error is not None:
                kinds = {(answer.get("error"), answer.get("message")) for answer in answers.values()}
                if ends or len(answers) < self.ranks or len(kinds) > 1 or None in kinds.pop():
                    self._kill()
                raise error
            return [answers[rank]["result"] for rank in range(self.ranks)]

    def stop(self) -> None:
        """Asks the running job to stop, as Ctrl-C does; a second call kills it. From any thread or signal handler."""
        self._stops += 1
        with contextlib.suppress(OSError):
            self._wake_write.send(b"!")

    def close(self) -> None:
        """Ends the ranks and waits for it, a few seconds at most. Idle ranks leave by themselves, busy ones are killed.
        Safe to call twice, from another thread, and at exit (where it happens by itself)."""
        if not self._busy.acquire(blocking=False):  # another thread's run, which now ends and closes
            self._drop()
            if not self._busy.acquire(timeout=2 * CLOSE_S):
                return
        try:
            self._end()
        finally:
            self._busy.release()

    def _kill(self) -> None:
        self._drop()
        self._end()

    def _drop(self) -> None:
        """The zygote takes the end of its control socket as the end of the pool's owner, and kills every rank."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def _exchange(self, message: dict[str, Any]) -> tuple[dict[int, dict[str, Any]], dict[int, int | None]]:
        """Sends one job; the ranks' answers, and the exit code (None: not known) of a rank that ended.

        Returns when every rank answered, one ended, or a deadline that a failure or a request to stop has set is over.
        Raises TrainingError when ranks stand still.
        """
        answers: dict[int, dict[str, Any]] = {}
        ends: dict[int, int | None] = {}
        deadline, asked = math.inf, False
        with selectors.DefaultSelector() as ready:
            for source, key in ((self._control, "control"), (self._wake, "wake"), *zip(self._ranks, range(self.ranks))):
                ready.register(source, selectors.EVENT_READ, key)
            for rank in self._ranks:
                with contextlib.suppress(ConnectionError):  # a rank that ended; its socket says so below
                    zygote.send(rank, message)
            while len(answers) < self.ranks or not self.pids:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                for key, _ in ready.select(min(left_s, self._watch.look_s)):
                    if key.data == "wake":
                        self._wake.recv(1024)
                        continue
                    received = zygote.receive(key.fileobj)  # type: ignore[arg-type]
                    if key.data == "control":
                        if received is None:
                            return answers, {zygote.ITSELF: None}
                        self.pids.extend(received.get("pids", ()))
                        if "rank" in received:
                            return answers, {received["rank"]: received["code"]}
                    elif received is None:  # the zygote will say how it ended
                        ready.unregister(key.fileobj)
                        ends[key.data] = None
                        deadline = min(deadline, time.monotonic() + SETTLE_S)
                    else:
                        answers[key.data] = received
                        if "error" in received:
                            patience_s = self.grace_s if received["error"] == errors.Stopped.__name__ else SETTLE_S
                            deadline = min(deadline, time.monotonic() + patience_s)
                if self._watch.is_stalled(self.pids, answered=answers):
                    raise self._watch.verdict(self._folder, self.pids, ask=self._ask_for_stacks)
                if self._stops > 1 or (self._stops and not self.pids):
                    break
                if self._stops and not asked:
                    asked = True
                    with contextlib.suppress(ConnectionError):
                        zygote.send(self._control, {"signal": signal.SIGTERM})
                    deadline = min(deadline, time.monotonic() + self.grace_s)
        return answers, ends

    def _ask_for_stacks(self) -> None:
        with contextlib.suppress(OSError):
            zygote.send(self._control, {"signal": stall.STACKS_SIGNAL})

    @contextlib.contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM call stop(). Only the main thread may; ignored signals stay ignored."""

        def forward(number: int, _: object) -> None:
            self._signal = number
            self.stop()

        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, forward)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def joined() -> bool:
    """Whether a launcher, torchrun or Slurm's srun, started this process as one of its ranks."""
    return under_torchrun() or slurm.is_rank(os.environ)


def under_torchrun() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process as one of its ranks."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def from_environment(device: str, *, threads: int | None = None) -> World:
    """Joins the ranks that torchrun or srun started. `threads` as for a Pool; torchrun's own choice, one, is not kept.
    Such a process ends by end_rank(), and by itself when it stands still (stall.guard)."""
    import torch

    from fanlight.parallel import comm

    own_threads = 0
    if not under_torchrun() and slurm.is_rank(os.environ):
        given = slurm.variables(os.environ)
        own_threads = slurm.threads(
            os.environ, cores=machine.cores_usable(), local_ranks=int(given["LOCAL_WORLD_SIZE"])
        )
        os.environ.update(given)  # for torch, which reads them itself, and whoever asks for torchrun later
    ranks = _from_torchrun("WORLD_SIZE", least=1)
    local_ranks = _from_torchrun("LOCAL_WORLD_SIZE", least=1, below=ranks + 1, default=ranks)
    rank = _from_torchrun("RANK", below=ranks)
    local_rank = _from_torchrun("LOCAL_RANK", below=local_ranks)
    if ranks > 1:
        _from_torchrun("MASTER_PORT", below=1 << 16)
    torch.set_num_threads(threads or own_threads or max(1, machine.cores_usable() // local_ranks))
    if ranks == 1:
        return comm.alone(device)
    if rank and meeting.is_foreign(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])):
        raise _taken()  # else it would wait for ten minutes; rank 0 learns it from its own bind
    try:
        world = comm.join(
            rank=rank, ranks=ranks, local_rank=local_rank, local_ranks=local_ranks, device=device, init_method="env://"
        )
    except RuntimeError as error:  # torch's, of stores and sockets
        raise _not_met(error, rank=rank) from error
    stall.guard(world.heartbeat, rank=rank)
    return world


def _not_met(error: RuntimeError, *, rank: int) -> errors.FanlightError:
    """Why ranks could not join, in words."""
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if "EADDRINUSE" in str(error):
        return _taken()
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return errors.TrainingError(
        f"rank {rank} could not meet the others at {address}, port {port} (MASTER_ADDR, MASTER_PORT): {why}; see that every "
        "rank was started, with the same two, and that nothing between the machines blocks the port"
    )


def _taken() -> errors.ConfigError:
    return errors.ConfigError(
        f"MASTER_PORT {os.environ['MASTER_PORT']}: another program on {os.environ['MASTER_ADDR']} listens there; set "
        "MASTER_PORT to a free port, the same for every rank (torchrun: --master-port)"
    )


def _from_torchrun(name: str, *, least: int = 0, below: int | None = None, default: int | None = None) -> int:
    """A variable that torchrun sets. ConfigError where it is no number of the range: joining would wait for ever."""
    text = os.environ.get(name, "" if default is None else str(default))
    if text.strip().isdecimal() and least <= int(text) and (below is None or int(text) < below):
        return int(text)
    most = "more" if below is None else str(below - 1)
    raise errors.ConfigError(
        f"the environment variable {name} is {text!r}; torchrun sets it from {least} to {most}. Start the ranks with "
        "torchrun, or unset RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR and use --ranks"
    )


def end_rank(code: int) -> NoReturn:
    """Ends a process that joined by from_environment, with this exit code and without the interpreter's way out.

    There, gloo's threads may meet an interpreter that is gone and abort a run that was complete; torchrun would then
    call it failed and start it again. Leaving the groups is not enough while a World or a DDP module holds one.
    """
    from fanlight.parallel import comm

    if code == 0:
        comm.leave()  # after an error it could wait for ranks that never come
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_here(job: str, world: World, **arguments: Any) -> Any:
    """What a Pool's rank does with a job, in this process: for serial runs and under a launcher."""
    return zygote.load(job)(world, **arguments)


def _environment(threads: int) -> dict[str, str]:
    """What must be set before the zygote imports anything."""
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    environment["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's would start its threads on import, and a fork would lose them
    environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking for GPUs must not initialise CUDA before the fork
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")  # not the host's name
    return environment


def _end(
    process: subprocess.Popen[bytes], sockets: tuple[socket.socket, ...], *, pids: list[int], folder: str, owner: int
) -> None:
    """Closes a pool, in steps of growing force. `sockets`: the ranks' first, the zygote's last."""
    if os.getpid() != owner:
        return  # a fork of the owner, whose pool this is not
    for each in sockets[:-1]:
        each.close()  # idle ranks leave, then the zygote
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(CLOSE_S if pids else 0)
    sockets[-1].close()  # the zygote kills busy ranks
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(CLOSE_S if pids else 0)
    if process.returncode is None:  # it imports still, or is stuck
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
