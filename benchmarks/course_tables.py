"""Puts the figures of a bench into the tables of docs/course: what stands between `<!-- bench … -->` and `<!-- end -->` is
written anew, with hardware and date. No figure of the course is written by hand.

    fanlight scratch bench --out scratch/bench && python benchmarks/course_tables.py scratch/bench
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from fanlight.study import scratch_page

COURSE = Path(__file__).resolve().parents[1] / "docs" / "course"
TABLE = re.compile(r"(<!-- bench (?P<what>[^:]*): (?P<kinds>[^>]*) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, bench: dict[str, Any]) -> str:
    """A page with its tables from `bench`, a bench.json."""
    return TABLE.sub(
        lambda found: f"{found[1]}\n{table(found['what'].split(), found['kinds'].split(), bench)}\n{found[4]}", text
    )


def table(what: list[str], kinds: list[str], bench: dict[str, Any]) -> str:
    """Rows of the questions `op,direction` of contestants of these kinds, in the order of `kinds`."""
    lines = ["| | who | time | × NumPy | share of the limit |", "|---|---|--:|--:|--:|"]
    for each in what:
        op, direction = each.split(",")
        own = [row for row in bench["rows"] if (row["op"], row["direction"], row["format"]) == (op, direction, "fp32")]
        title = op if op == direction else f"{op}, {direction}"
        for row in sorted((row for row in own if row["kind"] in kinds), key=lambda row: kinds.index(row["kind"])):
            if row["ms"] is None:
                lines.append(f"| {title} | {row['backend']} | {row['reason']} | | |")
            else:
                share = scratch_page.share(row["share_of_limit"])
                lines.append(
                    f"| {title} | {row['backend']} | {_time(row['ms'])} | {scratch_page.times(row['vs_numpy'])} | {share} |"
                )
            title = ""
    lines = [line.replace("|  |", "| |", 1) for line in lines]
    return "\n".join([*lines, "", f"*{scratch_page.heading(bench)}.*"])


def _time(ms: float) -> str:
    return f"{scratch_page.number(ms)} ms" if ms < 10_000 else f"{scratch_page.number(ms / 1e3)} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, help="a folder of `fanlight scratch bench`")
    bench = scratch_page.read(parser.parse_args().bench)
    for page in sorted(COURSE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text, bench)) != text:
            page.write_text(new, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
