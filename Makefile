# Every target works from a fresh clone with nothing but make and Python 3.11 or newer: the virtual environment
# in .venv is made on the way. Another Python: make PYTHON=python3.12 …; only some tests: make test-plain
# ARGS=tests/test_buffers.py

PYTHON ?= python3
ARGS ?=
SCENARIO ?= ping
TARGET ?= gnet
WORKERS ?= 0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.gnet-installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo load test test-plain test-patched test-compiled lint types format compare micro bench-check scale bench-locust \
	build clean distclean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## twenty seconds of Locust against gnet's server, plain and TLS: a summary and a report
	$(BIN)/python -m loadtests.demo $(ARGS)

load: $(STAMP) ## a scenario: SCENARIO=all or ping, churn, ..., WORKERS=2, TARGET=gevent, asyncio or HOST:PORT
	$(BIN)/python -m loadtests.load '$(SCENARIO)' --target '$(TARGET)' --workers '$(WORKERS)' $(ARGS)

test: lint types ## all checks, all tests in both kinds of processes at once, the core's on compiled modules
	$(BIN)/python -m tests.both_modes $(ARGS)
	$(if $(ARGS),,$(BIN)/python tests/compiled_run.py --core)

test-plain: $(STAMP) ## all tests, in a process as a program of its own has it
	GNET_TEST_PATCHED= $(BIN)/python -m pytest $(ARGS)

test-patched: $(STAMP) ## the tests of the core, in a process that gevent has patched (as Locust's)
	GNET_TEST_PATCHED=1 $(BIN)/python -m pytest $(ARGS)

test-compiled: $(STAMP) ## all tests, on a wheel built here that has the compiled modules (docs/compiled.md)
	$(BIN)/python tests/compiled_run.py $(ARGS)

lint: $(STAMP) ## look for mistakes and for formatting (repairs nothing: make format)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## mypy --strict on gnet, examples, loadtests
	$(BIN)/mypy

format: $(STAMP) ## repair formatting and what else can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

compare: $(STAMP) ## gnet and its peers side by side, about 25 minutes (ARGS=--quick: about 3), into docs/
	$(BIN)/python -m loadtests.compare $(ARGS)

micro: $(STAMP) ## what a line, a call, an allocation, a system call costs (ARGS=lines: one of them)
	$(BIN)/python -m loadtests.micro $(ARGS)

bench-check: $(STAMP) ## which ratios of the micro-benchmarks moved by more than 10 % from the baseline (a report)
	$(BIN)/python -m loadtests.micro --check $(ARGS)

scale: $(STAMP) ## how the cost grows: connections, idle memory, line length, workers; about 12 minutes, into docs/
	$(BIN)/python -m loadtests.scale $(ARGS)

bench-locust: $(STAMP) ## what one Locust worker drives: gnet's users beside makefile ones, one in flight and pipelined
	$(BIN)/python -m loadtests.locust_speed $(ARGS)

build: $(STAMP) ## wheel (compiled if there is a C compiler) and source distribution, into dist/
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
	@GNET_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[locust,metrics,bench,test,dev]'
	@touch $(STAMP)

clean: ## remove what building and testing left behind
	rm -rf build dist *.egg-info reports .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f gnet/*.so gnet/*/*.so *__mypyc*.so
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## ... and the virtual environment
	rm -rf $(VENV)
