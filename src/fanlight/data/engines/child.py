"""The life of one worker process: a line of JSON in, a task done, a line of JSON out, until standard input ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import numpy as np

from fanlight import errors
from fanlight.data.engines import work
from fanlight.data.engines.operations import Operation
from fanlight.data.engines.work import Job, Task


def main(plan: dict[str, Any]) -> None:
    """`plan` comes from processes.Processes: board, worker, workers. The board holds 1 + the job that each is at."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints must not be taken for an answer
        try:
            board = np.memmap(plan["board"], np.int64, mode="r+", shape=(plan["workers"],))
        except OSError:  # the parent went before this process was ready
            os._exit(1)

        def begins(number: int) -> None:
            board[plan["worker"]] = number + 1

        try:
            _send(answers, {"ready": os.getpid()})
            for line in sys.stdin.buffer:
                begins(-1)
                _send(answers, _answer(line, begins))
        except BrokenPipeError:  # the parent is gone
            os._exit(1)


def _answer(line: bytes, begins: Any) -> dict[str, Any]:
    operation, jobs, out = json.loads(line)
    try:
        outcome = work.run(Task(Operation(*operation), [Job(*job) for job in jobs], out), begins=begins)
    except errors.FanlightError as error:
        kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return {"error": kind.__name__, "message": str(error)}
    except OSError as error:  # of the output: its disk, its place
        return {"error": "DiskError", "message": f"cannot write {out}: {error.strerror or error}"}
    return {"failed": outcome.failed}


def _send(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()
