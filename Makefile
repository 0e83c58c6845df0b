# Two commands: `make demo` shows it, `make test` proves it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo

.PHONY: help demo test lint fuzz chaos clean

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

demo: $(VENV)/installed  ## Make a corpus and a small model, annotate, and show what came out
	$(BIN)/phicorpus demo $(DEMO)

lint: $(VENV)/installed  ## Format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

test: lint  ## Everything that CI runs
	$(BIN)/pytest

fuzz: $(VENV)/installed  ## Decode 10,000 damaged files; fails on an error without a name
	$(BIN)/python -m tests.hostile.fuzz

chaos: $(VENV)/installed  ## Kill drivers and workers at random, over 200 times, and count what is lost
	$(BIN)/python -m tests.chaos.soak --runs 21 --kills 10 --output benchmarks/results/chaos.json

clean:  ## Remove the virtual environment and the demo
	rm -rf $(VENV) $(DEMO)
