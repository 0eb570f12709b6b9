"""What is compared: layouts × ranks × precisions, with the baselines that speedups are over. No torch.

What this machine cannot run is a point, too, with the reason: nobody shall ask whether it was forgotten.

Every layout is compared on all cores: its ranks share them out as threads (four ranks of six cores, which they cannot share,
have one each, and a baseline on four). That is no curve, since all its points have as many cores; a curve is made of serial runs
and of ddp with one thread a rank, on fewer cores than all (`_curve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fanlight.errors import ConfigError, near
from fanlight.parallel import layout as layouts

DEFAULT = (
    "serial", "ddp", "fsdp", "hsdp", "pipeline", "model-parallel", "tensor", "local-sgd", "diloco", "dataparallel"
)  # fmt: skip
LEFT_OUT = {  # of the default grid, and why; asked for by name they are measured
    "diloco": "left out of the default grid: another algorithm beside local-sgd; --layouts diloco measures it",
}
CURVES = ("serial", "ddp")  # that are measured on fewer cores than all, too
SHARE_LEAST = 8  # one in so many of all cores: a curve's points on fewer take long, and say little about the others
PRECISIONS = ("fp32", "bf16")
ALL_PRECISIONS = ("fp32", "bf16", "fp16")
RANKS_MOST = 1024  # of a machine: more is a slip of the pen, and would end in its memory
TOO_MANY = f"a study starts them all on this machine, at most {RANKS_MOST}; for more: fanlight plan"
ONE_PROCESS = ("serial", "dataparallel")
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
    names_threads: bool = False  # its name says its threads, since another point of the study has as many ranks

    @property
    def name(self) -> str:
        """Of its row, and of its runs' folders."""
        if self.layout == "serial":
            unit = "gpu" if self.device == "cuda" else "core"
            who = f"{self.cores}{unit}{'s' * (self.cores != 1)}"
        else:
            who = f"{self.ranks}gpus" if self.device == "cuda" else str(self.ranks)
            who += f"x{self.threads}" if self.names_threads else ""
        return f"{self.layout.replace('=', '').replace(',', '-')}-{who}-{self.precision}"

    @property
    def is_other(self) -> bool:
        """Whether it is another algorithm than the serial run."""
        return self.layout in layouts.OTHER

    @property
    def is_baseline(self) -> bool:
        return self.layout == "serial"

    def is_oversubscribed(self, cores: int) -> bool:
        """Whether its threads, over all ranks, take turns on `cores` CPU cores."""
        return self.device == "cpu" and self.ranks * self.threads > cores

    def document(self) -> dict[str, Any]:
        return asdict(self)


def points(
    *, cores: int, gpus: int, names: Sequence[str] = (), ranks: Sequence[int] = (), precisions: Sequence[str] = (),
    device: str | None = None, threads: int | None = None, within: bool = False,
) -> list[Point]:  # fmt: skip
    """The grid. Empty: all that this machine can run, on 2, 4, 8 … ranks up to its cores or GPUs; and of serial and ddp, where
    they are asked for and nobody says on how many ranks or threads, a curve over fewer cores. The serial baselines of every
    precision, one core and all, are always in it. `within`: more ranks than cores are points that cannot run, and are not
    measured taking turns. ConfigError for a name, a number or a precision that cannot be."""
    _check(names, ranks, precisions)
    chosen = list(dict.fromkeys(["serial", *(names or DEFAULT)]))
    curves = [name for name in CURVES if name in (names or DEFAULT) and not ranks and threads is None]
    left_out = {} if names else LEFT_OUT
    formats = list(dict.fromkeys(precisions or PRECISIONS))
    found: list[Point] = []
    if device != "cuda":
        counts = sorted(set(ranks) or _powers(cores))
        counts = [count for count in counts if count > 1]
        found += _on_cpu(
            chosen, counts, formats, cores=cores, threads=threads, within=within, curves=curves, left_out=left_out
        )
    if device != "cpu":
        counts = sorted(set(ranks) or _powers(gpus))
        counts = [count for count in counts if count > 1]
        found += _on_gpus(chosen, counts, formats, gpus=gpus, cores=cores, left_out=left_out)
    return found


def _on_cpu(
    names: Sequence[str], counts: Sequence[int], formats: Sequence[str], *, cores: int, threads: int | None, within: bool,
    curves: Sequence[str], left_out: Mapping[str, str],
) -> list[Point]:  # fmt: skip
    found = []
    for precision in formats:
        for used in sorted({1, cores, *(_curve(cores) if "serial" in curves else ())}):
            found.append(Point("serial", 1, precision, "cpu", used, used))
        for name in names:
            if name in ONE_PROCESS:
                continue
            for count in _ranks_of(name, counts, left_out):
                each = threads or max(1, cores // count)
                reason = f"{count} ranks take a core each, and {cores} can be used" if within and count > cores else ""
                reason = left_out.get(name) or reason or _refusal(name, count)
                found.append(Point(name, count, precision, "cpu", each, min(cores, count * each), reason))
            if name in curves:
                found += [Point(name, count, precision, "cpu", 1, count, names_threads=True) for count in _curve(cores)
                          if count > 1 and cores // count > 1]  # fmt: skip
    return found


def _on_gpus(
    names: Sequence[str], counts: Sequence[int], formats: Sequence[str], *, gpus: int, cores: int,
    left_out: Mapping[str, str],
) -> list[Point]:  # fmt: skip
    found = []
    for precision in formats:
        found.append(Point("serial", 1, precision, "cuda", cores, 1, "" if gpus else NO_GPU))
        for name in names:
            if name == "dataparallel":
                reason = "" if gpus > 1 else f"splits batches over the GPUs of one process, and {gpus} can be used"
                found.append(Point(name, 1, precision, "cuda", cores, max(1, gpus), reason))
            elif name != "serial" and gpus == 1 and precision == formats[0]:  # one row says it for all
                reason = left_out.get(name) or "takes 2 GPUs at least, and 1 can be used"
                found.append(
                    Point(name, layouts.degrees_of(name) or 2, precision, "cuda", max(1, cores // 2), 2, reason)
                )
            elif name != "serial" and gpus > 1:
                for count in _ranks_of(name, counts, left_out):
                    reason = "" if count <= gpus else f"{count} ranks take a GPU each, and {gpus} can be used"
                    reason = left_out.get(name) or reason or _refusal(name, count)
                    found.append(Point(name, count, precision, "cuda", max(1, cores // count), count, reason))
    return found


def _ranks_of(name: str, counts: Sequence[int], left_out: Mapping[str, str]) -> Sequence[int]:
    """On how many ranks a layout is measured: a product says it itself, and one that is left out is one row, not several."""
    own = layouts.degrees_of(name)
    return [own] if own else counts[-1:] if name in left_out else counts


def _curve(cores: int) -> list[int]:
    """Fewer cores than all, on which a curve is measured: powers of two from an eighth of them on."""
    return sorted(count for count in {1} | _powers(cores) if count < cores and count * SHARE_LEAST >= cores)


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
        if (own := layouts.degrees_of(name) or 0) > RANKS_MOST:
            raise ConfigError(f"--layouts {name} is {own} ranks: {TOO_MANY}")
        if not own and name not in layouts.NAMES:
            raise ConfigError(
                f"--layouts {name!r} does not exist; choose {', '.join(layouts.NAMES)}, or a product such as "
                f"replicate=2,pipe=2.{near(name, layouts.NAMES)}"
            )
    if bad := [count for count in ranks if count > RANKS_MOST]:
        raise ConfigError(f"--ranks {bad[0]}: {TOO_MANY}")
    if bad := [count for count in ranks if count < 1]:
        raise ConfigError(f"--ranks {bad[0]}: numbers from 1 on, with commas between, such as 1,2,4")
    parallel = [name for name in names if name not in ONE_PROCESS and "=" not in name]
    if parallel and ranks and max(ranks) < 2:
        raise ConfigError(
            f"--ranks 1 with --layouts {parallel[0]}: it takes 2 ranks at least; one process is measured anyway"
        )
    for word in precisions:
        if word not in ALL_PRECISIONS:
            raise ConfigError(f"--precisions {word!r}: choose {', '.join(ALL_PRECISIONS)}.{near(word, ALL_PRECISIONS)}")
