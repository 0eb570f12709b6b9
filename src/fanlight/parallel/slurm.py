"""What Slurm's `srun` tells a task of a step, as the variables that torchrun would have set: the same ranks, the same way
to meet. Pure functions of an environment. Imports no torch.

Read: SLURM_PROCID, SLURM_LOCALID, SLURM_NODEID, SLURM_NTASKS, SLURM_TASKS_PER_NODE, SLURM_NTASKS_PER_NODE,
SLURM_JOB_NODELIST, SLURM_JOB_ID, SLURM_CPUS_PER_TASK, SLURM_CPUS_ON_NODE, and those that a step has for itself:
SLURM_STEP_ID, SLURM_STEP_NUM_TASKS, SLURM_STEP_TASKS_PER_NODE, SLURM_STEP_NODELIST. MASTER_ADDR and MASTER_PORT, where
set, are kept.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from fanlight.errors import ConfigError

FIRST_PORT, PORTS = 61000, 4536  # up to 65535: private ports (IANA) that Linux does not hand out by itself
STEPS = 31  # steps of one job that surely get different ports
RESERVED_STEP = 0xFFFFFFF0  # numbers from here on are Slurm's own: the shell of salloc, the body of a batch script
MOST_HOSTS = 1 << 16  # of Slurm
OF_A_STEP = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")

_RANGES = r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
_HOST = re.compile(rf"(?:[\w.-]|\[{_RANGES}\])+", re.ASCII)
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?", re.ASCII)

Environment = Mapping[str, str]


def is_rank(environment: Environment) -> bool:
    """Whether srun started this process as one of several tasks. ConfigError where their number is none.

    A shell of salloc has SLURM_NTASKS, and the body of a batch script SLURM_PROCID too, though nobody is beside it: only
    what srun started knows its step. A step's single task is no rank: it may start ranks of its own.
    """
    if "SLURM_PROCID" not in environment or not any(name in environment for name in OF_A_STEP):
        return False
    step = environment.get("SLURM_STEP_ID") or environment.get("SLURM_STEPID") or "0"
    if step.isdecimal() and int(step) >= RESERVED_STEP:
        return False
    return _tasks(environment) > 1


def variables(environment: Environment) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT of this task.

    Tasks meet on the first host of the step, where task 0 is, at a port that follows from the job and the step: every
    task finds both by itself. ConfigError where a variable cannot be right.
    """
    ranks = _tasks(environment)
    rank = _number(environment, "SLURM_PROCID", below=ranks)
    local_ranks = _local_tasks(environment, ranks=ranks)
    local_rank = _number(environment, "SLURM_LOCALID", below=local_ranks)
    address = environment.get("MASTER_ADDR") or _first_host(environment)
    port = environment.get("MASTER_PORT") or str(_port(environment))
    numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_ranks}
    return {**{name: str(value) for name, value in numbers.items()}, "MASTER_ADDR": address, "MASTER_PORT": port}


def threads(environment: Environment, *, cores: int, local_ranks: int) -> int:
    """Compute threads of this task, which may use `cores`: all of them where Slurm bound each task to its own, else its
    share; never more than SLURM_CPUS_PER_TASK."""
    if "SLURM_CPUS_PER_TASK" in environment:
        return min(cores, _number(environment, "SLURM_CPUS_PER_TASK", least=1))
    on_node = environment.get("SLURM_CPUS_ON_NODE", "")
    is_bound = on_node.isdecimal() and cores < int(on_node)
    return cores if is_bound else max(1, cores // local_ranks)


def hosts(nodelist: str) -> list[str]:
    """The hosts of a node list in Slurm's writing: `gpu[01-03,7],login2` is gpu01, gpu02, gpu03, gpu7, login2.

    A host may have several brackets, of which the last counts fastest; leading zeros are the low end's. ValueError for
    what is not such a list, or has more hosts than Slurm knows.
    """
    found: list[str] = []
    for item in re.split(r",(?![^\[\]]*\])", nodelist):
        if not _HOST.fullmatch(item):
            raise ValueError(f"{item!r} is no host")
        parts = [_expand(part) if part[0] == "[" else [part] for part in re.findall(r"\[[^\]]*\]|[^\[]+", item)]
        for words in itertools.product(*parts):
            found.append("".join(words))
            if len(found) > MOST_HOSTS:
                raise ValueError(f"more than {MOST_HOSTS} hosts")
    return found


def tasks_per_node(text: str) -> list[int]:
    """Tasks of each node from Slurm's writing: `4(x2),3` is 4, 4, 3. ValueError for anything else."""
    found: list[int] = []
    for item in text.split(","):
        match = _COUNT.fullmatch(item)
        if match is None or int(match[2] or 1) > MOST_HOSTS:
            raise ValueError(f"{item!r} is no number of tasks")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def _expand(bracket: str) -> list[str]:
    found: list[str] = []
    for each in bracket[1:-1].split(","):
        low, _, high = each.partition("-")
        first, last = int(low), int(high or low)
        if not first <= last < first + MOST_HOSTS:
            raise ValueError(f"{each!r} is no range of hosts")
        found += [str(number).zfill(len(low)) for number in range(first, last + 1)]
    return found


def _tasks(environment: Environment) -> int:
    """Of the step; SLURM_NTASKS may be the allocation's."""
    step = "SLURM_STEP_NUM_TASKS"
    return _number(environment, step if step in environment else "SLURM_NTASKS", least=1)


def _local_tasks(environment: Environment, *, ranks: int) -> int:
    """Tasks on this node."""
    name = next((name for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE") if name in environment), None)
    if name is None:
        if "SLURM_NTASKS_PER_NODE" in environment:
            return min(ranks, _number(environment, "SLURM_NTASKS_PER_NODE", least=1))
        return ranks
    try:
        counts = tasks_per_node(environment[name])
    except ValueError as error:
        raise _wrong(environment, name, str(error)) from None
    if sum(counts) != ranks:
        raise _wrong(environment, name, f"these are {sum(counts)} tasks, and the step has {ranks}")
    if "SLURM_NODEID" not in environment:
        return max(counts)
    return counts[_number(environment, "SLURM_NODEID", below=len(counts))]


def _first_host(environment: Environment) -> str:
    name = "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in environment else "SLURM_JOB_NODELIST"
    try:
        return hosts(environment.get(name, ""))[0]
    except ValueError as error:
        raise _wrong(environment, name, f"{error}; or set MASTER_ADDR to the host of task 0") from None


def _port(environment: Environment) -> int:
    job = _number(environment, "SLURM_JOB_ID")
    step = environment.get("SLURM_STEP_ID", "0")
    return FIRST_PORT + (job * STEPS + (int(step) if step.isdecimal() else 0)) % PORTS


def _number(environment: Environment, name: str, *, least: int = 0, below: int | None = None) -> int:
    text = environment.get(name, "")
    if text.isdecimal() and least <= int(text) and (below is None or int(text) < below):
        return int(text)
    raise _wrong(environment, name, f"it must be a number from {least} to {'more' if below is None else below - 1}")


def _wrong(environment: Environment, name: str, why: str) -> ConfigError:
    return ConfigError(
        f"the environment variable {name} is {environment.get(name, '')!r}: {why}. srun sets it for each task; start the "
        "ranks with srun, or unset SLURM_PROCID and use --ranks"
    )
