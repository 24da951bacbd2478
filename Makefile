# Every target works on a clean clone with the system's Python (3.11 or newer) and nothing else.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.PHONY: help venv test lint types demo bench bench-short mutation mutation-short docs lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# The stamp changes when the lock does; packages come with hashes, the project itself is editable.
.venv/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "limen needs Python 3.11 or newer: set PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once, a minute or so)"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

venv: .venv/.stamp ## the virtual environment with everything the other targets need

test: .venv/.stamp ## all tests (what cannot run on this machine is skipped and said)
	$(BIN)/python -m pytest

lint: .venv/.stamp ## formatting, style, import contracts
	$(BIN)/ruff format --check src tests bench tools
	$(BIN)/ruff check src tests bench tools
	$(BIN)/lint-imports

.stubs/.stamp: .venv/.stamp tools/make_stubs.py $(wildcard src/limen/core/envoy/*.py)
	$(BIN)/python tools/make_stubs.py .stubs
	@touch $@

types: .stubs/.stamp ## static types, strict
	$(BIN)/mypy

demo: .venv/.stamp ## three services, each behind its own proxy, on this machine (KEEP=1 leaves it up)
	@$(BIN)/limen demo $(if $(KEEP),--keep)

bench: .venv/.stamp ## all measurements, each beside its baseline
	$(BIN)/python bench/run.py

bench-short: .venv/.stamp ## the same, a few seconds each
	$(BIN)/python bench/run.py --short

mutation: .venv/.stamp ## break the translation on purpose and count what the tests notice (N=150, SEED=3; some minutes)
	$(BIN)/python tools/mutate.py --mutants $(or $(N),150) $(if $(SEED),--seed $(SEED))

# At a true 96 % (as `make mutation` demands 95 %), more than 4 of 30 live with a chance of 0.6 %; at 80 %, of 74 %.
mutation-short: .venv/.stamp ## thirty of those, with the tests of the rooms; red only when clearly below
	$(BIN)/python tools/mutate.py --mutants 30 --quick --wanted 0.86

docs: .venv/.stamp ## write the generated pages again
	$(BIN)/python -m limen.cli.reference

lock: ## resolve requirements.lock anew from pyproject.toml
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-header --output-file requirements.lock pyproject.toml tools/build-requirements.in

clean: ## remove what the other targets made
	rm -rf .venv .stubs .mypy_cache .ruff_cache .pytest_cache .hypothesis build
