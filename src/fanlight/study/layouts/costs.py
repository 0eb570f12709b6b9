"""What a study's points take of energy, and what an hour's price makes of their times. J joules, W watts. No torch.

Energy is what the counters of whole packages and GPUs say of the steady steps (fanlight.energy): other programs and idle cores
are in it, so a point on one core pays for its package's idle power as well. Costs are time × price, whatever a point uses of the
machine, since a machine is rented whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.energy import MEMORY, PACKAGE
from fanlight.errors import ConfigError
from fanlight.study import stats
from fanlight.study.layouts import intervals
from fanlight.study.stats import Estimate

Doc = dict[str, Any]
NOT_KEPT = "it was measured by a Fanlight that did not read counters"
COLUMNS = {  # of points.csv, where there is any
    "energy": ("j_per_image", "j_per_image_low", "j_per_image_high", "mean_w", "mean_w_low", "mean_w_high"),
    "cost": ("cost_epoch", "cost_epoch_low", "cost_epoch_high", "cost_1000", "cost_1000_low", "cost_1000_high"),
}
PRICE_MOST = 1e12  # of an hour: more is a slip of the pen, and an epoch's cost would be no number
KINDS = {"cpu": "processors", "gpu": "GPUs"}


def check_price(price: float | None) -> None:
    """ConfigError for what is no price of an hour."""
    if price is not None and not 0 < price <= PRICE_MOST:
        raise ConfigError(
            f"--price {price:g}: say what this machine costs per hour, in any currency, such as 3.2; or leave it out"
        )


def of(own: Sequence[Doc], rate: Estimate, *, price: float | None) -> Doc:
    """`energy` and `cost` of a point by its rounds and its rate in images per second."""
    cost = None
    if price is not None:
        images = next((row["train_images"] for row in own if row["train_images"]), None)
        cost = {
            "epoch": None, "epoch_interval": None,
            "per_1000_images": _cost(rate.value, 1000, price), "interval": _ends(rate, 1000, price),
        }  # fmt: skip
        if images is not None:
            cost |= {"epoch": _cost(rate.value, images, price), "epoch_interval": _ends(rate, images, price)}
    return {"energy": _energy([row["energy"] for row in own]), "cost": cost}


def overall(points: Sequence[Doc]) -> Doc:
    """`energy` of the study: what was counted, what was not and why; one reason alone where no point has any."""
    told = {point["name"]: point["energy"] for point in points if point.get("energy")}
    have = [each for each in told.values() if not each["reason"]]
    absent: dict[str, list[str]] = {}
    for name, each in told.items():
        if each["reason"]:
            absent.setdefault(each["reason"], []).append(name)
    if not have:
        return {"reason": "; ".join(absent) or "no point was measured"}
    lacking = {kind: reason for each in have for kind, reason in each["lacking"].items()}
    sources = sorted({source for each in have for source in each["sources"]})
    return {"reason": "", "sources": sources, "lacking": lacking, "absent": absent}


def words(study: Mapping[str, Any]) -> list[str]:
    """What is said once below a table that has energy or costs, or why it has none."""
    found = study.get("energy") or {"reason": NOT_KEPT}
    if found["reason"]:
        lines = [f"Energy was not measured: {found['reason']}."]
    else:
        lines = [
            f"Energy is of {', '.join(found['sources'])}, by their own counters, over the steady steps"
            f"{_memory(found['sources'])}. A counter counts its whole package or GPU, other programs and idle cores included: a "
            "point that computes on one core pays for the package's idle power as well. A point on CPUs pays for no GPU; one on "
            "GPUs for those that it computes on, and for the processors."
        ]
        lines += [f"Not in it are {KINDS[kind]}: {reason}." for kind, reason in found["lacking"].items()]
        lines += [f"No energy of {', '.join(names)}: {reason}." for reason, names in found["absent"].items()]
    if study.get("price") is not None:
        lines.append(
            f"Costs are of steady training alone, at {study['price']:g} per hour for the whole machine, whatever a point uses "
            "of it: time × price, in the currency of --price."
        )
    return lines


def _memory(sources: Sequence[str]) -> str:
    """Whether memory is in it, where processors are: most servers count it apart from them, other machines mostly not at all."""
    if not any(PACKAGE in source for source in sources):
        return ""
    counted = any(MEMORY in source for source in sources)
    return f" ({MEMORY} is memory)" if counted else ", without memory, of which there is no counter among them"


def has(points: Sequence[Doc]) -> dict[str, bool]:
    """Which of the two any point has."""
    told = [cells(point) for point in points]
    return {
        "energy": any(row["j_per_image"] is not None for row in told),
        "cost": any(row["cost_1000"] is not None for row in told),
    }


def cells(point: Mapping[str, Any]) -> Doc:
    """The columns of a point; None where it has none."""
    made: Doc = {name: None for names in COLUMNS.values() for name in names}
    energy, cost = point.get("energy") or {"reason": NOT_KEPT}, point.get("cost")
    if not energy["reason"]:
        made |= _named("j_per_image", energy["j_per_image"], energy["interval"])
        made |= _named("mean_w", energy["mean_w"], energy["mean_w_interval"])
    if cost is not None:
        made |= _named("cost_epoch", cost["epoch"], cost["epoch_interval"])
        made |= _named("cost_1000", cost["per_1000_images"], cost["interval"])
    return made


def amount(value: float | None) -> str:
    """A figure of any size in a table."""
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def columns(has: Mapping[str, bool]) -> list[str]:
    return [name for kind, names in COLUMNS.items() if has[kind] for name in names]


def _energy(rounds: Sequence[Doc]) -> Doc:
    """Of the rounds that have any from the same counters as the newest of them."""
    told = [each for each in rounds if not each.get("reason")]
    if not told:
        return {"reason": rounds[-1]["reason"]}
    sources = told[-1]["energy_j"].keys()
    told = [each for each in told if each["energy_j"].keys() == sources]
    per_image = stats.center([each["j_per_image"] for each in told], name="joules per image")
    watts = stats.center([each["mean_w"] for each in told], name="watts")
    return {
        "reason": "", "j_per_image": per_image.value, "interval": intervals.both(per_image), "mean_w": watts.value,
        "mean_w_interval": intervals.both(watts), "sources": sorted(sources), "lacking": told[-1]["lacking"], "n": len(told),
    }  # fmt: skip


def _cost(images_per_s: float, images: int, price: float) -> float:
    return images / images_per_s / 3600 * price


def _ends(rate: Estimate, images: int, price: float) -> list[float] | None:
    """The interval of a cost: the faster end of the rate costs less."""
    return None if rate.interval is None else [_cost(end, images, price) for end in reversed(rate.interval)]


def _named(name: str, value: float | None, interval: Sequence[float] | None) -> Doc:
    low, high = interval or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
