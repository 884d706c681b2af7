# Everything happens in .venv, which the first command makes. `make setup PYTHON=python3.11` chooses the interpreter.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := .venv/.installed

# One thread per process: several processes that each start a thread per core are many times slower.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: setup demo test test-slow test-deep test-oldest test-newest check docs gpu format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "ngopt needs Python 3.10 or newer. Name one: make setup PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (the first time takes minutes) ..."
	$(PIP) "pip>=25.1"
	$(PIP) -c constraints.txt --group test --group benchmark --group docs --group dev -e ".[all]"
	$(PIP) -c constraints.txt --no-deps torchvision timm # their dependencies would replace a CPU build of torch
	@touch $@

demo: setup
	$(BIN)/python -m benchmarks.demo

test: setup
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow

test-deep: setup
	HYPOTHESIS_PROFILE=deep $(PYTEST) -m hypothesis

# Environments of their own, with the oldest and the newest versions that pyproject.toml allows; downloads of GBs.
test-oldest test-newest: setup
	$(BIN)/python -m benchmarks.versions $(@:test-%=%) --python $(PYTHON)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

gpu: setup
	$(BIN)/python -m benchmarks.gpu

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis site
