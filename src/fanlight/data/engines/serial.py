"""One image after the other in this thread: what every speedup is relative to."""

from __future__ import annotations

from fanlight.data.engines import work
from fanlight.data.engines.engine import Engine, Promise, done
from fanlight.data.engines.work import Task


class Serial(Engine):
    """Works when it is asked."""

    name = "serial"

    def submit(self, task: Task) -> Promise:
        return done(work.run(task))
