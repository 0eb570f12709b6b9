"""What the user typed, and when: runs, studies and reports keep both."""

import shlex
import sys
import time


def command() -> str:
    """The command line, as a shell takes it."""
    return shlex.join(["fanlight", *sys.argv[1:]])


def entered() -> float:
    """When Enter was pressed: this process's start, seconds since 1970."""
    import psutil

    try:
        return psutil.Process().create_time()
    except psutil.Error:
        return time.time()
