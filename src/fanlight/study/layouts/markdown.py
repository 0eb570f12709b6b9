"""The report of a study as Markdown, for a repository or a mail: what the page says, with its figures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.console import count_text, seconds_text
from fanlight.study.layouts.costs import amount
from fanlight.study.layouts.crosscheck import Pair

Doc = Mapping[str, Any]
MARKS = {each: f"\\{each}" for each in "\\`*_[]|#!"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}


def text(
    *, study: Doc, rows: Sequence[Doc], headline: Sequence[str], by_point: Sequence[str], flags: Doc, differs: Doc,
    absent: Sequence[tuple[Sequence[str], str, str]], captions: Doc, has: Doc, wide: str,
    rounds: int, beyond: Doc | None, beyond_words: str, costs: Sequence[str], before_words: str, one_unit: str,
    checked: Sequence[tuple[str, Sequence[Pair | None]]], checked_words: str, **_: Any,
) -> str:  # fmt: skip
    """The whole document; names are escaped."""
    machine, images = study["machine"], count_text(study["images"], "image")
    free = f"; ranks not bound to cores ({machine['unbound']})" if machine.get("unbound") else ""
    lines = [f"# Which parallelization pays on {plain(study['data'])}", ""]
    lines += [
        plain(
            f"{machine['cpu']}, {count_text(machine['cores_usable'], 'usable core')}{free}; {images}; {study['started']}"
        ),
        "",
    ]
    lines += [f"- {plain(line)}" for line in headline] + [""]
    lines += [f"- {plain(line)}" for line in by_point] + [""]
    head = ["point", "images/s", "95 %", f"speedup, {one_unit}", "over all cores", "efficiency"]
    head += ["serial fraction"] * has["serial_fraction"]
    head += ["device gain"] * has["device_gain"] + ["epoch"]
    head += ["J/image", "W"] * has["energy"] + ["cost of an epoch", "of 1000 images"] * has["cost"]
    head += ["accuracy", "gap", "n", "flags"]
    lines += _row(head) + _row(["---", *["--:"] * (len(head) - 2), "---"])
    for row in rows:
        if row["images_per_s"] is not None:
            lines += _row([plain(cell) for cell in _cells(row, has)])
    lines += ["", *(f"{plain(line)}\n" for line in costs)]
    if absent:
        lines += ["", *_row(["not measured", "status", "why"]), *_row(["---"] * 3)]
        for names, status, reason in absent:
            lines += _row([plain(", ".join(names)), plain(status), plain(reason)])
    lines += ["", *(f"- **{flag}**: {plain(words)}" for flag, words in flags.items()), ""]
    lines += (
        _shares(study)
        + _checked(checked, checked_words)
        + _before(rows, before_words)
        + _target(rows, study["target"])
        + _laws(study["fits"])
    )
    for name, words in captions.items():
        lines += [f"![{plain(name)}](figures/{name}.svg)", "", plain(words), ""]
    lines += _beyond(beyond, beyond_words) if beyond else []
    lines += ["## What is equal, and what differs", ""]
    lines += [f"- {plain(key)}: {plain(value)}" for key, value in study["equal"].items()]
    lines += [f"- different: {plain(what)}: {plain(', '.join(names))}" for what, names in differs.items()]
    versions = ", ".join(f"{name} {version}" for name, version in study["versions"].items())
    lines += ["", "## Repeat", "", *(f"    {line}" for line in str(study["command"]).splitlines()), ""]
    return "\n".join(
        [*lines, plain(f"{count_text(rounds, 'round')}; {wide}. Fanlight {study['fanlight']}, {versions}."), ""]
    )


def _shares(study: Doc) -> list[str]:
    """Where a step's time goes, in per cent of it."""
    measured = [point for point in study["points"] if point["shares"]]
    if not measured:
        return []
    lines = ["## Where the time goes, in % of a step", ""]
    lines += _row(["point", "step", *study["causes"], "unexplained"]) + _row(
        ["---", *["--:"] * (len(study["causes"]) + 2)]
    )
    for point in measured:
        parts = [*(point["shares"][cause] for cause in study["causes"]), point["unexplained"]]
        cells = [_percent(part) for part in parts]
        lines += _row([plain(point["name"]), f"{1e3 * point['step_s']:,.1f} ms", *cells])
    return [*lines, ""]


def _checked(checked: Sequence[tuple[str, Sequence[Pair | None]]], words: str) -> list[str]:
    """Timers and shares side by side."""
    if not checked:
        return []
    lines = [
        "## Timers beside shares",
        "",
        *_row(["point, timers / shares", "input", "waiting", "optimizer", "computing"]),
    ]
    lines += _row(["---", *["--:"] * 4])
    return [
        *lines,
        *(row for name, found in checked for row in _row([plain(name), *map(_both, found)])),
        "",
        plain(words),
        "",
    ]


def _both(pair: Pair | None) -> str:
    if pair is None:
        return "–"
    return f"{_percent(pair.timers)} / {_percent(pair.shares)}{' apart' * pair.apart}"


def _percent(share: float) -> str:
    said = f"{100 * share:.1f}"
    return "0.0" if said == "-0.0" else said


def _target(rows: Sequence[Doc], target: float | None) -> list[str]:
    """When each point reached the target accuracy, or why that is not known."""
    told = [(row["name"], row["to_accuracy"]) for row in rows if row["to_accuracy"]]
    if not told:
        return []
    lines = [
        f"## Seconds of training to accuracy {target}",
        "",
        *_row(["point", "median", "range", "seeds", "why not"]),
    ]
    lines += _row(["---", "--:", "--:", "--:", "---"])
    for name, found in told:
        median = "–" if found["median_s"] is None else seconds_text(found["median_s"])
        seeds = f"{found['reached']} of {found['of']}"
        lines += _row(
            [plain(cell) for cell in (name, median, _range(found["interval"], "{:,.1f} s"), seeds, found["reason"])]
        )
    return [*lines, ""]


def _laws(fits: Sequence[Doc]) -> list[str]:
    """Laws of scaling with their parameters, or the reason why there are none."""
    told = [fit for fit in fits if fit["layout"] != "serial" or fit["laws"]]
    if not told:
        return []
    lines = ["## Laws of scaling", ""]
    lines += _row(
        [
            "layout",
            "device",
            "precision",
            "cores or GPUs",
            "law",
            "parameters, 95 %",
            "off by",
            "which explains the points",
        ]
    )
    lines += _row(["---"] * 6 + ["--:", "---"])
    for fit in told:
        head = [fit["layout"], fit["device"], fit["precision"], ", ".join(map(str, fit["cores"]))]
        fitted = {law: about for law, about in fit["laws"].items() if not about["reason"]}
        for law, about in fitted.items():
            parts = [
                f"{name} {each['value']:.3g} ({_range(each['interval'], '{:.3g}')})"
                for name, each in about["parameters"].items()
            ]
            mark = f"{law}: " if fit["best"] == law else f"{law} is enough: " if fit["enough"] == law else ""
            cells = [*head, law, ", ".join(parts), f"{100 * about['off']:.1f} %", mark + fit["reason"]]
            lines += _row([plain(cell) for cell in cells])
        if not fitted:
            lines += _row([plain(cell) for cell in (*head, "–", "–", "–", fit["reason"])])
    return [*lines, ""]


def _range(ends: Sequence[float | None] | None, form: str) -> str:
    return "–" if ends is None else " – ".join(_number(end, form) for end in ends)


def _before(rows: Sequence[Doc], words: str) -> list[str]:
    """What comes before the steady steps, told apart."""
    rated = [row for row in rows if row["images_per_s"] is not None]
    if not rated:
        return []
    lines = ["## Before the steady steps", "", *_row(["point", "start", "first epoch", "steady epoch"])]
    lines += _row(["---", *["--:"] * 3])
    for row in rated:
        times = [row[key] for key in ("start_s", "warmup_s", "epoch_s")]
        lines += _row([plain(row["name"]), *("–" if each is None else seconds_text(each) for each in times)])
    return [*lines, "", plain(words), ""]


def _beyond(beyond: Doc, words: str) -> list[str]:
    """What was simulated, which nobody shall take for measured."""
    lines = ["## Beyond this machine, simulated", "", plain(words), ""]
    if beyond["points"]:
        lines += [plain(f"{beyond['assumed']} {beyond['band']}"), ""]
        lines += _row(["simulated", "images/s", "band", "speedup", "efficiency", "cores or GPUs", "machines", "batch"])
        lines += _row(["---", *["--:"] * 7])
        for row in beyond["points"]:
            band = f"{row['band'][0]:,.0f} – {row['band'][1]:,.0f}"
            cells = [row["name"], f"{row['images_per_s']:,.0f}", band, _number(row["speedup"], "{:.2f}"),
                     _number(row["efficiency"], "{:.2f}"), row["cores"], row["machines"], row["batch_size"]]  # fmt: skip
            lines += _row([plain(cell) for cell in cells])
        lines += [""]
    for each in beyond["left_out"]:
        ranks = f" from {each['ranks']} ranks on" if each["ranks"] else ""
        lines.append("- " + plain(f"{each['layout']}{ranks}, {each['precision']}: not simulated: {each['reason']}"))
    return [*lines, *[""] * bool(beyond["left_out"])]


def plain(value: Any) -> str:
    """Text in which nothing is markup."""
    return "".join(MARKS.get(letter, letter) for letter in str(value))


def _row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _cells(row: Doc, has: Doc) -> list[str]:
    ends = (
        "" if row["images_per_s_low"] is None else f"{row['images_per_s_low']:,.1f} – {row['images_per_s_high']:,.1f}"
    )
    cells = [row["name"], f"{row['images_per_s']:,.1f}", ends]
    for key in ("speedup", "over_all_cores"):
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        known = low is not None and high > low  # a baseline over itself has no interval
        cells.append(_number(row[key], "{:.2f}") + (f" ({low:.2f} – {high:.2f})" if known else ""))
    cells += [_number(row.get("efficiency"), "{:.2f}")]
    cells += [_number(row["serial"], "{:.3f}")] * has["serial_fraction"]
    cells += [_number(row.get("device_gain"), "{:.1f}")] * has["device_gain"]
    cells += ["–" if row["epoch_s"] is None else seconds_text(row["epoch_s"])]
    for key in ["j_per_image", "mean_w"] * has["energy"] + ["cost_epoch", "cost_1000"] * has["cost"]:
        cells.append(amount(row.get(key)))
    cells += [_number(row.get("accuracy"), "{:.3f}"), _number(row.get("accuracy_gap"), "{:+.3f}"), str(row["n"])]
    return [
        *cells,
        ", ".join([*row["flags"], *([row["standing"]] if row["standing"] in ("slow-down", "not told apart") else [])]),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
