# The developer's commands. Each installs what it needs into .venv, once, and again when pyproject.toml or constraints.txt
# change. Only Python 3.11 or later (with pip) and make have to be there.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .proto-venv
OLDEST := .venv-oldest
PROTO_OUT := tracelet/proto/v1
# Arguments for pytest: make test ARGS="tests/transport -k fork"
ARGS ?=

# What would make pip install elsewhere or something else, or Python find other packages. Where pip looks is the machine's affair.
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_CONSTRAINT PIP_REQUIREMENT PIP_NO_DEPS PIP_NO_BINARY PIP_DRY_RUN
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Some containers set it. The tests start thousands of Pythons, and each would compile what it imports of the packages.
unexport PYTHONDONTWRITEBYTECODE

# Downloads take minutes: people see them go on.
QUIET := $(if $(CI),--quiet)
PIP_INSTALL = -m pip install $(QUIET) --disable-pip-version-check --no-input
INSTALL = $(BIN)/python $(PIP_INSTALL) -c constraints.txt
INSTALL_OLDEST = $(OLDEST)/bin/python $(PIP_INSTALL) -c $(OLDEST)/constraints.txt

.PHONY: help demo test oldest torture lint format typecheck proto proto-check docs bench clean distclean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make demo         train a small classifier under tracelet and show its numbers in MLflow
demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

# Three for two cores: the tests wait for processes and disks more than they compute.
## make test         the test suite (ARGS="tests/transport -k fork" for a part of it)
test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 3 --dist worksteal -m "not torture" $(ARGS)

## make oldest       the tests of frameworks with the oldest versions that they are made for (an environment of its own)
oldest: $(OLDEST)/.ready
	@$(OLDEST)/bin/python -m pytest -n 3 --dist worksteal -m "not torture" tests/docs/test_versions.py tests/frameworks $(wildcard tests/nested) $(ARGS)

## make torture      the long fault tests, their table in build/torture.md; TRACELET_TORTURE_SEED repeats a run, TRACELET_TORTURE_ROUNDS=3 is shorter
torture: $(VENV)/.dev
	@export TRACELET_TORTURE_SEED=$${TRACELET_TORTURE_SEED:-$$(( RANDOM * 32768 + RANDOM ))}; \
	echo "seed: $$TRACELET_TORTURE_SEED (make torture TRACELET_TORTURE_SEED=$$TRACELET_TORTURE_SEED repeats this run)"; \
	rm -f build/torture.xml; status=0; \
	$(BIN)/python -m pytest -n 2 --dist worksteal -m torture --timeout 3600 --junitxml build/torture.xml $(ARGS) || status=$$?; \
	[ ! -f build/torture.xml ] || $(BIN)/python -m tests.support.torture build/torture.xml --seed $$TRACELET_TORTURE_SEED --arguments='$(ARGS)' \
	    --into build/torture.md && echo "build/torture.md has the table"; \
	exit $$status

## make lint         ruff: rules and format
lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

## make format       ruff: mend what can be mended
format: $(VENV)/.dev
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

## make typecheck    mypy --strict
typecheck: $(VENV)/.dev
	@$(BIN)/mypy

## make proto        generate tracelet/proto/v1 from proto/
proto: $(PROTO_VENV)/.ready
	@$(call protoc,.) && echo "$(PROTO_OUT) is generated"

## make proto-check  is the generated code current?
proto-check: $(PROTO_VENV)/.ready
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; $(call protoc,$$out); \
	diff -r -x __init__.py -x __pycache__ "$$out/$(PROTO_OUT)" $(PROTO_OUT) \
	    || { echo "$(PROTO_OUT) is not what proto/ says: run 'make proto' and commit the result" >&2; exit 1; }; \
	echo "$(PROTO_OUT) is current"

## make docs         build the documentation into site/
docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict && echo "site/index.html is built"

## make bench        the benchmarks, with modest sizes; figures also in build/bench-*.json
bench: $(VENV)/.demo
	@for bench in intercept dataloader ingest delivery fanout frameworks lightning_fit children optim; do $(BIN)/python benchmarks/$$bench.py --json build/bench-$$bench.json $(ARGS); done
	@$(BIN)/python benchmarks/convergence.py --seeds 2 --budget 5000 --out build/convergence --json build/bench-convergence.json

## make clean        remove what these commands made, but the environments (make distclean: those too)
clean:
	@rm -rf demo-out site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './$(OLDEST)/*' -not -path './$(PROTO_VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV) $(OLDEST) $(PROTO_VENV)

# -- environments ----------------------------------------------------------------------------------------------------

# torch comes first and pinned: whatever else asks for it then finds it there.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing torch, MLflow and what the demo needs (a few minutes, once)"
	@$(INSTALL) torch
	@$(INSTALL) -e '.[demo]'
	@touch $@

# fastai asks for torchvision, which would bring another torch. What the tests use of it (fastai.basics) needs only these.
FASTAI = fastai fastcore fastdownload fastprogress fasttransform plum-dispatch beartype

# 'dev' holds 'demo' and 'docs'.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing torch, MLflow and the development tools (a few minutes, once)"
	@$(INSTALL) torch
	@$(INSTALL) -e '.[dev]'
	@$(INSTALL) --no-deps $(FASTAI)
	@touch $(VENV)/.demo $(VENV)/.docs $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the documentation's tools"
	@$(INSTALL) -e '.[docs]'
	@touch $@

# The pinned set, with what constraints-oldest.txt has in the place of the same packages.
$(OLDEST)/.ready: pyproject.toml constraints.txt constraints-oldest.txt | $(OLDEST)/bin/python
	@echo "installing torch, the oldest supported libraries and the development tools (a few minutes, once)"
	@awk -F== 'FNR == NR { if (!/^#/) { oldest[tolower($$1)]; print } next } !(tolower($$1) in oldest)' \
	    constraints-oldest.txt constraints.txt > $(OLDEST)/constraints.txt
	@$(INSTALL_OLDEST) torch
	@$(INSTALL_OLDEST) -e '.[dev]'
	@$(INSTALL_OLDEST) --no-deps $(FASTAI)
	@touch $@

$(BIN)/python $(OLDEST)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || { echo "the pinned set needs Python 3.11 or later: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(patsubst %/bin/python,%,$@)

# Of its own: the compiler of these versions needs an older protobuf than the rest, and what it generates runs on all that
# pyproject.toml allows.
$(PROTO_VENV)/.ready:
	@"$(PYTHON)" -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
	    grpcio-tools==1.75.1 mypy-protobuf==3.6.0
	@touch $@

protoc = PATH="$(CURDIR)/$(PROTO_VENV)/bin:$$PATH" $(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iproto \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(wildcard proto/$(PROTO_OUT)/*.proto)
