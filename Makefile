# make demo   run the whole pipeline on the bundled sample
# make test   run the tests
# make ui     show the runs in Prefect's UI
# make up     Prefect server + worker + deployments in the background; make stop ends them
# make check  linters and types; make bench runs the benchmarks

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: bench check clean demo stop test ui up

demo: .venv/.demo
	@$(BIN)/python -m flows.local demo

ui: .venv/.demo
	@$(BIN)/python -m flows.local ui

up: .venv/.demo
	@$(BIN)/python -m flows.local up

stop: .venv/.demo
	@$(BIN)/python -m flows.local down

test: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.test
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .prefect data/runs

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "synthie needs Python 3.11 or later; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module is missing (Debian: apt install python3-venv)." >&2; exit 1; }

# The stamps make setting up a no-op until the requirements change.
.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv (once, a few minutes) …"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[train]'
	@touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv with the test tools (once, a few minutes) …"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[train,test]'
	@touch .venv/.demo $@
