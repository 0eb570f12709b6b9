"""Blocks of a probe as they would be measured where every cause is known."""

from typing import Any

Row = dict[str, Any]


def block(kind: str, rank: int, step_s: float, *, rows: int = 16, optimizer_s: float = 0.0, **more: float) -> Row:
    """One row; what is not said of the step is one third forward, two thirds backward."""
    work = step_s - optimizer_s - more.get("input_s", 0.0) - more.get("communication_s", 0.0) - more.get("rest_s", 0.0)
    parts = {"input_s": 0.0, "copy_s": 0.0, "communication_s": 0.0, "rest_s": 0.0, "cpu_s": step_s, "queued_s": 0.0}
    return {
        "kind": kind, "rank": rank, "repetition": 0, "rows": rows, "steps": 8, "step_s": step_s,
        "forward_s": work / 3, "backward_s": work * 2 / 3, "optimizer_s": optimizer_s, **parts, **more,
    }  # fmt: skip


def step(
    *, ranks: int = 2, compute: float = 0.08, launch: float = 0.01, optimizer: float = 0.01, contention: float = 0.0,
    communication: float = 0.0, input: float = 0.0, slow: float = 0.0, rows: int = 16, few: int = 4,
) -> list[Row]:  # fmt: skip
    """Every rank's blocks of one repetition where a step is made of these seconds; the last rank takes `slow` more."""
    found = []
    own = compute + launch + optimizer
    for rank in range(ranks):
        late = slow if rank == ranks - 1 else 0.0
        whole = own + contention + slow + communication
        less = compute * few / rows + launch + optimizer + late
        found += [
            block("full", rank, whole + input, optimizer_s=optimizer, input_s=input, communication_s=communication),
            block("memory", rank, whole, optimizer_s=optimizer, communication_s=communication),
            block("alone", rank, own + late, optimizer_s=optimizer),
            block("few", rank, less, rows=few, optimizer_s=optimizer),
        ]
        if ranks > 1:
            found.append(block("together", rank, own + contention + late, optimizer_s=optimizer))
    return found


def slower(rows: list[Row], factor: float) -> list[Row]:
    """The same blocks on a machine that takes so much longer for everything."""
    return [{name: value * factor if name.endswith("_s") else value for name, value in row.items()} for row in rows]
