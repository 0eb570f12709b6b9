# Two commands do everything: `make demo` and `make test`. Each sets up .venv by itself, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all check bench clean
.DEFAULT_GOAL := demo

# Processes that share the tests; one that is done takes from the other what it has not begun.
WORKERS ?= 2

# Made again only when what is to be installed changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Fanlight needs Python 3.11 or newer; try make PYTHON=python3.12" >&2; exit 1)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## train digits with one process per core, evaluate, report
	$(BIN)/fanlight train digits --layout ddp --device cpu --epochs 10

test: $(READY) check  ## what CI runs
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore=tests/test_layers.py  # ran in check

test-all: $(READY) check  ## and the slower system tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow or not slow" --ignore=tests/test_layers.py

check: $(READY)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

bench: $(READY)  ## every benchmark that this machine can run
	$(BIN)/python benchmarks/run_all.py

clean:  ## what `make` made, not your runs
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
