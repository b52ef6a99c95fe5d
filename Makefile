# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait for processes half of their time; each of these has a Ray of two cores of its own.
WORKERS ?= 2
export RAY_AUTH_MODE ?= disabled
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format bench bundle browser screenshots constraints clean

help: ## what each target does
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Installing again happens only when the pinned set or the packaging changed.
$(BIN)/.installed: constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' --group dev
	@touch $@

demo: $(BIN)/.installed ## cache, merge and browse 500 000 tokens of the standard library through the embedded models
	@$(BIN)/raylens demo

test: $(BIN)/.installed ## the tests (GPU and slow ones deselected), WORKERS at a time
	@$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(BIN)/.installed ## long fault and soak runs
	@$(BIN)/python -m pytest -m slow --timeout 1800

check: $(BIN)/.installed ## ruff, pyright (tests included), architecture tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@# With node's usual heap it forgets types again and again, and takes three times as long.
	@NODE_OPTIONS="$${NODE_OPTIONS:---max-old-space-size=8192}" $(BIN)/pyright
	@$(BIN)/python -m pytest tests/architecture

format: $(BIN)/.installed ## format and fix what can be fixed
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(BIN)/.installed ## ratios against their floors, into bench/results
	@$(BIN)/python -m bench.run

bundle: $(BIN)/.installed ## rebuild every embedded artefact (about two hours on 2 cores)
	@$(BIN)/python -m raylens_jobs.bundle all

browser: ## Debian's Chromium for the tests in a browser, where there is none
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then \
	  echo "Chromium is there"; \
	elif ! command -v apt-get >/dev/null; then \
	  echo "install Chromium by this system's own packages; the tests find it by the name chromium" >&2; exit 1; \
	elif [ "$$(id -u)" != 0 ]; then \
	  echo "this needs root: sudo apt-get install -y --no-install-recommends chromium" >&2; exit 1; \
	else \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	fi

screenshots: $(BIN)/.installed ## pictures of every page into docs/screenshots; WORKSPACE names one that raylens demo made
	@$(BIN)/python -m raylens_app.web.screenshots $(if $(WORKSPACE),--workspace $(WORKSPACE))

constraints: ## pin what is installed now
	@(echo "# The tested set. Made with: make constraints (pip freeze of an environment in which the tests pass)."; \
	  $(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' | sed 's/+cpu$$//') > constraints.txt

clean: ## remove the environment and build output
	rm -rf $(VENV) build dist
