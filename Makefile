# Every target works from a fresh clone with nothing but make and Python 3.11 or newer: the virtual environment
# in .venv is made on the way. Another Python: make PYTHON=python3.12 …; only some tests: make test-plain
# ARGS=tests/test_buffers.py

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.gnet-installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo test test-plain test-patched lint types format bench bench-lines build clean distclean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## ten seconds of Locust against the ping server, with a summary
	$(BIN)/python loadtests/demo.py

test: lint types ## all checks, and all tests in both kinds of processes at once
	$(BIN)/python tests/both_modes.py $(ARGS)

test-plain: $(STAMP) ## all tests, in a process as a program of its own has it
	GNET_TEST_PATCHED= $(BIN)/python -m pytest $(ARGS)

test-patched: $(STAMP) ## the tests of the core, in a process that gevent has patched (as Locust's)
	GNET_TEST_PATCHED=1 $(BIN)/python -m pytest $(ARGS)

lint: $(STAMP) ## look for mistakes and for formatting (repairs nothing: make format)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## mypy --strict on gnet, examples, loadtests
	$(BIN)/mypy

format: $(STAMP) ## repair formatting and what else can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP) ## server CPU and memory side by side, plain and TLS (ARGS=--tls: one half)
	$(BIN)/python loadtests/bench_servers.py $(ARGS)

bench-lines: $(STAMP) ## nanoseconds per line: read_line, lines(), makefile, io.BufferedReader
	$(BIN)/python loadtests/bench_lines.py

build: $(STAMP) ## wheel and source distribution, into dist/
	$(BIN)/python -m build --no-isolation

venv: $(STAMP) ## make the virtual environment, or bring it up to date

# When pyproject.toml has changed, the environment is made anew and not only added to: a dependency that was
# taken out must be missed here and not first by a user.
$(STAMP): pyproject.toml setup.cfg gnet/_version.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		"gnet needs Python 3.11 or newer; $(PYTHON) is %d.%d. Try make PYTHON=python3.12 ..." % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no module ensurepip or venv, \
	so it makes no virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing gnet and what it is tested with into $(VENV) (about a minute) ..."
	@$(PYTHON) -m venv $(if $(and $(wildcard $(STAMP)),$(filter pyproject.toml,$?)),--clear) $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[locust,metrics,test,dev]'
	@touch $(STAMP)

clean: ## remove what building and testing left behind
	rm -rf build dist *.egg-info reports .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## ... and the virtual environment
	rm -rf $(VENV)
