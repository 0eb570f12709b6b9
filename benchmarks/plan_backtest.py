"""Whether the planner's arithmetic foretells scaling curves that others published: each from its own first point only.

    PYTHONPATH=src python benchmarks/plan_backtest.py [--out results/plan-backtest_<date>.md]

A curve's network is counted, its device's rate follows from the first point, links are the published ones. One number per
curve, how unequal its ranks are (spread), how much they share (contention) or what they take turns at (turn), comes from
*other* published curves, which the row names: the value that fits those best. These are all other networks of the same kind
by the same publisher and scripts, in the same kind of number format; where there are none, curves of the machine that is most
alike. What is compared is the lost share, one less
efficiency, at every other point; beside it two naive predictors, linear scaling and an efficiency of 90 % everywhere.
And how many of the published points lie inside the band that `fanlight plan` prints beside its prediction: with the noise of a
computing rate that a file tells, and with that of one which was measured, which the first point of a curve is.
No GPU and no machine of anybody's is measured here.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import fmean, median

from fanlight.parallel.layout import parse
from fanlight.plan import band, choose, cluster, counting, operations, program
from fanlight.plan.blocks import Block
from fanlight.plan.cluster import Cluster
from fanlight.plan.simulate import simulate

DGX1, DGXA100 = cluster.read("dgx-1"), cluster.read("dgx-a100")
GH200, PCIE, CPUS = cluster.read("gh200-4"), cluster.read("v100-pcie"), cluster.read("xeon-28")
BIG_BASIN = cluster.read("big-basin")
DDP_BENCH = "pytorch benchmarks/distributed/ddp/README.md, 8 DGX-1 (V100), torch 1.4, p50"
NVIDIA = "NVIDIA DeepLearningExamples, PyTorch/Classification/ConvNets, pytorch-21.03; batches of its configs.yml"
COURSE = "a reference project's own logs (docs/recipes.md)"


@dataclass(frozen=True)
class Curve:
    """One published curve. `seconds[n]`: of a step of `rows` images on each of n ranks (an epoch's seconds times n, where the
    batch of a rank stayed)."""

    name: str
    source: str
    network: str  # of torchvision or timm, or numbers of parameters
    machine: Cluster
    seconds: dict[int, float]
    rows: int
    free: str = "spread"  # what comes from other curves
    others: tuple[str, ...] = ()  # these
    image_px: int = 224
    tensor_s: float = 0.0

    @property
    def first(self) -> int:
        return min(self.seconds)


def epochs(seconds: dict[int, float], *, rows: int, images: int) -> dict[int, float]:
    """Seconds of an epoch of `images` over n ranks as seconds of steps of `rows` rows on each."""
    return {n: taken * n * rows / images for n, taken in seconds.items()}


def img_per_s(rates: dict[int, float], *, rows: int) -> dict[int, float]:
    return {n: rows * n / rate for n, rate in rates.items()}


V2 = {  # one GPU without DDP, one with it, and more
    "resnet50": (0.097, 0.100, {2: 0.103, 4: 0.103, 8: 0.104, 16: 0.104}),
    "resnet101": (0.162, 0.171, {2: 0.176, 4: 0.176, 8: 0.179, 16: 0.179}),
    "resnext50_32x4d": (0.145, 0.147, {2: 0.153, 4: 0.153, 8: 0.157, 16: 0.157}),
    "resnext101_32x8d": (0.415, 0.425, {2: 0.438, 4: 0.439, 8: 0.447, 16: 0.450}),
}


Throughputs = dict[str, tuple[int, float, float]]  # of a network: images on each GPU, images/s of one GPU and of eight
RESNETS: dict[str, tuple[Cluster, bool, Throughputs]] = {  # by machine and format; whether that is the mixed one
    "DGX A100, TF32": (DGXA100, False, {
        "resnet50": (256, 938, 7248), "resnext101_32x4d": (128, 456, 3471), "seresnext101_32x4d": (128, 395, 2991),
    }),
    "DGX A100, mixed": (DGXA100, True, {
        "resnet50": (256, 2470, 16621), "resnext101_32x4d": (128, 1211, 7925), "seresnext101_32x4d": (128, 855, 5779),
    }),
    "DGX-1 16 GB, FP32": (DGX1, False, {
        "resnet50": (112, 367, 2855), "resnext101_32x4d": (64, 147, 1133), "seresnext101_32x4d": (64, 132, 1004),
    }),
    "DGX-1 16 GB, mixed": (DGX1, True, {
        "resnet50": (256, 1200, 8322), "resnext101_32x4d": (128, 587, 4065), "seresnext101_32x4d": (112, 443, 2971),
    }),
    "DGX-1 32 GB, FP32": (DGX1, False, {
        "resnet50": (112, 356, 2766), "resnext101_32x4d": (64, 144, 1108), "seresnext101_32x4d": (64, 130, 992),
    }),
    "DGX-1 32 GB, mixed": (DGX1, True, {
        "resnet50": (256, 1156, 8056), "resnext101_32x4d": (128, 565, 3863), "seresnext101_32x4d": (112, 427, 2925),
    }),
}  # fmt: skip


def resnets() -> list[Curve]:
    """Every ResNet of one publisher's tables: the scripts of one repository, in one release. Each borrows from all the others
    whose format is of the same kind (TF32 and FP32 are one), on whatever machine."""
    kinds = {f"{network}, {where}": mixed for where, (_, mixed, told) in RESNETS.items() for network in told}
    return [
        Curve(
            f"{network}, {where}", NVIDIA, network, machine, img_per_s({1: alone, 8: eight}, rows=rows), rows,
            others=tuple(name for name, kind in kinds.items() if kind == mixed and name != f"{network}, {where}"),
        )
        for where, (machine, mixed, told) in RESNETS.items()
        for network, (rows, alone, eight) in told.items()
    ]  # fmt: skip


@functools.cache
def per_tensor_s(*networks: str) -> float:
    """What DDP on one GPU, with nobody to send to, costs for each gradient: of these networks of the DDP benchmark."""
    tensors = [sum(len(block.tensors) for block in blocks_of(name, 224)) for name in networks]
    return sum(V2[name][1] - V2[name][0] for name in networks) / sum(tensors)


@functools.cache
def curves() -> dict[str, Curve]:
    """All of them, by name."""
    found = []
    for name, (alone, _, more) in V2.items():
        kin = tuple(other for other in V2 if other != name)
        found.append(Curve(
            f"{name}, 1–16 V100", DDP_BENCH, name, DGX1, {1: alone, **more}, 32,
            others=tuple(f"{other}, 1–16 V100" for other in kin), tensor_s=per_tensor_s(*kin),
        ))  # fmt: skip
    kin = ("resnet101", "resnext50_32x4d", "resnext101_32x8d")
    found += [
        Curve(
            "resnet50, 1–40 V100", "pytorch#30660, 5 DGX-1, p75", "resnet50", DGX1,
            {1: 0.097, 2: 0.104, 4: 0.105, 8: 0.108, 16: 0.111, 32: 0.112, 40: 0.114}, 32,
            others=tuple(f"{other}, 1–16 V100" for other in kin), tensor_s=per_tensor_s(*kin),
        ),
        *resnets(),
        Curve("resnet50, 1–8 GH200", "a cluster's user guide, the same DDP benchmark, torch 2.3, p50", "resnet50", GH200,
              {1: 32 / 1392, 2: 32 / 1256, 4: 32 / 1255, 8: 32 / 1233}, 32, others=("resnet101, 1–8 GH200",),
              tensor_s=(32 / 727 - 32 / 790) / 314),
        Curve("resnet101, 1–8 GH200", "a cluster's user guide, the same DDP benchmark, torch 2.3, p50", "resnet101", GH200,
              {1: 32 / 790, 2: 32 / 691, 4: 32 / 703, 8: 32 / 706}, 32, others=("resnet50, 1–8 GH200",),
              tensor_s=(32 / 1322 - 32 / 1392) / 161),
        Curve("8 → 256 P100", "Goyal et al. 2017, 32 servers, 50 Gbit Ethernet: about 90 %", "resnet50", BIG_BASIN,
              {8: 1.0 * 32 / 115, 256: 32 / 115 / 0.9}, 32, others=("resnet50, 1–16 V100", "resnet101, 1–16 V100")),
        Curve("glaucoma, 1–32 CPUs", COURSE, "22500000", CPUS,
              {n: 60 * minutes * n / 1000 for n, minutes in
               {1: 756, 2: 383, 4: 213, 8: 115, 16: 71.8, 24: 64.5, 32: 62.3}.items()}, 32,
              free="contention", others=("lung and colon, 10–28 CPUs",)),
        Curve("lung and colon, 10–28 CPUs", COURSE, "resnet18", CPUS,
              epochs({10: 232.8, 20: 147.3, 28: 130.4}, rows=32, images=20_000), 32, free="contention",
              others=("glaucoma, 1–32 CPUs",), image_px=128),
        Curve("lung and colon, AMP, 1–4 GPUs", COURSE, "resnet18", PCIE,
              epochs({1: 18.7, 2: 16.1, 3: 14.7, 4: 13.9}, rows=32, images=20_000), 32, free="turn",
              others=("lung and colon, DDP, 2–4 GPUs",), image_px=128),
        Curve("lung and colon, DDP, 2–4 GPUs", COURSE, "resnet18", PCIE,
              epochs({2: 24.1, 4: 17.7}, rows=32, images=20_000), 32, free="turn",
              others=("lung and colon, AMP, 1–4 GPUs",), image_px=128),
        Curve("captioning, DDP, 1–3 V100", COURSE, "resnet50", PCIE,
              epochs({1: 250.7, 2: 157.6, 3: 156.4}, rows=32, images=75_000), 32, free="contention",
              others=("captioning, DDP and AMP, 1–3 V100",)),
        Curve("captioning, DDP and AMP, 1–3 V100", COURSE, "resnet50", PCIE,
              epochs({1: 244.2, 2: 151.4, 3: 143.9}, rows=32, images=75_000), 32, free="contention",
              others=("captioning, DDP, 1–3 V100",)),
        Curve("glaucoma, 1–4 V100", COURSE, "22500000", PCIE,
              {n: 60 * minutes * n / 1000 for n, minutes in {1: 8.56, 2: 4.66, 4: 3.54}.items()}, 32, free="contention",
              others=("captioning, DDP, 1–3 V100", "captioning, DDP and AMP, 1–3 V100")),
    ]  # fmt: skip
    return {curve.name: curve for curve in found}


@functools.cache
def blocks_of(network: str, image_px: int) -> tuple[Block, ...]:
    """A network of torchvision, counted; a mere number of parameters is eight equal pieces."""
    if network.isdecimal():
        each = int(network) // 16
        return tuple(Block(f"piece {i}", (each, each), flop=1e9) for i in range(8))
    import timm
    import torch
    import torchvision

    with torch.device("meta"):
        make = getattr(torchvision.models, network, None) or functools.partial(timm.create_model, network)
        model = make()
    # Their norms are each rank's own.
    return tuple(replace(block, norms=()) for block in counting.count(model, image_px=image_px, is_short=False))


@functools.cache
def step_s(name: str, ranks: int, value: float, total_s: float) -> float:
    """Simulated, where all forwards and backwards of a rank take `total_s` alone, and the free number is `value`."""
    return step_on(machine_of(curves()[name], value), curves()[name], ranks, value, total_s)


def machine_of(curve: Curve, value: float) -> Cluster:
    machine = replace(curve.machine, tensor_s=curve.tensor_s)
    return machine if curve.free == "turn" else replace(machine, **{curve.free: value})


def step_on(machine: Cluster, curve: Curve, ranks: int, value: float, total_s: float) -> float:
    blocks = blocks_of(curve.network, curve.image_px)
    rate = curve.rows * sum(block.flop + block.backward_flop for block in blocks) / total_s
    asked = operations.Asked(curve.rows * ranks, turn_s=value if curve.free == "turn" else 0.0)
    layout = parse("ddp" if ranks > 1 else "serial", ranks=ranks)
    return simulate(program.program(layout, [b.timed(rate) for b in blocks], asked, machine)).step_s


def alone_s(curve: Curve, value: float) -> float:
    """Seconds of a rank's forwards and backwards with which the first point is met: it sets the device's rate."""
    first_s = curve.seconds[curve.first]
    if curve.first == 1:  # one rank waits for nobody: what its step takes beside computing is the same at any rate
        return first_s - (step_s(curve.name, 1, value, first_s) - first_s)
    low, high = first_s * 1e-3, first_s
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if step_s(curve.name, curve.first, value, middle) < first_s else (low, middle)
    return (low + high) / 2


def foretold(curve: Curve, value: float) -> dict[int, float]:
    """Lost shares of all points but the first."""
    return _foretold(curve.name, value)


@functools.cache
def _foretold(name: str, value: float) -> dict[int, float]:
    curve = curves()[name]
    first_s, total_s = curve.seconds[curve.first], alone_s(curve, value)
    return {n: 1 - first_s / step_s(curve.name, n, value, total_s) for n in curve.seconds if n != curve.first}


def bands(curve: Curve, value: float, *, noise: float) -> dict[int, tuple[float, float]]:
    """Of all points but the first, what the band around what is foretold says of the published rate: how many times its lower
    edge that is, and its upper edge. It lies inside where the one is 1 or more and the other 1 or less."""
    total_s = alone_s(curve, value)
    found = {}
    for n, published_s in curve.seconds.items():
        if n != curve.first:
            low, high = band.around(
                lambda machine, n=n: 1 / step_on(machine, curve, n, value, total_s), machine_of(curve, value), noise=noise
            )  # fmt: skip
            found[n] = (1 / published_s / low, 1 / published_s / high)
    return found


def lost(curve: Curve) -> dict[int, float]:
    first_s = curve.seconds[curve.first]
    return {n: 1 - first_s / seconds for n, seconds in curve.seconds.items() if n != curve.first}


def error(curve: Curve, predict: Callable[[int], float]) -> float:
    """Mean distance of lost shares."""
    return fmean(abs(predict(n) - share) for n, share in lost(curve).items())


def borrowed(curve: Curve) -> float:
    """The free number that fits the curves it is taken from, by least squares of their lost shares: a grid, then finer."""
    kin = [curves()[name] for name in curve.others]
    most = {
        "spread": 0.2,
        "contention": 0.8,
        "turn": 0.9 * min(k.seconds[k.first] / k.first for k in kin) / kin[0].rows,
    }

    def misfit(value: float) -> float:
        return sum((foretold(k, value)[n] - share) ** 2 for k in kin for n, share in lost(k).items())

    low, high = 0.0, most[curve.free]
    for _ in range(4):
        grid = [low + (high - low) * i / 10 for i in range(11)]
        best = min(grid, key=misfit)
        width = (high - low) / 10
        low, high = max(0.0, best - width), min(most[curve.free], best + width)
    return best


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    text = report()
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


def report() -> str:
    """The table, in Markdown."""
    lines = [
        "| curve | ranks | lost share, published | foretold | error | linear | 90 % | half of both? "
        "| in the band, of a file's rate and of a measured one | borrowed |",
        "|---|---|---|---|--:|--:|--:|---|---|---|",
    ]
    points: list[tuple[float, float, float]] = []
    every: list[list[tuple[float, float]]] = [[], []]
    for curve in curves().values():
        value = borrowed(curve)
        told, real = foretold(curve, value), lost(curve)
        own, linear, constant = error(curve, told.__getitem__), error(curve, lambda n: 0.0), error(curve, lambda n: 0.1)
        points += [(abs(told[n] - share), abs(share), abs(share - 0.1)) for n, share in real.items()]
        is_half = own <= 0.5 * min(linear, constant)
        found = [list(bands(curve, value, noise=noise).values()) for noise in (choose.FILE_NOISE, band.NOISE)]
        every = [before + more for before, more in zip(every, found)]
        here = [inside(each) for each in found]
        unit = {"turn": f"{value * 1e3:.2f} ms per image in turns"}.get(curve.free, f"{curve.free} {value:.1%}")
        lines.append(
            f"| {curve.name} | {', '.join(map(str, curve.seconds))} | {percents(real)} | {percents(told)} | {100 * own:.1f} | "
            f"{100 * linear:.1f} | {100 * constant:.1f} | {'yes' if is_half else 'no'} "
            f"| {here[0]} and {here[1]} of {len(real)} | {unit}, from {'; '.join(curve.others)} |"
        )
    own, linear, constant = (100 * fmean(column) for column in zip(*points))
    lines.append(
        f"| all {len(points)} points | | | | {own:.1f} | {linear:.1f} | {constant:.1f} | "
        f"{'yes' if own <= 0.5 * min(linear, constant) else 'no'} | "
        f"{inside(every[0])} and {inside(every[1])} of {len(points)} | |"
    )
    lines = [*heading(count=len(points)), *lines]
    wide = [median(low / high for low, high in each) for each in every]
    lines.append(f"\nHalf of the bands are wider than a factor of {wide[0]:.2f} and {wide[1]:.2f} from edge to edge.")
    return "\n".join(lines) + "\n"


def heading(*, count: int) -> list[str]:
    """Of so many points."""
    return [
        "# Published scaling curves, foretold from their first points",
        "",
        f"`PYTHONPATH=src python benchmarks/plan_backtest.py`, {date.today()}. Arithmetic only: nothing was measured on any "
        f"machine here. {len(curves())} curves, {count} points beyond the first of each. Lost shares (1 − efficiency) and errors "
        "(their mean distance from what was published) in per cent; `borrowed`: the one number that a curve does not give "
        "itself, and the other published curves that it fits best. The band is that of `fanlight plan`: with the noise of a "
        "rate that a file tells (15 %), and with that of a measured one (3 %), which a curve's first point is.",
        "",
    ]


def inside(found: list[tuple[float, float]]) -> int:
    """How many published points lie in their bands."""
    return sum(low >= 1 >= high for low, high in found)


def percents(shares: dict[int, float]) -> str:
    return " ".join(f"{100 * share:.1f}" for share in shares.values())


if __name__ == "__main__":
    main()
