# One command each: `make demo`, `make test`, `make check`, `make bench`. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv

# Threads that spin while they wait slow everything down where others use the machine, too.
export OMP_WAIT_POLICY ?= PASSIVE

BIN := $(VENV)/bin
STAMP := $(VENV)/.headgate-installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz check bench web webcheck clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Install Headgate and its tools into .venv, with pinned versions.

# The variables hold the build's own requirements to the same versions (which one counts depends on pip's age).
# The Python files are used in place; only what the build reads asks for a new install.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Headgate needs Python 3.11 or newer; run make PYTHON=/path/to/python"; exit 1; }
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## Train a small Mixture-of-Experts model and show its routing.
	$(BIN)/headgate demo

test: setup  ## Run the tests; fail when they reach less than 95 % of the code.
	$(BIN)/python -m pytest -n auto --cov --cov-report=term

fuzz: setup  ## Feed 100,000 damaged files to the trace reader and every importer; takes about four minutes.
	$(BIN)/python tests/fuzz_traces.py --inputs 100000

check: setup  ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup  ## Run every benchmark, long ones in their quick form.
	@set -e; for file in $(sort $(wildcard benchmarks/*.py)); do \
	  case "$$file" in benchmarks/experts.py) flags=--quick ;; \
	    benchmarks/gpu.py) flags="--check --time" ;; *) flags= ;; esac; \
	  echo "$(BIN)/python $$file $$flags"; $(BIN)/python "$$file" $$flags; done

web:  ## Build the page of headgate report; needs Node, and what it writes is committed.
	npm --prefix web ci
	npm --prefix web run build

webcheck:  ## Check and test web/, build it, and compare with the page in the package.
	web/compare.sh

clean:  ## Remove what these commands made.
	rm -rf $(VENV) web/node_modules build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
