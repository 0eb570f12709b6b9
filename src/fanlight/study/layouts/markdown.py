"""The report of a study as Markdown, for a repository or a mail: what the page says, with its figures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fanlight.console import seconds_text
from fanlight.study.layouts.costs import amount

Doc = Mapping[str, Any]
MARKS = {each: f"\\{each}" for each in "\\`*_[]|#!"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}


def text(
    *, study: Doc, rows: Sequence[Doc], headline: Sequence[str], by_point: Sequence[str], flags: Doc, differs: Doc,
    absent: Sequence[tuple[Sequence[str], str, str]], captions: Doc, has: Doc, wide: str,
    rounds: int, beyond: Doc | None, beyond_words: str, costs: Sequence[str], base: str, looked: Sequence[Doc], **_: Any,
) -> str:  # fmt: skip
    """The whole document; names are escaped."""
    machine = study["machine"]
    lines = [f"# Which parallelization pays on {plain(study['data'])}", ""]
    lines += [
        plain(
            f"{machine['cpu']}, {machine['cores_usable']} usable cores; {study['images']} images; {study['started']}"
        ),
        "",
    ]
    lines += [f"- {plain(line)}" for line in headline] + [""]
    lines += [f"- {plain(line)}" for line in by_point] + [""]
    head = ["point", "images/s", "95 %", f"speedup, {base}", "95 %", "over all cores", "95 %", "efficiency"]
    head += ["serial fraction"] * has["serial_fraction"] + ["device gain"] * has["device_gain"] + ["epoch"]
    head += ["J/image", "W"] * has["energy"] + ["cost of an epoch", "of 1000 images"] * has["cost"]
    head += ["accuracy", "gap", *[f"seconds to {study['target']}"] * has["to_accuracy"], "n", "flags"]
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
    lines += _shares(study) + _timers(looked) + _left_out(rows)
    for name, words in captions.items():
        lines += [f"![{plain(name)}](figures/{name}.svg)", "", plain(words), ""]
    lines += _laws(study.get("fits") or []) + (_beyond(beyond, beyond_words) if beyond else [])
    lines += ["## What is equal, and what differs", ""]
    lines += [f"- {plain(key)}: {plain(value)}" for key, value in study["equal"].items()]
    lines += [f"- different: {plain(what)}: {plain(', '.join(names))}" for what, names in differs.items()]
    versions = ", ".join(f"{name} {version}" for name, version in study["versions"].items())
    lines += ["", "## Repeat", "", *(f"    {line}" for line in str(study["command"]).splitlines()), ""]
    return "\n".join([*lines, plain(f"{rounds} rounds; {wide}. Fanlight {study['fanlight']}, {versions}."), ""])


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
        cells = [f"{100 * part:.1f}".replace("-0.0", "0.0") for part in parts]
        lines += _row([plain(point["name"]), f"{1e3 * point['step_s']:,.1f} ms", *cells])
    return [*lines, ""]


def _timers(looked: Sequence[Doc]) -> list[str]:
    """The run's own timers beside the shares that bound them."""
    if not looked:
        return []
    names = [f"{each.name}, {'at most' if each.is_within else 'at least'}" for each in looked[0]["looks"]]
    lines = ["## The same by timers, and by differences", ""]
    lines += _row(["point", *map(plain, names)]) + _row(["---", *["--:"] * len(names)])
    for row in looked:
        cells = [
            f"{100 * each.timer:.1f}, {100 * each.share:.1f}{'' if each.agrees else ' (!)'}" for each in row["looks"]
        ]
        lines += _row([plain(row["name"]), *map(plain, cells)])
    return [*lines, ""]


def _left_out(rows: Sequence[Doc]) -> list[str]:
    """Start and warm-up, which no rate has in it."""
    told = [row for row in rows if row["images_per_s"] is not None]
    if not told:
        return []
    lines = [
        "## What the rates leave out",
        "",
        *_row(["point", "start", "warm-up", "steady epoch"]),
        *_row(["---", *["--:"] * 3]),
    ]
    for row in told:
        lines += _row([plain(row["name"]), *(_seconds(row[key]) for key in ("start_s", "warmup_s", "epoch_s"))])
    return [*lines, ""]


def _laws(fits: Sequence[Doc]) -> list[str]:
    """Laws of scaling with their parameters, or why there are none."""
    told = [fit for fit in fits if fit["layout"] != "serial" or fit["laws"]]
    if not told:
        return []
    lines = [
        "## Laws of scaling",
        "",
        *_row(["layout", "on", "precision", "cores", "law", "parameters, 95 %", "off by", "which"]),
    ]
    lines += _row(["---"] * 8)
    for fit in told:
        head = [
            fit["layout"],
            "CPU" if fit["device"] == "cpu" else "GPU",
            fit["precision"],
            ", ".join(map(str, fit["cores"])),
        ]
        fitted = {name: law for name, law in fit["laws"].items() if not law["reason"]}
        for name, law in fitted.items():
            named = ", ".join(
                f"{key} {each['value']:.3g} ({' – '.join(_number(end, '{:.3g}') for end in each['interval'])})"
                for key, each in law["parameters"].items()
            )
            which = f"{name}: " if fit["best"] == name else f"{name} is enough: " if fit["enough"] == name else ""
            lines += _row(
                [plain(cell) for cell in (*head, name, named, f"{100 * law['off']:.1f} %", f"{which}{fit['reason']}")]
            )
        if not fitted:
            lines += _row([plain(cell) for cell in (*head, "–", "–", "–", fit["reason"])])
    return [*lines, ""]


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
    cells = [row["name"], f"{row['images_per_s']:,.1f}", _ends(row, "images_per_s", "{:,.1f}")]
    for key, is_base in (("speedup", row["serial_base"]), ("over_all_cores", row["all_base"])):
        cells += [_number(row.get(key), "{:.2f}"), "baseline" if is_base else _ends(row, key, "{:.2f}")]
    cells += [_number(row.get("efficiency"), "{:.2f}"), *[_number(row["serial"], "{:.3f}")] * has["serial_fraction"]]
    cells += [_number(row.get("device_gain"), "{:.1f}")] * has["device_gain"]
    cells += [_seconds(row["epoch_s"])]
    for key in ["j_per_image", "mean_w"] * has["energy"] + ["cost_epoch", "cost_1000"] * has["cost"]:
        cells.append(amount(row.get(key)))
    cells += [_number(row.get("accuracy"), "{:.3f}"), _number(row.get("accuracy_gap"), "{:+.3f}")]
    cells += [_reached(row)] * has["to_accuracy"] + [str(row["n"])]
    standing = [row["standing"]] if row["standing"] in ("slow-down", "not told apart") else []
    return [*cells, ", ".join([*row["flags"], *standing])]


def _ends(row: Doc, key: str, form: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return "" if low is None or high is None else f"{form.format(low)} – {form.format(high)}"


def _reached(row: Doc) -> str:
    """Seconds to the accuracy asked for, the least and the greatest of the seeds, and how many got there."""
    found = row.get("to_accuracy")
    if not found:
        return "–"
    said = [_seconds(row["to_accuracy_s"])]
    if row["to_accuracy_low"] is not None:
        said.append(f"(seeds: {_seconds(row['to_accuracy_low'])} – {_seconds(row['to_accuracy_high'])})")
    said.append(f"{found['reached']} of {found['of']} seeds")
    return " ".join([*said, *([found["reason"]] if found["reason"] else [])])


def _seconds(value: float | None) -> str:
    return "–" if value is None else seconds_text(value)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
