# Everything that is done with this repository, each by one word. Needs only GNU make and Python >= 3.10.
# Variables: PYTHON (the interpreter that makes the environment), ARGS (passed on, as in `make test ARGS="-k chamfer -n 0"`).

SHELL := bash
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3.10 python3))
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
# Tests run side by side, so each process computes with one thread.
ONE_THREAD := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench docs clean

help:  ## list what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY)  ## make the environment .venv with the tested versions

# The file is the proof of a finished installation: it is made anew when what to install has changed.
# torch comes first and by itself, so that its build (CPU or CUDA) is the one that pip finds for this machine.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python found; say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo "installing the tested versions into .venv (about 1.3 GB; minutes, once)"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,viz]'
	@touch $@

demo: setup  ## pre-train a small encoder on built-in shapes and probe it, in minutes on a CPU
	$(BIN)/pointmadi pretrain $(ARGS)

test: setup  ## run all tests, slow ones too
	$(ONE_THREAD) $(BIN)/pytest -n auto $(ARGS)

check: setup  ## lint, formatting, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .import_linter_cache

format: setup  ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup  ## measure speed on this machine
	@for script in benchmarks/ops.py benchmarks/pretrain_step.py benchmarks/segmentation_head.py; do echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; done

docs: setup  ## check the documents: links, recipes and the commands they show
	$(ONE_THREAD) $(BIN)/pytest tests/test_docs.py $(ARGS)

clean:  ## remove the environment and caches, never results
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
