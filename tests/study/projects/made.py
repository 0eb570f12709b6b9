"""A recipe, and studies of its parts as far as a comparison looks."""

import copy
from typing import Any

from fanlight.study.projects import beside, recipe

GOOD: dict[str, Any] = {
    "title": "Photos", "config": {"data": {"image_px": 64}},
    "parts": {
        "training": {"of": "layouts", "layouts": ["ddp"], "ranks": [2], "config": {"model": {"name": "resnet18"}}},
        "loading": {"of": "loading", "workers": [1, 2]},
    },
    "comparisons": [
        {"title": "Epochs", "unit": "s", "part": "training", "layout": "ddp", "why": "another  machine",
         "cases": [
             {"case": "one", "reported": 100, "layout": "serial", "cores": 1}, {"case": "two", "reported": 80, "ranks": 2},
         ]},
    ],
    "lacking": [{"what": "more", "why": "time", "from": "later"}],
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one place of it changed; `...` takes it away."""
    made = copy.deepcopy(GOOD)
    *above, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    place: Any = made
    for part in above:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


def point(
    name: str, layout: str, rate: float, *, ranks: int = 1, cores: int = 1, device: str = "cpu", **more: Any
) -> dict[str, Any]:
    """Of points.json, as far as a comparison looks."""
    return {
        "name": name, "layout": layout, "ranks": ranks, "cores": cores, "device": device, "precision": "fp32",
        "images_per_s": rate, "interval": [rate - 1, rate + 1], "speedup": rate / 10, "accuracy": 0.5, "accuracy_interval": None,
        "status": "measured", "reason": "", "over": {}, "n": 3, "speedup_interval": None,
        "shares": {"compute": 1.0}, "unexplained": 0.0, "work": None, **more,
    }  # fmt: skip


def row(what: str, rate: float, *, engine: str = "Pool.imap", workers: int = 1, **more: Any) -> dict[str, Any]:
    """Of a study of loading."""
    return {
        "what": what, "engine": engine, "workers": workers, "images_per_s": rate, "interval": [rate - 1, rate + 1],
        "speedup": 1.0, "speedup_interval": [0.2, 0.3], "n": 3, **more,
    }  # fmt: skip


def over(name: str, cores: int, value: float, interval: list[float] | None, *, n: int = 3) -> dict[str, Any]:
    """A point's ratio to one of its baselines."""
    return {"point": name, "cores": cores, "value": value, "interval": interval, "n": n}


def became(*points: dict[str, Any], cores: int = 2) -> dict[str, Any]:
    return {"of": "layouts", "status": "measured", "reason": "",
            "result": {"points": list(points), "machine": {"cores_usable": cores}}}  # fmt: skip


def loaded(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"of": "loading", "status": "measured", "reason": "",
            "result": {"rows": list(rows), "machine": {"cores_usable": 2}}}  # fmt: skip


def compared(*points: dict[str, Any]) -> dict[str, Any]:
    parts = {"training": became(*points), "loading": became()}
    return beside.compare(recipe.parse(GOOD, name="photos"), parts)[0]


ONE, TWO = point("serial-1core-fp32", "serial", 10.0), point("ddp-2-fp32", "ddp", 18.0, ranks=2, cores=2)
