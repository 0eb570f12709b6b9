"""What a reference project reported, beside what was measured here. Arithmetic and words only; no torch.

A case of a study of layouts selects a point by `layout`, `ranks`, `cores` (a number, or `all` of one process), `precision`
(`mixed`: bf16 or fp16) and `device`, and is beside the fastest of those that fit; where the device is open, several GPUs come
before cores, and cores before one GPU. One of loading selects a row by `what`, `engine` and `workers` (`most`: the most that
were measured).

Ratios are how many times as fast as the first case that has a figure, theirs and ours each over its own; ours only of the same
device and number format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.study.layouts import verdict
from fanlight.study.loading.points import ROUNDS_LEAST
from fanlight.study.projects.recipe import SCORES, Case, Comparison, Recipe

VERSION = 2  # of project.json
MIXED = ("bf16", "fp16")
Doc = dict[str, Any]


def compare(recipe: Recipe, parts: Mapping[str, Doc]) -> list[Doc]:
    """Every comparison with its cases. `parts`: what became of each, {status, reason, result}."""
    return [_comparison(each, parts) for each in recipe.comparisons]


def _comparison(asked: Comparison, parts: Mapping[str, Doc]) -> Doc:
    cases = [_case(case, asked.unit, parts) for case in asked.cases]
    first = next((case for case in cases if asked.unit == "s" and case["reported"] is not None), None)
    base = next((case for case in cases if case["rate"] is not None), None)
    for case in cases:
        if asked.unit == "ratio":
            case["reported_ratio"] = case["reported"]
            case["ratio"], case["ratio_interval"] = case["speedup"], case["speedup_interval"]
        elif asked.unit == "s":
            if first is not None and case["reported"]:
                case["reported_ratio"] = first["reported"] / case["reported"]
            if base is not None and case["rate"] is not None and case["kind"] == base["kind"]:
                case["ratio"], case["ratio_interval"] = _over(case, base)
    found = {"title": asked.title, "unit": asked.unit, "why": asked.why, "cases": cases}
    return found | {
        "base": first and first["case"],
        "base_here": base and base["here"],
        "causes": _causes(asked, cases, parts),
    }


def _over(case: Doc, base: Doc) -> tuple[float, list[float] | None]:
    """How many times as fast as `base`, and between what. Of paired rounds, where the study has that ratio; else of both
    rates, with the widest interval that theirs allow."""
    if case is base:
        return 1.0, None
    if (paired := next((each for each in case["over"].values() if each["point"] == base["here"]), None)) is not None:
        return paired["value"], paired["interval"]
    value = case["rate"] / base["rate"]
    if case["interval"] is None or base["interval"] is None or _is_few(case) or _is_few(base):
        return value, None
    (low, high), (base_low, base_high) = case["interval"], base["interval"]
    return value, [low / base_high, high / base_low]


def _case(case: Case, unit: str, parts: Mapping[str, Doc]) -> Doc:
    made: Doc = {
        "case": case.case, "part": case.selects["part"], "reported": case.reported, "status": "lacking", "reason": case.lacks,
        **dict.fromkeys((
            "reported_ratio", "here", "layout", "rate", "interval", "n", "ratio", "ratio_interval", "speedup",
            "speedup_interval", *(f"{score}{end}" for score in SCORES for end in ("", "_interval")),
        )), "over": {}, "kind": "", "note": "",
    }  # fmt: skip
    if case.lacks:
        return made
    part = parts[case.selects["part"]]
    if part["result"] is None:
        return made | {"status": part["status"], "reason": part["reason"]}
    is_point = part["of"] == "layouts"
    found, reason = _point(case.selects, part["result"]) if is_point else _row(case.selects, part)
    if found is None:
        return made | {"status": "not measured", "reason": reason}
    made |= {key: found[key] for key in ("interval", "n", "speedup", "speedup_interval")}
    made |= {"here": found["name"] if is_point else _name(found), "status": "measured", "rate": found["images_per_s"]}
    if not is_point:
        return made | {"speedup_interval": None if _is_few(made) else found["speedup_interval"]}
    made |= {f"{score}{end}": found.get(f"{score}{end}") for score in SCORES for end in ("", "_interval")}
    made |= {key: found[key] for key in ("layout", "over")}
    made["kind"] = f"{found['device']} {found['precision']}"
    if unit in SCORES:
        made |= {"rate": None, "note": " ".join(part.get("notes", ()))}  # such as: weights were drawn
    return made


def _is_few(case: Doc) -> bool:
    """Whether it is of so few rounds of loading that the least and the greatest of them say nothing about the next."""
    return case["layout"] is None and case["n"] < ROUNDS_LEAST


def _point(selects: Mapping[str, Any], study: Doc) -> tuple[Doc | None, str]:
    """The point that a case is beside, or why there is none."""
    wanted = selects.get("precision", "fp32")
    precisions = MIXED if wanted == "mixed" else (wanted,)
    device = selects.get("device") or _device(study)
    found = [
        point for point in study["points"]
        if point["layout"] == selects.get("layout", "serial") and point["precision"] in precisions
        and point["device"] == device and selects.get("ranks") in (None, point["ranks"])
        and _has_cores(point, selects.get("cores"), study)
    ]  # fmt: skip
    measured = [point for point in found if point["status"] == "measured"]
    if measured:
        return max(measured, key=lambda point: point["images_per_s"]), ""
    if found:
        return None, f"{found[0]['name']}: {found[0]['reason'] or found[0]['status']}"
    if device == "cuda" and not any(point["device"] == "cuda" and not point["reason"] for point in study["points"]):
        return None, next(
            (p["reason"] for p in study["points"] if p["device"] == "cuda" and p["layout"] == "serial"),
            "only CPUs were studied",
        )
    what = ", ".join(f"{key} {value}" for key, value in selects.items() if key != "part")
    cores = study["machine"]["cores_usable"]
    return None, f"no such point ({what}): this machine has {cores} core{'s' * (cores != 1)}"


def _device(study: Doc) -> str:
    """Where cases are looked for that name no device."""
    measured = [point for point in study["points"] if point["status"] == "measured"]
    has_cpu = any(point["device"] == "cpu" for point in measured)
    return "cuda" if any(p["device"] == "cuda" and (p["cores"] > 1 or not has_cpu) for p in measured) else "cpu"


def _has_cores(point: Doc, wanted: Any, study: Doc) -> bool:
    if wanted == "all":
        return point["device"] == "cuda" or point["cores"] == study["machine"]["cores_usable"]
    return wanted in (None, point["cores"])


def _row(selects: Mapping[str, Any], part: Doc) -> tuple[Doc | None, str]:
    """The row of a study of loading that a case is beside, or why there is none."""
    found = [
        row for row in part["result"]["rows"]
        if row["what"] == selects.get("what") and row["engine"] == selects.get("engine")
    ]  # fmt: skip
    wanted = selects.get("workers", "most")
    if wanted == "most":
        return max(found, key=lambda row: row["workers"], default=None), _absent(selects)
    exact = next((row for row in found if row["workers"] == wanted), None)
    cores = part["result"]["machine"]["cores_usable"]
    if wanted > cores:
        return exact, f"{wanted} workers take a core each, and {cores} can be used"
    return exact, _absent(selects)


def _absent(selects: Mapping[str, Any]) -> str:
    return f"{selects.get('engine')} for {selects.get('what')} was not measured"


def _name(row: Doc) -> str:
    return f"{row['what']}, {row['engine']}, {row['workers']} worker{'s' * (row['workers'] != 1)}"


def _causes(asked: Comparison, cases: Sequence[Doc], parts: Mapping[str, Doc]) -> list[str]:
    """What the study itself says of the parallel points among the cases, its measured causes."""
    said: dict[str, None] = {}
    for case in cases:
        part = parts[case["part"]]
        if asked.unit in SCORES or part["result"] is None or part["of"] != "layouts":
            continue
        for point in part["result"]["points"]:
            if point["name"] == case["here"] and point["layout"] != "serial":
                said[verdict.explain(point)] = None
    return list(said)
