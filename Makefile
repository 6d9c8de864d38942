# Everything lives in .venv, made by the first target that needs it and renewed when pyproject.toml or constraints.txt change.
# Another interpreter: `make demo PYTHON=python3.12` (or PYTHON in the environment).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format clean

help:
	@echo "make demo    set up, then train on the bundled handwritten digits"
	@echo "make test    set up with the development tools, then check and test"
	@echo "make check   lint, format, types, imports, links in the documentation"
	@echo "make format  let ruff put right what it can"
	@echo "make clean   remove $(VENV) and the tools' caches"

demo: $(VENV)/installed
	$(BIN)/layerline train digits

# Two tests at a time, of one thread each: many of them wait for processes of their own. Work is stolen in order, so that
# a file's fixtures are mostly made once.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal

check: $(VENV)/installed-dev
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary src tests tools $(wildcard benchmarks/*.py examples/*.py)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_links.py

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# The stamps are touched last, so that an interrupted installation is taken up again by the next call.
$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	@echo "Installing Layerline into $(VENV) (PyTorch is large: this may take a few minutes, once)"
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/created pyproject.toml constraints.txt
	@echo "Installing Layerline and the development tools into $(VENV) (a few minutes, once)"
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Layerline needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	    echo "  name another one: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments: its venv module is missing or incomplete" >&2; \
	    echo "  install it (Debian and Ubuntu: apt install python3-venv), then run make again" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
