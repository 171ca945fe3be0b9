# One environment in .venv, one verb each for a newcomer: `make demo`, `make test`. Every target may be repeated:
# a stamp in .venv, written last, says that the environment is complete; without it the next call starts afresh.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# An environment keeps its kind until the other one is asked for: the two builds of fbgemm own the same folder.
CUDA ?= $(if $(wildcard $(VENV)/.ready-cuda),1,0)
READY := $(VENV)/.ready-$(if $(filter 1,$(CUDA)),cuda,cpu)
REQUIREMENTS := $(if $(filter 1,$(CUDA)),-e '.[dev]',-r .ci/cpu/requirements.txt)
OTHER_PYTHON = gem-distill needs Python 3.11 to 3.14; name one: make $(MAKECMDGOALS) PYTHON=python3.12

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean

help:
	@echo 'make setup   install into .venv (CPU; nothing to do when it is up to date)'
	@echo 'make demo    setup, then teacher, students and report on simulated data'
	@echo 'make test    setup, then ruff, mypy and the tests'
	@echo 'make lint    setup, then ruff and mypy only'
	@echo 'make format  setup, then let ruff rewrite what it can'
	@echo 'make clean   remove .venv and what the tools cached'
	@echo
	@echo 'PYTHON=python3.12  another interpreter (3.11 to 3.14)'
	@echo 'CUDA=1             CUDA builds of torch and fbgemm instead of the CPU ones'
	@echo 'TORCH_INDEX=...    where to take the CPU build of torch from (see .ci/cpu/requirements.txt)'
	@echo 'WORKERS=2          test processes'

setup: $(READY)

# pip installs over what is there when only the requirements changed; the stamp goes first, so that an interrupted
# installation leaves none and is done again from an empty environment.
$(READY): pyproject.toml .ci/cpu/requirements.txt .ci/cpu/fbgemm-gpu/pyproject.toml
	@test "$$(uname -s)" = Linux || { echo "gem-distill needs Linux: fbgemm has no builds for $$(uname -s)."; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' here. $(OTHER_PYTHON)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
	  { echo "'$(PYTHON)' is $$($(PYTHON) -V 2>&1). $(OTHER_PYTHON)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -f $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) $(shell grep '^torch==' .ci/cpu/requirements.txt))
	$(BIN)/python -m pip install $(REQUIREMENTS)
	$(BIN)/python -m pip check
	@touch $@

demo: setup
	$(BIN)/distill run experiments/demo.yaml

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# One thread per process: the tests' models are small, and WORKERS processes share the cores. In the order of their
# names: by the number of its tests, a file of one long test would be the last, and leave the other processes idle.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
