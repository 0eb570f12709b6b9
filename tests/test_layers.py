"""The layers of the design: who may import whom, what start-up may cost, what never occurs."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import fanlight
from train import colours as tiny

pytest_plugins = ["train.fixtures"]

ROOT = Path(fanlight.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FREE = {"types", "errors", "config", "console", "machine", "energy"}  # anyone may import these
BELOW_STUDY = {"train", "tasks", "parallel", "data", "models", "kernels"}
MAY = {  # package -> packages that it may import; recipes are a list of configs
    "study": BELOW_STUDY | {"plan"}, "plan": BELOW_STUDY, "serve": BELOW_STUDY,
    "scratch": BELOW_STUDY,
    "train": {"tasks", "parallel", "data", "models"},
    "tasks": {"data", "models"},
    "data": {"kernels"},
    "parallel": {"models.cut"},
    "models": set(), "kernels": set(), "recipes": set(), **{name: set() for name in FREE},
}  # fmt: skip
TOP = {
    "__init__",
    "__main__",
    "api",
    "cli",
    "cli_data",
    "cli_once",
    "cli_plan",
    "cli_report",
    "cli_scratch",
    "cli_study",
    "cli_typed",
}  # may import everything
LINES_MOST = 400
EMPTY_NAMES = ("utils", "helpers", "manager", "base", "common")
PLOTS = ("pandas", "seaborn", "sklearn", "matplotlib")  # made for tables and plots, and slow to import


def name_of(path: Path) -> str:
    """`train.job` for train/job.py, `train` for train/__init__.py; only fanlight's own is `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported(path: Path) -> set[str]:
    """Dotted names of what a file imports anywhere in it: `a.b` of `import a.b`, and `a.b` and `a` of `from a import b`."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own_imports(path: Path) -> set[str]:
    """Names below `fanlight`, such as `train.job` and `errors.ConfigError`."""
    return {name.removeprefix("fanlight.") for name in imported(path) if name.startswith("fanlight.")}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    name = name_of(path)
    package = name.split(".")[0]
    if package in TOP:
        return
    assert package in MAY, f"{name}: a package that the design does not name"
    allowed = MAY[package] | FREE | {package, "__version__"}
    forbidden = {
        other
        for other in own_imports(path)
        if not any(other == each or other.startswith(f"{each}.") for each in allowed)
    }
    forbidden -= {each.rpartition(".")[0] for each in allowed}  # `models`, of `from fanlight.models import cut`
    assert not forbidden, f"{name} imports {sorted(forbidden)}"


def test_nothing_imports_the_command_line():
    """Except the functions for Python, which know its flags."""
    assert {name_of(path) for path in FILES if any(re.match(r"cli(\.|$)", name) for name in own_imports(path))} <= {
        "api", "__main__"
    }  # fmt: skip


def test_process_groups_stay_where_they_are_known():
    users = {name_of(path) for path in FILES if any(name.startswith("torch.distributed") for name in imported(path))}
    users |= {name_of(path) for path in FILES if re.search(r"torch\.distributed\.\w+\(", path.read_text())}
    assert not {name for name in users if not name.startswith("parallel.")}


def test_nothing_is_unpickled():
    """Loading a pickle runs what is in it. Containers and arrays of a CIFAR file go through an unpickler of our own."""
    for path in FILES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in {"pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps"}, (path, node.lineno)
            assert not re.match(r"(joblib|dill|cloudpickle)\.", called), (path, node.lineno)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load":
                assert options.get("weights_only") == "True", (path, node.lineno)
            if called in ("torch.save", "np.save", "np.load"):
                assert called != "torch.save" and options.get("allow_pickle", "False") == "False", (path, node.lineno)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_MOST
    words = re.split(r"[._]", name_of(path))
    assert not set(words) & set(EMPTY_NAMES)
    assert not text or ast.get_docstring(tree(path)) or path.name == "__main__.py", "a file opens with its contract"


def test_test_files_have_names_of_their_own():
    """Of two with one name pytest collects one, and stops only after all others have run."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert [name for name in names if names.count(name) > 1] == []


def test_no_name_says_nothing():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, kinds):
                words = re.findall(r"[a-z]+|[A-Z][a-z]*", node.name)
                assert not {word.lower() for word in words} & set(EMPTY_NAMES), f"{path}: {node.name}"


def modules_after(code: str, *, cache_folder: Path | None = None) -> set[str]:
    """What a fresh interpreter has imported after `code`."""
    marker = "modules: "
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", f"{code}\nimport sys\nprint({marker!r}, *sys.modules)"],
        capture_output=True, text=True, timeout=300, check=False,
        env=dict(os.environ) | ({"FANLIGHT_CACHE": str(cache_folder)} if cache_folder else {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition(marker)[2].split())


@pytest.mark.parametrize("module", ["fanlight", "fanlight.cli", "fanlight.api", "fanlight.recipes"])
def test_start_up_imports_nothing_heavy(module):
    modules = modules_after(f"import {module}")
    heavy = {"torch", "torchvision", "timm", "numpy", "pyarrow", "cv2", "PIL", "numba", "triton", *PLOTS}
    assert not modules & heavy


@pytest.mark.parametrize("module", ["data.order", "study.stats", "study.report"])
def test_arithmetic_and_reports_need_no_torch(module):
    if not (ROOT / f"{module.replace('.', '/')}.py").exists():
        pytest.skip(f"there is no {module} yet")
    assert "torch" not in modules_after(f"import fanlight.{module}")


def test_training_is_imported_without_tables_and_plots():
    modules = [
        name_of(path) for path in FILES if name_of(path).split(".")[0] in ("train", "data", "parallel", "models")
    ]
    code = "".join(f"import fanlight.{module}\n" for module in [*modules, "tasks.classify"])
    assert not modules_after(code) & set(PLOTS)


def test_a_whole_run_needs_no_tables_and_plots(colours, cache_folder, tmp_path):
    """From the command to the last metric. Arrow imports pandas by itself, to ask whether values are a Series."""
    words = ["train", str(colours), *tiny.QUICK, "--out", str(tmp_path / "run")]
    code = f"import sys\nsys.argv = ['fanlight', *{words!r}]\nfrom fanlight import cli\nassert cli._run() == 0"
    assert not modules_after(code, cache_folder=cache_folder) & (set(PLOTS) - {"pandas"})


def test_no_module_initialises_cuda():
    names = [f"fanlight.{name_of(path)}" for path in FILES if name_of(path) not in ("__init__", "__main__")]
    code = (
        f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        "import torch\nassert not torch.cuda.is_initialized()\n"
    )
    assert {
        f"fanlight.{name_of(path)}" for path in FILES if name_of(path) not in ("__init__", "__main__")
    } <= modules_after(code)
