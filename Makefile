# Two commands matter: `make demo` and `make test`. Everything they need, they set up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTHOST := $(BIN)/python molecule/shared/testhost.py
SUITE ?= $(or $(BERTH_TEST_SUITE),trixie)

export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Compiled bytecode is what makes ansible start in a third of the time.
unexport PYTHONDONTWRITEBYTECODE
# uv and pip trust what this machine trusts, also where a company's proxy re-signs TLS.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export SSL_CERT_FILE ?= /etc/ssl/certs/ca-certificates.crt
endif

.PHONY: help setup demo demo-down quick test test-all vm lint unit e2e e2e-long molecule bench bench-long bench-proxy bench-backups lock clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.run ## the virtual environment that runs the playbooks, from hashed requirements

$(VENV)/.run: requirements.txt molecule/shared/venv
	@molecule/shared/venv $(PYTHON) $(VENV) requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt molecule/shared/venv
	@molecule/shared/venv $(PYTHON) $(VENV) requirements-dev.txt
	@touch $(VENV)/.run $@

demo: $(VENV)/.run ## a disposable host on this machine, two apps on it over HTTPS
	@$(BIN)/python molecule/shared/demo.py up

demo-down: ## remove everything that the demo made
	@if [ -x $(BIN)/python ]; then $(BIN)/python molecule/shared/demo.py down; else echo "No demo here: $(VENV) does not exist."; fi

quick: $(VENV)/.dev ## while a change is made: all that needs no host, in three minutes at most
	@ruff check . && ruff format --check . && mypy && yamllint --strict .
	@$(MAKE) --no-print-directory unit

test: $(VENV)/.dev ## everything: lint, unit, the app's own tests, molecule, real hosts
	@.ci/test

test-all: $(VENV)/.dev ## what a clock runs each night: make test with the long tests and make bench-long
	@.ci/test --all

lint: $(VENV)/.dev ## ansible-lint, yamllint, ruff, mypy
	@.ci/lint

unit: $(VENV)/.dev ## tests that need no host
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/unit

e2e: $(VENV)/.dev ## tests on real hosts
	@$(BIN)/pytest -v -m 'not long' tests/e2e

e2e-long: $(VENV)/.dev ## power cuts, more kills and broken releases, a small server; not in make test
	@$(BIN)/pytest -v -m long tests/e2e

molecule: $(VENV)/.dev ## molecule's default scenario: make molecule SUITE=bookworm
	@BERTH_TEST_SUITE=$(SUITE) $(BIN)/molecule test

vm: $(VENV)/.dev ## true machines in software emulation: kernel, audit, reboots, scanners; an hour or two
	@BERTH_TEST_SUITE=$(SUITE) $(BIN)/pytest -v -s tests/vm

bench: $(VENV)/.dev ## the figures of the README, measured here and now (ARGS=--write puts them there)
	@$(BIN)/python tests/bench/bench.py $(ARGS)

bench-backups: $(VENV)/.dev ## what backups cost a busy server, and how long a restore takes (ARGS=--write, too)
	@$(BIN)/python tests/bench/backups.py $(ARGS)

bench-proxy: $(VENV)/.dev ## what each part of the proxy's sites costs beside a plain Caddyfile
	@$(BIN)/python tests/bench/proxy.py

bench-long: $(VENV)/.dev ## a hundred deploys beside a million requests, of which none may fail
	@$(BIN)/python tests/bench/long.py

lock: $(VENV)/.dev ## compile the hashed requirements anew
	@$(BIN)/uv pip compile -q --generate-hashes --universal --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements.txt
	@$(BIN)/uv pip compile -q --generate-hashes --universal --no-emit-index-url --no-emit-find-links --no-header --extra dev pyproject.toml -o requirements-dev.txt

clean: ## remove the virtual environment, hosts and caches
	@if [ -x $(BIN)/python ]; then $(TESTHOST) down --all; $(BIN)/python molecule/shared/vm.py down --all; fi
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .ansible
