"""Every benchmark that this machine can run, one after the other, to results/<name>_<date>.md.

make bench            (weather photos: DATA=folder make bench)
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
DATA = os.environ.get("DATA", "digits")
JOBS = {
    "start": ["start.py", "--data", DATA, "--work", "scratch/start"],
    "packing": ["packing.py", "--data", DATA],
    "augment-cost": ["augment_cost.py"],
    "input-wait": ["input_wait.py", "--data", DATA],
    **{
        f"{name}-overhead": ["layout_overhead.py", "--data", DATA, "--layout", name]
        for name in ("ddp", "fsdp", "pipeline")
    },
    "kill-resume": ["kill_resume.py", "--points", "20"],
    "loader-memory": ["loader_memory.py", "--work", "scratch/87k"],
}


def main() -> None:
    results = HERE.parent / "results"
    for name, words in JOBS.items():
        print(f"{name} …", flush=True)
        answer = subprocess.run([sys.executable, str(HERE / words[0]), *words[1:]], stdout=subprocess.PIPE, text=True)
        if answer.returncode:
            print(f"  failed with exit code {answer.returncode}; nothing written")
            continue
        text = answer.stdout[answer.stdout.index("# ") :]  # after the run's own lines
        path = results / f"{name}_cpu_{date.today().isoformat()}.md"
        path.write_text(text)
        print(f"  {path}")


if __name__ == "__main__":
    main()
