# saescope: everything lives in .venv, nothing is installed elsewhere.
#
#   make run      install what is needed, start the program
#   make test     the whole test suite
#   make test-heavy  the slowest tests
#   make test-ray    the test of a Ray cluster of two nodes on this machine, with the extra `ray`
#   make lint     style, types and import rules
#   make bench    every benchmark
#   make install  only install
#   make clean    remove .venv and caches (the workspace in data/ stays)
#
# PYTHON=python3.12 make run        another interpreter (3.11 or newer)
# PIP_FLAGS="--index-url ..."       another package index, such as one with CPU or CUDA builds of torch
# UV= make run                      install with pip although uv is there
# TORCH=cu128 make run              with uv: the build of torch (cpu, auto, cu128, ...) instead of the one chosen here
# PORT=9000 make run                any setting of the program (see README)

# The first interpreter that is new enough.
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13 python; do \
  $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n auto -m "not heavy"

VENV := .venv
BIN := $(VENV)/bin
# uv installs several times faster than pip, and chooses the build of torch: without NVIDIA's driver the one for CPUs,
# which is gigabytes smaller.  pip takes the build that its package index gives.
UV ?= $(shell command -v uv)
TORCH ?= $(if $(wildcard /proc/driver/nvidia/version)$(shell command -v nvidia-smi),auto,cpu)
ifeq ($(UV),)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
HOW = pip, and torch as its package index gives it
else
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --torch-backend $(TORCH) $(PIP_FLAGS) -c constraints.txt
HOW = uv, and the build "$(TORCH)" of torch$(if $(filter cpu,$(TORCH)), (no NVIDIA driver was found))
endif
MANIFESTS := pyproject.toml constraints.txt

.PHONY: install run test test-heavy test-kills test-ray lint bench clean

install: $(VENV)/.installed

run: $(VENV)/.installed
	@exec $(BIN)/saescope serve

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-heavy: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto -m heavy

test-kills: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 -m heavy tests/test_fifty_kills.py

test-ray: $(VENV)/.installed-ray
	SAESCOPE_TEST_RAY=$(CURDIR)/$(BIN)/ray $(BIN)/python -m pytest -n 0 \
	  tests/unit/app/jobs/launchers/test_ray_cluster.py -k "lost_node and sqlite"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: $(VENV)/.installed
	@failed=; for file in benchmarks/[!_]*.py; do \
	  name=$$(basename "$$file" .py); echo "== $$name"; \
	  $(BIN)/python -m "benchmarks.$$name" || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps: a step is done again only when what decides it has changed.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "saescope needs Python 3.11 or newer: install it, or set PYTHON to it."; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(MANIFESTS) | $(VENV)/.made
	@echo 'Installing saescope into $(VENV) with $(HOW); the first time this takes minutes'
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(MANIFESTS) | $(VENV)/.installed
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.installed-ray: $(MANIFESTS) | $(VENV)/.installed-test
	$(INSTALL) -e '.[test,ray]'
	@touch $@

$(VENV)/.installed-dev: $(MANIFESTS) | $(VENV)/.installed
	$(INSTALL) -e '.[test,dev]'
	@touch $@
