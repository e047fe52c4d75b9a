# The two commands: `make demo` and `make test`. Both make what they need, in .venv.
.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean redis-server

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

help:  ## Show the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## Install, start the support fleet, hold a conversation, show its cost and trace
	$(BIN)/admiralty demo

test: $(VENV)/.dev build/src/admiralty redis-server  ## Install what tests need and run everything
	$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.dev build/src/admiralty  ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=build/src $(BIN)/lint-imports

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove what the above made
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# torch goes first: with it in place, nothing pulls in another build of it.
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing admiralty[$*] into $(VENV); the first time takes some minutes ..."
	$(PIP) torch
	$(PIP) --no-build-isolation -e '.[$*]'
	@touch $@

# Tests of several schedulers want a real Redis. It keeps nothing, and listens on 127.0.0.1 while they run.
redis-server:
	@command -v redis-server >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing redis-server for the tests ..."; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends redis-server; } >/dev/null \
	  || echo "redis-server cannot be installed: tests that need it are skipped, in CI they fail."; \
	else \
	  echo "No redis-server: tests that need it are skipped, in CI they fail."; \
	  echo "Install it: sudo apt-get install redis-server, or: brew install redis"; \
	fi

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Admiralty needs Python 3.11 or newer, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools wheel

# The folders stand at the top level; mypy and import-linter see them as one namespace through links.
build/src/admiralty:
	mkdir -p $@
	for folder in core tools memory agents runtime evals fleets; do ln -sfn ../../../$$folder $@/$$folder; done
