"""The pages of docs/layouts quote refusals; what they quote is what the code says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fanlight

ROOT = Path(fanlight.__file__).parent
PAGES = Path(__file__).parents[2] / "docs" / "layouts"
HEADINGS = ("What is refused", "What cannot be joined")
LEAST = 20  # letters that an error's own words have: one that is nearly all values would be found in anything
GAP = None  # a value in an error's text


def quoted(page: Path) -> list[str]:
    """The refusals of a page, one by one. A line that goes on is indented twice."""
    found: list[str] = []
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("## "):
            inside = line.removeprefix("## ").startswith(HEADINGS)
        elif inside and line.startswith("        "):
            found[-1] += f" {line.strip()}"
        elif inside and line.startswith("    "):
            found.append(line.strip())
    return found


def said() -> Iterator[list[str | None]]:
    """The text of every error that the package raises, with a GAP for each value in it."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and getattr(node.func, "id", "").endswith("Error"):
                text = node.args[0]
                pieces = text.values if isinstance(text, ast.JoinedStr) else [text]
                parts = [piece.value if isinstance(piece, ast.Constant) else GAP for piece in pieces]
                if sum(len(part) for part in parts if isinstance(part, str)) >= LEAST:
                    yield parts


TEXTS = list(said())


def is_of(quote: str, parts: list[str | None]) -> bool:
    """Whether `quote` has all constant words of an error in their order; those after an ellipsis at its end may lack."""
    is_cut = quote.endswith("…")
    quote, place = quote.removesuffix("…").rstrip("; "), 0
    for number, part in enumerate(parts):
        if part is GAP:
            continue
        at = quote.find(part, place)
        if at < 0:
            begun = any(quote.endswith(part[:n]) for n in range(1, min(len(part), len(quote) - place) + 1))
            return is_cut and begun
        if number == 0 and at:
            return False
        place = at + len(part)
    return is_cut or parts[-1] is GAP or place == len(quote)


@pytest.mark.parametrize(
    ("page", "quote"),
    [pytest.param(page, quote, id=f"{page.stem}-{n}") for page in sorted(PAGES.glob("*.md"))
     for n, quote in enumerate(quoted(page))],
)  # fmt: skip
def test_a_quoted_refusal_is_what_the_code_says(page, quote):
    assert any(is_of(quote, parts) for parts in TEXTS), f"{page.name} quotes what nothing says: {quote}"


def test_every_page_but_the_first_quotes_refusals():
    assert {page.stem for page in PAGES.glob("*.md") if not quoted(page)} == {"README"}


@pytest.mark.parametrize(
    ("quote", "answer"),
    [
        ("layout ddp with ranks 1: use --ranks 2", True), ("layout ddp with ranks 1: use …", True),
        ("layout ddp with ranks 1; use --ranks 2", False), ("a layout ddp with ranks 1: use --ranks 2", False),
        ("layout ddp with ranks 1: use --ranks 2 or more", False), ("layout ddp with ranks 1: take …", False),
    ],
)  # fmt: skip
def test_a_stale_quote_is_found(quote, answer):
    assert is_of(quote, ["layout ", GAP, " with ranks ", GAP, ": use --ranks 2"]) is answer
