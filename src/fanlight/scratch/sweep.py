"""What filter sizes and layers are worth: a network's variants trained one after the other, each an ordinary run, in one table.

A stage is a convolution with what follows it, up to the next one. A variant has the first n stages, or the last one again
without its pooling; its kernels are all of one size, with padding where the network had half of its own.

sweep.json   what was planned, and a row for each network that is through; config.yaml beside it is what all have in common
k3-l2/       the run of the network with kernels of 3 × 3 and 2 convolutions
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fanlight import config as configuration
from fanlight import console, machine
from fanlight.config import Config
from fanlight.data import checkup
from fanlight.errors import ConfigError, DiskError, FanlightError, RunError, Stopped
from fanlight.models import line
from fanlight.models.line import Conv, Dense, Layer, Line, Pool
from fanlight.parallel import launch
from fanlight.scratch import train
from fanlight.train import checks, finish, folder, memory

VERSION, RESULT = 1, "sweep.json"
COLUMNS = (
    "kernel", "layers", "net", "parameters", "accuracy", "interval", "train_s", "images_per_s", "planned_bytes",
    "peak_rss_bytes", "run", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A network of a sweep: its kernel size, its number of convolutions, and the line."""

    kernel: int
    layers: int
    net: Line


def variants(net: Line, *, kernels: Sequence[int], layers: Sequence[int]) -> list[Variant]:
    """Every kernel size with every number of stages, in that order. ConfigError for a network without convolutions."""
    stages, tail = _stages(net)
    if not stages:
        raise ConfigError(f"--sweep varies convolutions, and '{net}' has none outside of blocks; give another --net")
    found = []
    for kernel in kernels:
        for count in layers:
            again = [layer for layer in stages[-1] if not isinstance(layer, Pool)]
            chosen = [*stages[:count], *[again] * (count - len(stages))]
            body = [_with_kernel(layer, kernel) for stage in chosen for layer in stage]
            found.append(Variant(kernel, count, line.parse(" ".join(map(str, [*body, *tail])))))
    return found


def _stages(net: Line) -> tuple[list[list[Layer]], list[Layer]]:
    """Convolutions with what follows each, and the rest from the first dense layer on."""
    first = next(index for index, layer in enumerate(net.layers) if isinstance(layer, Dense))
    stages: list[list[Layer]] = []
    before: list[Layer] = []
    for layer in net.layers[:first]:
        if isinstance(layer, Conv):
            stages.append([*before, layer] if not stages else [layer])
        elif stages:
            stages[-1].append(layer)
        else:
            before.append(layer)
    return stages, list(net.layers[first:])


def _with_kernel(layer: Layer, kernel: int) -> Layer:
    if not isinstance(layer, Conv):
        return layer
    is_padded = layer.padding and layer.padding == layer.dilation * (layer.kernel // 2)
    return replace(layer, kernel=kernel, padding=layer.dilation * (kernel // 2) if is_padded else layer.padding)


def sweep(
    config: Config, *, net: str, backend: str, kernels: Sequence[int], layers: Sequence[int], out: Path | None,
    command: str, entered: Callable[[], float],
) -> dict[str, Any]:  # fmt: skip
    """Trains every variant into a folder of its own below `out`, and writes sweep.csv, sweep.md and sweep.json there after each;
    the JSON object of `scratch train --sweep --json`. A network that the images do not fit is a row that says so."""
    if launch.joined():
        raise ConfigError("--sweep trains one network after the other; start it without a launcher, and give --ranks N")
    todo = variants(line.of(net), kernels=kernels, layers=layers)
    folder.check_out(out)
    config = train.of(config.with_value("execution.report", False), net=net, backend=backend)
    checks.check(config)
    images = _images(config)  # images that are none would be so for every network
    place = folder.create(config.data.path, "sweep", out=out)
    document: dict[str, Any] = {
        "version": VERSION, "sweep": str(place), "data": config.data.path, "net": net, "backend": config.execution.backend,
        "command": command, "machine": machine.describe(), "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": images, "rows": [],
        "planned": [{"kernel": each.kernel, "layers": each.layers, "net": str(each.net)} for each in todo],
    }  # fmt: skip
    with folder.locked(place):
        configuration.write(place / "config.yaml", config)
        write(place, document)
        return _train_all(config, place, document, entered=entered)


def resume(place: Path, *, entered: Callable[[], float]) -> dict[str, Any]:
    """Goes on with the sweep in `place`, as it was begun: a network that has a row keeps it, one that was being trained goes on
    from its newest checkpoint, the others follow. RunError where it is no sweep, or its images are others now."""
    if launch.joined():
        raise ConfigError("a sweep trains one network after the other; continue it without a launcher")
    with folder.locked(place):
        document, config = read(place), configuration.read(place / "config.yaml")
        checks.check(config)  # this may be another machine
        if _images(config) != document["images"]:
            raise RunError(
                f"the images of {config.data.path} are not those that {place} began with, and its networks would not be "
                "compared on the same; put them back, or begin another sweep"
            )
        document["sweep"] = str(place)
        console.say(f"Continuing {place}: {len(document['rows'])} of {len(document['planned'])} networks are through")
        return _train_all(config, place, document, entered=entered)


def _images(config: Config) -> str:
    """Names the data set."""
    return checkup.up_to_date(config.data.path, decode=False).fingerprint


def _train_all(
    config: Config, place: Path, document: dict[str, Any], *, entered: Callable[[], float]
) -> dict[str, Any]:
    """Trains what was planned and has no row."""
    rows, planned = document["rows"], document["planned"]
    for number, each in enumerate(planned):
        if any((row["kernel"], row["layers"]) == (each["kernel"], each["layers"]) for row in rows):
            continue
        console.say(f"\n{number + 1} of {len(planned)}: {each['net']}")
        row = dict.fromkeys(COLUMNS) | each
        memory.forget_peak(torch.device("cpu"))
        try:
            run = place / f"k{each['kernel']}-l{each['layers']}"
            found = _trained(config.with_value("model.name", each["net"]), run, document["command"], entered=entered)
        except Stopped:
            raise Stopped(
                f"stopped at network {number + 1} of {len(planned)}; those before it are in {place}/sweep.md. Continue with: "
                f"fanlight scratch train --resume {shlex.quote(str(place))}"
            ) from None
        except (DiskError, RunError):  # of the disk or the folder, and of no network: the others would meet it too
            raise
        except FanlightError as error:
            row["reason"] = str(error).splitlines()[0]
            console.say(f"  left out: {row['reason']}")
        else:
            scores = found["metrics"].get("test") or found["metrics"].get("val") or {}
            row |= {key: found[key] for key in COLUMNS if key in found}
            row |= {"accuracy": scores.get("accuracy"), "interval": scores.get("interval")}
        rows.append(row)
        write(place, document)
    if all(row["reason"] for row in rows):
        raise ConfigError(
            f"no network of the sweep could be trained, and {place}/sweep.md says why; the first: {rows[0]['reason']}"
        )
    write(place, document)  # a kill may have come between its three files
    console.say(f"\n{table(rows)}\nSweep: {place}/sweep.md, sweep.csv, sweep.json")
    return document


def _trained(config: Config, run: Path, command: str, *, entered: Callable[[], float]) -> dict[str, Any]:
    """What came of the network in folder `run`: of a new run, of the rest of one that was cut short, of one that is through."""
    how: dict[str, Any] = {"command": command, "report": lambda run: run}
    summary = folder.read_summary(run) if (run / "run.json").exists() else {}
    keys = (*finish.KEYS, *train.KEYS)
    if summary.get("status") == "finished" and all(key in summary for key in keys if key != "run"):
        return {**{key: summary[key] for key in keys if key != "run"}, "run": str(run), "net": summary["model"]}
    if summary and summary.get("status") != "finished":
        return train.train(Config(), out=None, resume=str(run), entered=entered(), **how)
    if run.exists():  # killed before its description was whole, or between its last two lines
        shutil.rmtree(run)
    return train.train(config, out=run, resume=None, entered=entered(), **how)


def read(place: Path) -> dict[str, Any]:
    """sweep.json. RunError where there is none that can be read."""
    try:
        document = json.loads((place / RESULT).read_text(encoding="utf-8"))
        found = document["version"], document["rows"], document["planned"], document["images"], document["command"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{place} has no readable {RESULT} to go on from; begin anew with --sweep") from None
    if found[0] != VERSION:
        raise RunError(
            f"{place / RESULT} has version {found[0]!r}, this Fanlight reads {VERSION}; use the one that wrote it"
        )
    return document


def write(place: Path, document: dict[str, Any]) -> None:
    """The rows so far, in three formats; the first, of which a sweep goes on, whole or not at all."""
    part = place / f"{RESULT}.part"
    part.write_text(json.dumps(document, indent=1), encoding="utf-8")
    part.rename(place / RESULT)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["kernel", "layers", "net", "parameters", "accuracy", "low", "high", *COLUMNS[6:]])
    for row in document["rows"]:
        writer.writerow(
            [row[key] for key in COLUMNS[:5]] + list(row["interval"] or ("", "")) + [row[key] for key in COLUMNS[6:]]
        )
    (place / "sweep.csv").write_text(text.getvalue(), encoding="utf-8")
    facts = document["machine"]
    heading = (
        f"# Filter sizes and layers on {document['data']}\n\n{facts['cpu']}, {facts['cores_usable']} usable cores; backend "
        f"{document['backend']}; {document['started']}; n = 1 run each\n\n`{document['command']}`\n"
    )
    (place / "sweep.md").write_text(f"{heading}\n{table(document['rows'])}\n", encoding="utf-8")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; a row that was not trained says why."""
    lines = [
        "| kernel | layers | parameters | accuracy | 95 % | training | images/s | arrays | memory | network |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        if row["reason"]:
            lines.append(f"| {row['kernel']} | {row['layers']} | {'– | ' * 7}`{row['net']}`: {row['reason']} |")
            continue
        interval = "–" if row["interval"] is None else "{:.3f} … {:.3f}".format(*row["interval"])
        accuracy = "–" if row["accuracy"] is None else f"{row['accuracy']:.4f}"
        rate = "–" if row["images_per_s"] is None else f"{row['images_per_s']:.0f}"
        planned = "–" if row["planned_bytes"] is None else console.bytes_text(row["planned_bytes"])
        lines.append(
            f"| {row['kernel']} | {row['layers']} | {row['parameters']:,} | {accuracy} | {interval} | "
            f"{console.seconds_text(row['train_s'])} | {rate} | {planned} | "
            f"{console.bytes_text(row['peak_rss_bytes'])} | `{row['net']}` |"
        )
    return "\n".join(lines)
