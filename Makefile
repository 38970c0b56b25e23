# make demo   see the whole system work          make test   everything that CI checks          make help   the rest

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11; do \
	if $$name -c '$(FITS)' 2>/dev/null; then echo $$name; exit; fi; done; echo python3)
endif

JOBS := 3 # test files at a time: they wait more than they work

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --require-hashes --only-binary :all: --requirement
INSTALL_WORKER := $(PIP) install --quiet --no-deps --no-build-isolation --editable .
CODE := worker tests bench docs k8s
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-annotate --no-config --custom-compile-command "make lock" \
	$(if $(UPGRADE),--upgrade) --extra cpu --group build

.PHONY: help demo test lint bench soak lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.runs ## real requests through an embedded broker, every answer checked; ARGS="--requests 1000"
	@$(BIN)/trt-worker demo $(ARGS)

test: lint ## lint, format, types and every test; real Kafka where Java 17 and Maven are; ARGS="-k name" JOBS=1
	@$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.tests ## ruff, format check, mypy --strict, import layers
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/pytest --quiet --no-header tests/test_layers.py

bench: $(VENV)/.tests ## the worker beside a raw pass-through and others; WHAT=latency|scaling|soak; ARGS="--minutes 8"
	@$(BIN)/python -m bench.$(or $(WHAT),throughput) $(ARGS)

soak: $(VENV)/.tests ## the tests that run for minutes
	@$(BIN)/pytest -m soak --soak $(ARGS)

lock: $(VENV)/.tests ## remake the lock files; UPGRADE=1 takes the newest versions
	@$(UV_COMPILE) --output-file requirements.lock
	@$(UV_COMPILE) --constraint requirements.lock --group dev --output-file requirements-dev.lock
	@$(UV_COMPILE) --constraint requirements.lock --extra gpu --output-file requirements-gpu.lock
	@$(UV_COMPILE) --constraint requirements.lock --extra rtx --output-file requirements-rtx.lock

clean: ## remove what was installed, downloaded and cached
	@rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each install runs again only when its lock or pyproject.toml changed.
$(VENV)/.created:
	@$(PYTHON) -c '$(FITS)' 2>/dev/null || { echo "make: $(PYTHON) is not Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runs: $(VENV)/.created requirements.lock pyproject.toml
	@echo "installing into $(VENV) (once, about 100 MB) …"
	@$(INSTALL) requirements.lock
	@$(INSTALL_WORKER)
	@touch $@

$(VENV)/.tests: $(VENV)/.created requirements-dev.lock pyproject.toml
	@echo "installing into $(VENV) (once, about 500 MB) …"
	@$(INSTALL) requirements-dev.lock
	@$(INSTALL_WORKER)
	@touch $@
