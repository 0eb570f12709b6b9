"""The starts of a study: a study that is continued goes on where and with what it was begun, or not at all, since rounds are
compared with each other. Each start is kept in study.json. Reading them imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fanlight import __version__, machine
from fanlight.errors import ConfigError
from fanlight.parallel import affinity

KEYS = ("started", "command", "machine", "versions", "fanlight")
SAME = {  # what decides a rate, in words; by section and key of a start
    ("machine", "cpu"): "the processor", ("machine", "cores_usable"): "usable cores", ("versions", "gpu"): "the GPU",
    ("versions", "gpus"): "visible GPUs", ("versions", "torch"): "torch",
}  # fmt: skip
Doc = dict[str, Any]


def now(*, command: str, gpus: int) -> Doc:
    """This start."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"), "command": command,
        "machine": machine.describe() | {"unbound": affinity.unbound()}, "versions": _versions(gpus), "fanlight": __version__,
    }  # fmt: skip


def of(plan: Mapping[str, Any]) -> list[Doc]:
    """All starts of a study, the first one first. One that was begun before they were kept has the first alone."""
    return list(plan.get("sessions") or [{key: plan[key] for key in KEYS}])


def check(plan: Mapping[str, Any], start: Mapping[str, Any], *, study: Path) -> None:
    """ConfigError where this machine or its torch is another than the study's, which names what differs."""
    first = of(plan)[0]
    if "gpu" in first["versions"] and "gpus" not in first["versions"]:  # begun before their number was kept
        start = {**start, "versions": {key: value for key, value in start["versions"].items() if key != "gpus"}}
    differs = [
        f"{words}: {_said(before)} then, {_said(here)} now"
        for (section, key), words in SAME.items()
        if (before := first[section].get(key)) != (here := start[section].get(key))
    ]
    if differs:
        raise ConfigError(
            f"--resume {study} was measured elsewhere, and rounds of both cannot be compared ({'; '.join(differs)}); continue it "
            "there, or begin a study of this machine with --out"
        )


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def _versions(gpus: int) -> Doc:
    import numpy
    import timm
    import torch

    found = {"torch": torch.__version__, "timm": timm.__version__, "numpy": numpy.__version__}
    return found | ({"gpu": torch.cuda.get_device_name(0), "gpus": gpus} if gpus else {})
