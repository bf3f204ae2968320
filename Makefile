# `make demo` runs the main job, `make test` passes the tests; both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Workers of `make test`. Each has servers of its own, copied from what the first one prepares, and half of its time is
# waiting: six keep two cores busy. Five left them idle for a fifth of the time, and eight took no less time.
WORKERS ?= 6
BENCH_STAMP := $(VENV)/.installed-bench
DEPLOY_STAMP := $(VENV)/.installed-deploy
# Of protos/, with all imports; of the last release there is a copy beside the protos.
DESCRIPTORS := gen/playbook-runs.binpb
# Compiled modules are kept: the suite starts a hundred processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-page test-faults test-faults-full soak bench check audit gen lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with everything in it

$(STAMP): requirements.lock pyproject.toml client/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable ./client --editable .
	touch $@

demo: setup ## the main job, start to end: import, preview, draft, apply, improved catalog
	$(BIN)/playbook-runs demo

test: setup ## unit, integration and e2e tests (3 minutes on two cores)
	$(BIN)/pytest -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-page: setup ## the page in a real Chromium (1 minute)
	$(BIN)/pytest -q tests/browser

test-faults: setup ## the fault suite at its bounded size: everything that may break is broken (7 minutes)
	$(BIN)/pytest -q tests/faults -m "not alone" --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest -q tests/faults -m alone

test-faults-full: setup ## the fault suite at full size (half an hour)
	FAULTS=full $(BIN)/pytest -q tests/faults

soak: setup ## ten minutes of load (SOAK_SECONDS), a fault every 20 s, then an audit and a table
	$(BIN)/python -m tests.soak

bench: setup $(BENCH_STAMP) ## measure what docs/performance.md claims: JSON and plots (a quarter of an hour)
	$(BIN)/python -m benchmarks

$(BENCH_STAMP): $(STAMP) benchmarks/requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.lock
	touch $@

check: setup $(DEPLOY_STAMP) ## lint, types, protos, generated code, import rules, manifests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/gen.py --check
	$(BIN)/buf lint $(DESCRIPTORS) --config buf.yaml --path playbooks
	$(BIN)/buf breaking $(DESCRIPTORS) --against protos/released.binpb --config buf.yaml
	$(BIN)/python tools/configuration.py --check
	$(BIN)/python tools/dashboard.py --check
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/manifests.py

$(DEPLOY_STAMP): $(STAMP) deploy/requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements.lock
	touch $@

audit: setup ## known vulnerabilities of what requirements.lock names (needs the vulnerability database of PyPI)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

gen: setup ## regenerate gen/, gateway/openapi.json, docs/configuration.md and the dashboard
	$(BIN)/python tools/gen.py
	$(BIN)/python tools/configuration.py
	$(BIN)/python tools/dashboard.py

lock: setup ## resolve requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra devstack --group dev --universal --python-version 3.11 \
		--no-emit-package playbook-runs-client --generate-hashes --no-emit-index-url --no-emit-find-links -o requirements.lock
	uv pip compile pyproject.toml --extra devstack --group bench --constraint requirements.lock --universal \
		--python-version 3.11 --no-emit-package playbook-runs-client --generate-hashes \
		--no-emit-index-url --no-emit-find-links -o benchmarks/requirements.lock
	uv pip compile --group deploy --constraint requirements.lock --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links -o deploy/requirements.lock

clean: ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
