"""Machines as a file describes them: nodes, their devices, the links between them. Imports no torch.

A mistake names the file, the line, the field, the value and what would do. Every figure of a preset has a source in it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fanlight.errors import ConfigError, near, shown

PRESETS = Path(__file__).parent / "presets"
RANKS_MOST = 16_384  # of a what-if: the time it takes grows with them
LETTERS_MOST = 100_000  # of a file: a megabyte of YAML takes many seconds to read, and no cluster takes so many words
NAME_MOST, SOURCE_MOST = 80, 2_000  # letters: a name stands in every line that is said
KINDS = ("cpu", "cuda")
UNITS: dict[str, dict[str, float]] = {  # of a number in a file, by what it measures
    "seconds": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0},
    "bytes per second": {
        "MB/s": 1e6, "GB/s": 1e9, "Mbit/s": 1e6 / 8, "Gbit/s": 1e9 / 8, "MiB/s": 2.0**20, "GiB/s": 2.0**30,
    },
    "bytes": {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 2.0**20, "GiB": 2.0**30},
    "operations per second": {"GFLOP/s": 1e9, "TFLOP/s": 1e12, "PFLOP/s": 1e15},
    "a share": {"%": 1e-2, "": 1.0},
    "times as fast": {"%": 1e-2, "": 1.0},
    "images per second": {"/s": 1.0, "": 1.0},
}  # fmt: skip
EXAMPLES = {
    "seconds": "20us", "bytes per second": "25 GB/s or 1 Gbit/s", "bytes": "16 GB", "operations per second": "30 TFLOP/s",
    "a share": "3 %", "times as fast": "1.5", "images per second": "2000/s",
}  # fmt: skip
MICRO, MU = "\u00b5", "\u03bc"  # keyboards have either
RANGES: dict[str, tuple[float, float, str]] = {  # beyond them is a slip of the pen, and arithmetic that overflows
    "seconds": (0.0, 60.0, "from 0 to 60 s"),
    "bytes per second": (1e3, 1e15, "from 0.001 MB/s to 1,000,000 GB/s"),
    "bytes": (1e6, 1e15, "from 1 MB to 1,000 TB"),
    "operations per second": (1e6, 1e18, "from 0.001 GFLOP/s to 1,000 PFLOP/s"),
    "a share": (0.0, 1.5, "from 0 to 150 %"),
    "times as fast": (1e-3, 1e3, "from 0.001 to 1,000"),
    "images per second": (1e-3, 1e12, "from 0.001/s to 1e12/s"),
}
FIELDS = {  # what stands in each, where it is missing or something else
    "nodes": "2", "device": "kind: cpu, count: 2, speed: 1", "kind": "cpu", "count": "2", "achieved": "fp32: 8.7 TFLOP/s",
    "links": "within: {latency: 20us, bandwidth: 5 GB/s}", "within": "latency: 20us, bandwidth: 5 GB/s",
    "between": "latency: 0.2ms, bandwidth: 1 Gbit/s",
}  # fmt: skip
NOTHING = "tag:yaml.org,2002:null"  # what YAML calls an empty value
_NUMBER = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(\S*)\s*$")


@dataclass(frozen=True)
class Hop:
    """One message from a rank to the next: latency_s + bytes / bytes_per_s."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Device:
    """What one rank computes on."""

    kind: str = "cpu"
    name: str = ""
    memory_bytes: float = math.inf  # of a GPU; of CPUs, of a node, whose ranks share it
    flop_per_s: dict[str, float] = field(default_factory=dict)  # really achieved in training, by precision
    speed: float | None = None  # times as fast as the device that was measured here; None: by flop_per_s


@dataclass(frozen=True)
class Cluster:
    """Machines of one kind, `nodes` of them, with `devices` ranks each."""

    name: str
    nodes: int
    devices: int
    device: Device
    within: Hop  # between two ranks of a node
    between: Hop  # between two nodes: latency of a message, bandwidth of all of a node's adapters together
    spread: float = 0.0  # standard deviation of a rank's step time, relative
    contention: float = 0.0  # what each further busy rank of a node adds to the time of all of them, relative
    steals: float = 0.0  # seconds of computing that a second of sending takes from the rank: 1 where a core does both
    tensor_s: float = 0.0  # of preparing one gradient for sending: kernels to launch, copies to make
    overhead_s: float = 0.0  # of any collective, however small: the library's own work
    images_per_s: float = math.inf  # that a node's input can prepare, for all of its ranks
    source: str = ""
    cores: int | None = None  # that a node's ranks take turns at, where they are fewer than its ranks
    is_measured: bool = False  # here; else it is what a file says

    @property
    def ranks(self) -> int:
        return self.nodes * self.devices

    @property
    def memory_bytes(self) -> float:
        """That a rank can have."""
        return self.device.memory_bytes / (self.devices if self.device.kind == "cpu" else 1)

    @property
    def has_network(self) -> bool:
        """Whether anybody said what sending between its nodes costs."""
        return math.isfinite(self.between.bytes_per_s)

    def over(self, ranks: int) -> Cluster:
        """As many of its machines as `ranks` ranks take: the first node is filled first. The machine that was measured is one:
        further ranks take turns at its cores."""
        if ranks <= self.devices:
            return replace(self, nodes=1, devices=ranks)
        if self.is_measured:
            return replace(self, devices=ranks, cores=self.cores or self.devices)
        return replace(self, nodes=-(-ranks // self.devices))


def check_ranks(cluster: Cluster, ranks: Sequence[int]) -> None:
    """ConfigError where so many of a described cluster's ranks cannot be simulated, or would send over what nobody described."""
    most = max(ranks)
    if most > RANKS_MOST:
        raise ConfigError(
            f"{most:,} ranks of {cluster.name} are more than can be simulated; say fewer, at most {RANKS_MOST:,}, with --ranks"
        )
    if most > cluster.devices and not cluster.is_measured and not cluster.has_network:
        nodes = cluster.over(most).nodes
        raise ConfigError(
            f"{most:,} ranks take {nodes:,} nodes of {cluster.name}, whose file does not say what lies between nodes; add "
            f"links.between, such as {{latency: {EXAMPLES['seconds']}, bandwidth: 25 GB/s}}, or use --ranks {cluster.devices} "
            "or fewer"
        )


def presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read(name: str | Path) -> Cluster:
    """The cluster of a file, or of a preset's name. ConfigError, with the line, where it says what cannot be."""
    text = str(name)
    path = Path(name)
    if not path.suffix and (not text or not os.path.exists(path)):  # Path's own raises where a name is too long
        if text not in presets():
            raise ConfigError(
                f"--cluster {shown(text)!r} is neither a file nor a preset; presets: {', '.join(presets())}."
                f"{near(text, presets())}"
            )
        path = PRESETS / f"{text}.yaml"
    try:
        with path.open(encoding="utf-8") as file:
            written = file.read(LETTERS_MOST + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the cluster file {shown(text, letters=200)}: {error.strerror}; name a YAML file as docs/plan.md "
            f"shows, or a preset: {', '.join(presets())}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"the cluster file {path} is not text in UTF-8; save it as UTF-8, or name another") from None
    if len(written) > LETTERS_MOST:
        raise ConfigError(
            f"the cluster file {shown(text, letters=200)} has more than {LETTERS_MOST:,} letters, and one needs a few hundred: "
            "is it another file? docs/plan.md shows what belongs in it"
        )
    return parse(written, where=path.name if path.parent == PRESETS else str(path))


def parse(text: str, *, where: str) -> Cluster:
    """The cluster that `text` describes; `where` names it in errors."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
        at = mark.line if mark else text.count("\n", 0, position) if isinstance(position, int) else None
        line = "" if at is None else f" line {at + 1}"
        raise ConfigError(f"{where}{line}: not YAML: {_problem(error)}; docs/plan.md shows a file") from None
    if root is None or (root.tag == NOTHING and root.value in ("", "~", "null")):
        raise ConfigError(f"{where} is empty; say nodes, device and links, as docs/plan.md shows")
    return _cluster(_Section(root, where=where, path=""))


def _problem(error: Exception) -> str:
    """What a YAML reader found, in one line of words that say what to do where they can."""
    if isinstance(error, RecursionError):
        return "brackets in brackets, too deep to read"
    told = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    words = " ".join(str(told).split())
    return "a tab before a field; indent with spaces" if "'\\t'" in words else words


def _got(node: Any) -> str:
    """What stands where something else should."""
    if isinstance(node.value, str):
        return repr(shown(node.value)) if node.value else "nothing"
    return "a list" if node.id == "sequence" else "fields"


class _Section:
    """A mapping of the file, whose values know their lines."""

    def __init__(self, node: Any, *, where: str, path: str):
        import yaml

        self.where, self.path, self.line = where, path, node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            such = FIELDS[path.rpartition(".")[2]] if path else "nodes: 2"
            raise self.error("", f"should hold fields such as `{such}`, got {_got(node)}")
        self.nodes: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key.value, str):
                raise self.error("", f"has {_got(key)} as a field's name", line=key.start_mark.line + 1)
            name = key.value
            if name in self.nodes:
                raise self.error(name, "stands there twice; leave one out", line=key.start_mark.line + 1)
            self.nodes[name] = value
            self.keys = {**getattr(self, "keys", {}), name: key.start_mark.line + 1}

    def error(self, name: str, words: str, *, line: int | None = None) -> ConfigError:
        full = ".".join(part for part in (self.path, shown(name)) if part)
        at = line or (self.nodes[name].start_mark.line + 1 if name in getattr(self, "nodes", {}) else self.line)
        return ConfigError(f"{self.where} line {at}: {full + ' ' if full else ''}{words}")

    def known(self, *names: str) -> None:
        """ConfigError for a field that is not one of `names`."""
        for name in self.nodes:
            if name not in names:
                raise self.error(
                    name, f"is unknown; fields: {', '.join(names)}.{near(name, names)}", line=self.keys[name]
                )

    def section(self, name: str) -> _Section:
        if name not in self.nodes:
            raise self.error(name, f"is missing; such as {name}: {{{FIELDS[name]}}}")
        return _Section(self.nodes[name], where=self.where, path=f"{self.path}.{name}".lstrip("."))

    def text(self, name: str, default: str | None = None, *, most: int = LETTERS_MOST) -> str:
        if name not in self.nodes:
            if default is None:
                raise self.error(name, f"is missing; such as {name}: {FIELDS[name]}")
            return default
        value = self.nodes[name].value
        if not isinstance(value, str) or not value.strip().isprintable():
            raise self.error(name, f"should be one line of text, got {_got(self.nodes[name])}")
        if len(value) > most:
            raise self.error(name, f"is {len(value):,} letters long; it can be at most {most:,}")
        return value.strip() or default or ""

    def whole(self, name: str) -> int:
        value = self.text(name)
        if not value.isdecimal() or len(value) > 7 or not 1 <= int(value) <= 1_000_000:
            raise self.error(name, f"is {shown(value)!r}; it counts, so a whole number from 1 to 1,000,000")
        return int(value)

    def number(self, name: str, unit: str, default: float | None = None) -> float:
        """A number with its unit, in the unit's base."""
        if name not in self.nodes and default is not None:
            return default
        value = self.text(name)
        found = _NUMBER.match(value)
        try:
            size = float(found.group(1)) if found else math.nan
        except ValueError:
            size = math.nan
        factor = UNITS[unit].get(found.group(2).replace(MU, MICRO)) if found else None
        least, most, words = RANGES[unit]
        if factor is None or not least <= size * factor <= most:  # also where it is no number
            kinds = f" and with a unit ({', '.join(UNITS[unit])})" if "" not in UNITS[unit] else ""
            raise self.error(
                name, f"is {shown(value)!r}; it should be {unit}, {words}{kinds}, such as {EXAMPLES[unit]}"
            )
        return size * factor


def _cluster(top: _Section) -> Cluster:
    top.known(
        "name",
        "nodes",
        "device",
        "links",
        "spread",
        "contention",
        "steals",
        "per_tensor",
        "overhead",
        "input",
        "source",
    )
    device = top.section("device")
    device.known("kind", "name", "count", "memory", "achieved", "speed")
    kind = device.text("kind")
    if kind not in KINDS:
        raise device.error("kind", f"is {shown(kind)!r}; use {' or '.join(KINDS)}.{near(kind, KINDS)}")
    achieved: dict[str, float] = {}
    if "achieved" in device.nodes:
        table = device.section("achieved")
        table.known("fp32", "bf16", "fp16")
        achieved = {name: table.number(name, "operations per second") for name in table.nodes}
    if ("speed" in device.nodes) == bool(achieved):
        how = "both speed and achieved; leave one out" if achieved else "neither speed nor achieved; add one"
        raise device.error(
            "",
            f"says {how}: speed: 1 is as fast as this machine, achieved: {{fp32: 8.7 TFLOP/s}} what it reaches in training",
        )
    links = top.section("links")
    links.known("within", "between")
    nodes = top.whole("nodes")
    count = device.whole("count")
    if nodes > 1 and "between" not in links.nodes:
        raise links.error("between", f"is missing, and there are {nodes} nodes; say its latency and bandwidth")
    if count > 1 and "within" not in links.nodes:
        raise links.error("within", f"is missing, and a node has {count} devices; say its latency and bandwidth")
    hops = {name: _hop(links.section(name)) for name in links.nodes}
    nothing = Hop(0.0, math.inf)
    speed = device.number("speed", "times as fast") if "speed" in device.nodes else None
    share: Callable[..., float] = lambda name: top.number(name, "a share", 0.0)  # noqa: E731
    return Cluster(
        top.text("name", top.where, most=NAME_MOST), nodes, count,
        Device(kind, device.text("name", "", most=NAME_MOST), device.number("memory", "bytes", math.inf), achieved, speed),
        within=hops.get("within") or hops.get("between") or nothing, between=hops.get("between") or nothing,
        spread=share("spread"), contention=share("contention"), steals=share("steals"),
        tensor_s=top.number("per_tensor", "seconds", 0.0),
        overhead_s=top.number("overhead", "seconds", 0.0),
        images_per_s=top.number("input", "images per second", math.inf), source=top.text("source", "", most=SOURCE_MOST),
    )  # fmt: skip


def _hop(link: _Section) -> Hop:
    link.known("latency", "bandwidth")
    for name in ("latency", "bandwidth"):
        if name not in link.nodes:
            raise link.error(
                name, f"is missing; such as {name}: {EXAMPLES['seconds' if name == 'latency' else 'bytes per second']}"
            )
    return Hop(link.number("latency", "seconds"), link.number("bandwidth", "bytes per second"))
