"""Networks and machines of round numbers."""

from fanlight.plan.blocks import Block
from fanlight.plan.cluster import Cluster, Device, Hop
from fanlight.plan.cost import Line

FAST = Hop(0.0, 1e30)  # nothing costs anything
FREE = Cluster("free", 1, 64, Device(), FAST, FAST)


def chain(
    count: int, *, forward_s: float = 1.0, backward_s: float = 2.0, tensors: tuple[int, ...] = (1000,), **more
) -> list[Block]:
    """Equal blocks whose seconds are for a row."""
    return [
        Block(f"b{i}", tensors, forward=Line(0, forward_s), backward=Line(0, backward_s), **more) for i in range(count)
    ]


def machine(
    *, nodes: int = 1, devices: int = 8, latency_s: float = 0.0, bytes_per_s: float = 1e9, kind: str = "cpu", **more
) -> Cluster:
    hop = Hop(latency_s, bytes_per_s)
    return Cluster("made", nodes, devices, Device(kind), hop, hop, **more)
