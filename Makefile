# `make` lists the targets. Everything runs in .venv, which `deploy/local/setup` keeps up to date.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON_BIN := .venv/bin/python
BUF := @bufbuild/buf@1.75.0
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
export BASE_IMAGE GPU PYTHON
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: help setup setup-dev run stop test check lint type unit test-hf integration chaos bench protos models gpu-check image-test deploy-check pods-test lock

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r target text; do printf '  %-12s %s\n' "$$target" "$$text"; done

setup: ## create .venv with what a running suite needs (GPU=0: without CUDA libraries)
	@deploy/local/setup

setup-dev:
	@deploy/local/setup dev train

run: setup ## start Consul, the services and the gateway here: make run [REPLICAS=n] [GPU=0]
	@exec $(PYTHON_BIN) -m deploy.local $(if $(REPLICAS),--replicas "$(REPLICAS)") $(if $(filter 0,$(GPU)),--cpu)

stop: ## end a run that goes on in the background: make stop [RUN=port or folder]
	@exec $(PYTHON_BIN) -m deploy.local.stop $(if $(RUN),"$(RUN)")

test: ## everything that must hold: lint, types, protos, unit, parity, integration, short chaos
	@tests/stages.sh

check: lint type unit ## the quick part of `make test`

lint: setup-dev ## style, import rules and protos
	@$(PYTHON_BIN) -m ruff check .
	@$(PYTHON_BIN) -m ruff format --check .
	@$(PYTHON_BIN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@if ! command -v npx >/dev/null; then echo 'buf lint skipped: no Node.js here'; \
	elif ! npx --yes --package=$(BUF) buf --version >/dev/null 2>&1; then echo 'buf lint skipped: npm has no $(BUF)'; \
	else npx --yes --package=$(BUF) buf lint protos && echo 'buf lint: protos are clean'; fi

type: setup-dev ## mypy, strict
	@$(PYTHON_BIN) -m mypy

unit: setup-dev ## quick tests without network
	@$(PYTHON_BIN) -m pytest -q $(PARALLEL) tests/unit

test-hf: ## checkpoints of every family that `trivium export language` takes, against the library transformers
	@deploy/local/setup dev train hf
	@$(PYTHON_BIN) -m pytest -q tests/hf

integration: setup-dev ## tests with a real Consul and real processes
	@$(PYTHON_BIN) -m pytest -q tests/integration

chaos: setup-dev ## kill, pause and cut while traffic runs; the long ones too
	@$(PYTHON_BIN) -m pytest -q tests/chaos

bench: setup-dev ## measure latency and throughput; writes tests/bench/results
	@$(PYTHON_BIN) -m tests.bench
	@$(PYTHON_BIN) -m tests.bench.streams
	@$(PYTHON_BIN) -m tests.bench.generation

protos: setup-dev ## generate the Python code and descriptors from protos/
	@$(PYTHON_BIN) protos/generate.py

models: setup-dev ## train and export the default bundles whose training inputs have changed
	@for service in services/*/training/__main__.py; do \
		$(PYTHON_BIN) -m "$$(dirname "$$service" | tr / .)" || exit; done

gpu-check: ## run every bundle on the GPU and compare it with the CPU; kill instances there
	@if ! python3 -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null; then \
		echo "no GPU here (libcuda.so.1 does not load): nothing was checked"; \
	else \
		$(MAKE) --no-print-directory setup-dev && $(PYTHON_BIN) -m tests.gpu_check && $(PYTHON_BIN) -m tests.gpu_check.deaths; \
	fi

image-test: setup-dev ## build all images with what is here, start them and look (GPU=1: the GPU's too; BASE_IMAGE=...)
	@$(PYTHON_BIN) -m pytest -q -rs -o faulthandler_timeout=3600 tests/image_test

deploy-check: ## build and check everything in deploy/, without a cluster
	@deploy/local/setup dev deploy
	@$(PYTHON_BIN) -m pytest -q --ignore=tests/deploy/test_pods.py tests/deploy

pods-test: ## as root on Linux: run the pods of the cpu overlay in network namespaces, with a roll-out under traffic
	@deploy/local/setup dev deploy
	@$(PYTHON_BIN) -m pytest -q -rs tests/deploy/test_pods.py

lock: setup-dev ## write requirements/*.lock from pyproject.toml (LOCK_UPGRADE=1: with the newest versions)
	@requirements/lock.sh
