"""Who stops a study, and what is forked inside it."""

import subprocess
import sys

FORKED = """
import os, signal, time
from pathlib import Path
from fanlight.study import stopping
with stopping.saying(Path("s")):
    ready, began = os.pipe()
    child = os.fork()
    if not child:
        os.write(began, b".")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)  # Python drops the signals of its first moments after a fork
    os.kill(child, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM)
"""


def test_what_is_forked_inside_ends_as_ever():
    """A loader's workers are ended by SIGTERM: they must not take it for a request to the study."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
