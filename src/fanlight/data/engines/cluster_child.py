"""The process that holds Dask's workers of this machine: it says where its scheduler is, and ends with its standard input.

It is a process of its own so that a terminal's Ctrl-C does not reach the workers, who would each tell of it at length, so
that they can be ended with it whatever state they are in, and so that no script is imported a second time by them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from typing import Any


def main(plan: dict[str, Any]) -> None:
    """`plan` comes from cluster.Dask: workers, folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what Dask prints must not be taken for the address
        import distributed

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it tells of every worker that is closed
        cluster = distributed.LocalCluster(
            n_workers=plan["workers"], threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0,
            local_directory=plan["folder"], silence_logs=logging.CRITICAL,
        )  # fmt: skip
        answers.write(json.dumps({"address": cluster.scheduler_address}).encode() + b"\n")
        answers.flush()
        sys.stdin.buffer.read()
        cluster.close(timeout=plan["close_s"])
        shutil.rmtree(plan["folder"], ignore_errors=True)
