"""The course: its code runs as it stands, its pages are linked, its tables come from the bench."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import course_tables
from fanlight.scratch.operators import NUMBA

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
PAGES = sorted(COURSE.glob("[0-9]-*.md"))
COMPILED = NUMBA  # imported before any test has a cache folder of its own: what is compiled is kept
ON_GPU = {"5-gpu.md", "6-fusion.md"}


def code(page: Path) -> str:
    """All Python of a page, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ON_GPU], ids=lambda page: page.stem)
def test_code_runs_as_it_stands(page):
    assert code(page).count("assert") >= 4
    exec(compile(code(page), str(page), "exec"), {"__name__": page.stem})


@pytest.mark.skipif(find_spec("triton") is None, reason="torch brings Triton on Linux only")
def test_kernels_run_as_they_stand(tmp_path):
    """From a file, as Triton reads a kernel's source; interpreted, in a process of their own."""
    file = tmp_path / "pages.py"
    file.write_text("".join(code(page) for page in PAGES if page.name in ON_GPU))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_six_pages_lead_from_one_to_the_next():
    assert [page.name[0] for page in PAGES] == list("123456")
    texts = [page.read_text() for page in (*PAGES, COURSE / "README.md", ROOT / "docs" / "scratch.md")]
    for text, following in zip(texts, PAGES[1:]):
        assert f"]({following.name})" in text and text.count("<details><summary>Solution") == 1
    for text, folder in zip(texts, [COURSE] * 7 + [ROOT / "docs"]):
        for link in re.findall(r"\]\(([^)#]+\.md)", text):
            assert (folder / link).exists(), link
    assert "course/README.md" in texts[-1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_that_is_pointed_at_is_there(page):
    places = (
        "",
        "src/fanlight/",
        "src/fanlight/scratch/",
        "src/fanlight/scratch/reference/",
        "src/fanlight/kernels/",
        "docs/course/",
    )
    for name in re.findall(r"`([\w/.-]+(?:\.py|/))`", page.read_text()):
        assert any((ROOT / place / name.removeprefix("../")).exists() for place in places), name


def test_a_table_is_filled_from_a_bench_and_marked():
    row = {
        "op": "convolution",
        "direction": "forward",
        "shape": "s",
        "format": "fp32",
        "vs_numpy": None,
        "share_of_limit": 0.5,
    }
    rows = [
        {
            **row,
            "backend": "loops, 1 thread",
            "kind": "loops",
            "ms": 2e5,
            "vs_numpy": 0.0005,
            "is_part": True,
            "reason": None,
        },
        {
            **row,
            "backend": "numpy, 2 threads",
            "kind": "numpy",
            "ms": 100.0,
            "vs_numpy": 1.0,
            "is_part": False,
            "reason": None,
        },
        {**row, "backend": "triton", "kind": "triton", "ms": None, "is_part": False, "reason": "no GPU"},
    ]
    bench = {
        "rows": rows, "started": "2026-01-02T03:04", "rounds": 3, "quick": True, "gpu": None,
        "machine": {"cpu": "A CPU", "cores_usable": 2}, "versions": {"torch": "2", "numpy": "2"},
    }  # fmt: skip
    text = "before\n<!-- bench convolution,forward: loops numpy triton -->\nold\n<!-- end -->\nafter\n"
    found = course_tables.filled(text, bench)
    assert found.startswith("before\n<!-- bench convolution,forward: loops numpy triton -->\n") and "old" not in found
    assert "| convolution, forward | loops, 1 thread | 200 s | 0.000500 | 50% |" in found
    assert "| | numpy, 2 threads | 100 ms | 1.00 | 50% |" in found and "| | triton | no GPU | | |" in found
    assert (
        "A CPU, 2 usable cores, no GPU" in found and "2026-01-02" in found and found.endswith("<!-- end -->\nafter\n")
    )
    assert course_tables.filled(found, bench) == found


def test_every_page_but_the_first_has_its_table():
    for page in PAGES[1:]:
        assert re.search(r"<!-- bench .*?-->\n.*\|.*\n<!-- end -->", page.read_text(), re.DOTALL), page.name
