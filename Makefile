# Everything runs in a virtual environment of its own, .venv, which is built when it is missing or out of date.
# `make PYTHON=python3.12 test` takes another interpreter, `make test PYTEST_ARGS="-k relay"` runs a part of the suite.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
STRESS_ARGS ?=
FUZZ_ARGS ?=
SOAK_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Without files of bytecode, every run would compile the tests first, at 8 s of a core.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --workers auto

# An environment whose interpreter has gone, or is too old, counts as not built; building clears it, and nothing else.
$(shell test ! -e $(VENV)/pyvenv.cfg || $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	|| rm -f $(BIN)/python $(VENV)/.installed $(VENV)/.installed-*)

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick stress fuzz soak bench docs lint format types clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(VENV)/.installed ## A web page through both tunnels, by real processes on this machine
	@$(BIN)/python etc/demo.py

test: $(VENV)/.installed-dev ## The test suite, on all cores; PYTEST_ARGS adds arguments
	$(PYTEST) $(PYTEST_ARGS)

test-quick: $(VENV)/.installed-dev ## Those tests that start no other process
	$(PYTEST) -m "not process" $(PYTEST_ARGS)

stress: $(VENV)/.installed-dev ## The suite ten times beside busy loops, then on one core (STRESS_ARGS="--rounds 3 --seed 1")
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m tests.stress $(STRESS_ARGS)

fuzz: $(VENV)/.installed-fuzz ## Each parser against odd bytes for a minute (FUZZ_ARGS="--seconds 3600 config clients")
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

soak: $(VENV)/.installed-dev ## Mixed traffic and restarts for ten minutes; does memory grow? (SOAK_ARGS="--minutes 60")
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

bench: $(VENV)/.installed ## What the tunnels cost, beside nginx, ssh -R and others (wants iperf3, nginx, wrk; BENCH_ARGS=--quick)
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

docs: $(VENV)/.installed-docs ## The documents as HTML, in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html

lint: $(VENV)/.installed-dev ## Style, and whether the news fragments are well-formed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/towncrier build --draft --version check > /dev/null

format: $(VENV)/.installed-dev ## Let ruff lay out the source and repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev ## Static types
	$(BIN)/mypy

clean: ## Remove the virtual environment, builds and caches
	rm -rf $(VENV) build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz
	rm -f twisted/plugins/dropin.cache
	find rtunnel twisted tests etc benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("rtunnel needs Python 3.11 or later, and $(PYTHON) is %d.%d: say which to use, as in `make PYTHON=python3.11 ...`" % v[:2])'
	$(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev
	$(PIP) install --editable '.[fuzz]'
	@touch $@

$(VENV)/.installed-docs: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[docs]'
	@touch $@ $(VENV)/.installed
