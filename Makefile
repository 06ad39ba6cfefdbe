# Everything runs in .venv, which every target makes by itself and renews only when its inputs change.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help train test test-slurm kills bench docs lint venv clean

# With it set, nothing would be compiled at installation and every start would take seconds longer.
unexport PYTHONDONTWRITEBYTECODE

ARGS ?=
BIN := .venv/bin
STAMP := .venv/.stamp
PACKAGES := --constraint constraints.txt --editable '.[cluster,dev,docs]'

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

train: $(STAMP)  ## train and compare: make train ARGS="method=ocfusion seed=1"
	$(BIN)/python -m panoptic_occ.train $(ARGS)

test: $(STAMP)  ## run the tests on all cores: make test ARGS="-k fusion" (ARGS="-n0 --pdb" to debug)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-slurm: $(STAMP)  ## test sweeps and preemption on a private SLURM, 4 to 8 minutes (INSTALL=1 fetches it, as root)
	@environment="$$(scripts/slurm/start.sh $(if $(INSTALL),--install))"; \
	source "$$environment"; \
	trap scripts/slurm/stop.sh EXIT; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm -n0 tests/cluster $(ARGS)

kills: $(STAMP)  ## kill every command at 25 random moments, for the page on trust, about an hour
	KILLS=25 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n0 tests/cluster/test_kills.py $(ARGS)

bench: $(STAMP)  ## measure the suite beside public ways, less than five minutes: make bench ARGS="--job paste"
	$(BIN)/python -m scripts.benchmark $(ARGS)

docs: $(STAMP)  ## build the documentation into build/site, with every link checked
	PATH="$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(STAMP)  ## check style and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP)  ## install everything into .venv (PYTHON=/path/to/python chooses the interpreter)

clean:  ## remove .venv, caches and build output; runs and data stay
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests scripts conf -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP): pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	for candidate in python3 python3.13 python3.12 python3.11; do \
	  if [ -n "$$python" ]; then break; fi; \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; fi; \
	done; \
	python="$${python:-python3}"; \
	if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "error: Python 3.11 or newer is needed, $$python is $$("$$python" --version 2>/dev/null || echo not to be found);" \
	    "install one, or name it: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	set -x; \
	if command -v uv >/dev/null; then \
	  $(BIN)/python -c '' 2>/dev/null || uv venv --quiet --clear --python "$$("$$python" -c 'import sys; print(sys.executable)')" .venv; \
	  uv pip install --python $(BIN)/python --compile-bytecode $(PACKAGES); \
	else \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear .venv; \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt uv && \
	    $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode $(PACKAGES) || \
	    $(BIN)/python -m pip install $(PACKAGES); \
	fi
	@touch $@
