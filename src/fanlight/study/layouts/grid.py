"""What is compared: layouts × ranks × precisions, with the baselines that speedups are over. No torch.

What this machine cannot run is a point, too, with the reason: nobody shall ask whether it was forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fanlight.errors import ConfigError, near
from fanlight.parallel import layout as layouts

DEFAULT = ("serial", "ddp", "fsdp", "pipeline", "model-parallel", "tensor", "local-sgd", "dataparallel")
PRECISIONS = ("fp32", "bf16")
ALL_PRECISIONS = ("fp32", "bf16", "fp16")
NO_GPU = "no GPU is visible"


@dataclass(frozen=True)
class Point:
    """One configuration. `cores` are those that it may compute on, as many as its baseline is asked about."""

    layout: str
    ranks: int
    precision: str
    device: str  # cpu or cuda
    threads: int  # of each rank
    cores: int  # CPU cores, or GPUs, that it has
    reason: str = ""  # why it cannot run here

    @property
    def name(self) -> str:
        """Of its row, and of its runs' folders."""
        if self.layout == "serial":
            unit = "gpu" if self.device == "cuda" else "core"
            who = f"{self.cores}{unit}{'s' * (self.cores != 1)}"
        else:
            who = f"{self.ranks}gpus" if self.device == "cuda" else str(self.ranks)
        return f"{self.layout.replace('=', '').replace(',', '-')}-{who}-{self.precision}"

    @property
    def is_other(self) -> bool:
        """Whether it is another algorithm than the serial run."""
        return self.layout in layouts.OTHER

    @property
    def is_baseline(self) -> bool:
        return self.layout == "serial"

    def document(self) -> dict[str, Any]:
        return asdict(self)


def points(
    *, cores: int, gpus: int, names: Sequence[str] = (), ranks: Sequence[int] = (), precisions: Sequence[str] = (),
    device: str | None = None, threads: int | None = None, within: bool = False,
) -> list[Point]:  # fmt: skip
    """The grid. Empty: all that this machine can run, on 2, 4, 8 … ranks up to its cores or GPUs. The serial baselines of
    every precision are always in it. `within`: more ranks than cores are points that cannot run, and are not measured taking
    turns. ConfigError for a name, a number or a precision that cannot be."""
    _check(names, ranks, precisions)
    chosen = list(dict.fromkeys(["serial", *(names or DEFAULT)]))
    formats = list(dict.fromkeys(precisions or PRECISIONS))
    found: list[Point] = []
    if device != "cuda":
        counts = sorted(set(ranks) or _powers(cores))
        counts = [count for count in counts if count > 1]
        found += _on_cpu(chosen, counts, formats, cores=cores, threads=threads, within=within)
    if device != "cpu":
        counts = sorted(set(ranks) or _powers(gpus))
        found += _on_gpus(chosen, [count for count in counts if count > 1], formats, gpus=gpus, cores=cores)
    return found


def _on_cpu(
    names: Sequence[str], counts: Sequence[int], formats: Sequence[str], *, cores: int, threads: int | None, within: bool
) -> list[Point]:  # fmt: skip
    found = []
    for precision in formats:
        for used in sorted({1, cores}):
            found.append(Point("serial", 1, precision, "cpu", used, used))
        for name in names:
            if name in ("serial", "dataparallel"):
                continue
            own = layouts.degrees_of(name)
            for count in [own] if own else counts:
                each = threads or max(1, cores // count)
                reason = f"{count} ranks take a core each, and {cores} can be used" if within and count > cores else ""
                reason = reason or _refusal(name, count)
                found.append(Point(name, count, precision, "cpu", each, min(cores, count * each), reason))
    return found


def _on_gpus(
    names: Sequence[str], counts: Sequence[int], formats: Sequence[str], *, gpus: int, cores: int
) -> list[Point]:
    found = []
    for precision in formats:
        found.append(Point("serial", 1, precision, "cuda", cores, 1, "" if gpus else NO_GPU))
        for name in names:
            if name == "dataparallel":
                reason = "" if gpus > 1 else f"splits batches over the GPUs of one process, and {gpus} can be used"
                found.append(Point(name, 1, precision, "cuda", cores, max(1, gpus), reason))
            elif name != "serial" and gpus:
                own = layouts.degrees_of(name)
                for count in [own] if own else counts:
                    reason = "" if count <= gpus else f"{count} ranks take a GPU each, and {gpus} can be used"
                    reason = reason or _refusal(name, count)
                    found.append(Point(name, count, precision, "cuda", max(1, cores // count), count, reason))
    return found


def _powers(most: int) -> set[int]:
    return {2**n for n in range(1, most.bit_length()) if 2**n <= most} | ({most} if most > 1 else set())


def _refusal(name: str, ranks: int) -> str:
    """Why a layout cannot have so many ranks."""
    try:
        layouts.parse(name, ranks=ranks)
    except ConfigError as error:
        return str(error)
    return ""


def _check(names: Sequence[str], ranks: Sequence[int], precisions: Sequence[str]) -> None:
    for name in names:
        if "=" in name:
            layouts.parse(name, ranks=None)
        elif name not in layouts.NAMES:
            raise ConfigError(
                f"--layouts {name!r} does not exist; choose {', '.join(layouts.NAMES)}, or a product such as "
                f"replicate=2,pipe=2.{near(name, layouts.NAMES)}"
            )
    if bad := [count for count in ranks if count < 1]:
        raise ConfigError(f"--ranks {bad[0]}: numbers from 1 on, with commas between, such as 1,2,4")
    for word in precisions:
        if word not in ALL_PRECISIONS:
            raise ConfigError(f"--precisions {word!r}: choose {', '.join(ALL_PRECISIONS)}.{near(word, ALL_PRECISIONS)}")
