"""The table of operators: the same for every backend, imported when asked for, and of nothing but NumPy and Numba."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import threadpoolctl

from fanlight.data import cache
from fanlight.scratch import cpu, operators, shapes
from fanlight.scratch.cpu import threads
from scratch.differences import BACKENDS

FOLDER = Path(operators.__file__).parent
OPERATORS = [
    path
    for path in FOLDER.rglob("*.py")
    if path.parent not in (FOLDER, FOLDER / "bench") or path.name in ("operators.py", "shapes.py")
]
OUTSIDE = {"numpy", "scipy", "numba", "llvmlite", "threadpoolctl", "fanlight"} | sys.stdlib_module_names


def test_every_backend_has_every_operator_with_the_same_arguments():
    for functions in operators.ROWS.values():
        for name in functions:
            found = {str(inspect.signature(getattr(backend, name))) for backend in BACKENDS}
            assert len(found) == 1, (name, found)
            assert all(inspect.getdoc(getattr(backend, name)) for backend in BACKENDS), name


def test_another_backend_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'CUDA'"):
        operators.CUDA  # noqa: B018


@pytest.mark.parametrize("path", sorted(OPERATORS), ids=lambda path: str(path.relative_to(FOLDER)))
def test_operators_import_numpy_and_numba_and_each_other(path):
    names = {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        )
    }  # fmt: skip
    is_gpu = path.parent.name == "gpu"
    assert {name.split(".")[0] for name in names} <= OUTSIDE | ({"torch"} if is_gpu else set())
    own = {name for name in names if name.startswith("fanlight") and not name.startswith("fanlight.scratch")}
    if is_gpu:
        assert all(name.startswith("fanlight.kernels") for name in own)
    else:
        assert own <= ({"fanlight.data"} if path == FOLDER / "cpu" / "__init__.py" else set())


def test_numpy_s_operators_need_no_compiler():
    code = "import sys; from fanlight.scratch.operators import LOOPS, NUMPY; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_compiled_kernels_are_kept_in_the_cache_folder(tmp_path):
    code = (
        "import numpy as np; from fanlight.scratch.operators import NUMBA\n"
        "print(NUMBA.relu(np.array([-1.0, 2.0])), NUMBA.relu.__globals__['_relu'].stats.cache_hits)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["FANLIGHT_CACHE"] = str(tmp_path)
    for hits in ("{}", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
        )
        assert done.stdout.startswith("[0. 2.]") and (hits == "{}" or ": 1}" in done.stdout), done.stdout
    kept = tmp_path / "compiled" / cpu._sources()
    assert any(path.suffix == ".nbc" for path in kept.rglob("*"))


def test_the_cache_s_list_names_compiled_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path))
    (tmp_path / "compiled" / "a").mkdir(parents=True)
    (tmp_path / "compiled" / "a" / "b.nbc").write_bytes(b"123")
    assert [(entry.kind, entry.bytes) for entry in cache.entries()] == [("compiled", 3)]
    assert cache.clear() == 3


def test_threads_are_as_many_as_there_may_be():
    before = numba.get_num_threads()
    threads.set_threads(1)
    assert numba.get_num_threads() == 1
    threads.set_threads(before)
    found = {
        Path(each["filepath"]).parent.name: each["num_threads"]
        for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"
    }  # fmt: skip
    assert found.get("scipy.libs", 1) == 1, "Numba's threads call it, each for itself"
    assert found.get("numpy.libs", before) == before
    most = numba.config.NUMBA_NUM_THREADS
    with pytest.raises(ValueError, match=f"{most + 1} threads, of 1 … {most}; more .* NUMBA_NUM_THREADS"):
        threads.set_threads(most + 1)


@pytest.mark.parametrize("wrong", [1.5, None, "2", (1, 2, 3), 0])
def test_a_stride_that_is_none_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match="stride takes one or two whole numbers of at least 1, got"):
        shapes.window((1, 1, 8, 8), (3, 3), stride=wrong, padding=0, dilation=1)
