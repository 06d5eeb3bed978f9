# The same commands at home and in CI. Everything runs in .venv, which `make` sets up on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: demo test slow check docs bench clean

demo: $(READY)  ## the main job on real data that ships with scikit-learn
	$(BIN)/polytask demo

test: $(READY)  ## every test that takes less than minutes
	$(BIN)/python -m pytest -n 2 -m "not slow"

slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(READY)  ## style and types
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

docs: $(READY)  ## write the generated tables of the docs, and run what the docs show
	$(BIN)/python docs/generate.py
	$(BIN)/python -m pytest tests/test_docs.py

bench: $(READY)  ## the benchmarks behind the numbers in docs/
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.step --memory
	$(BIN)/python -m benchmarks.step --first-step
	$(BIN)/python -m benchmarks.step --gramian
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.solvers
	$(BIN)/python -m benchmarks.toy_2d
	$(BIN)/python -m benchmarks.curriculum
	$(BIN)/python -m benchmarks.bandit
	$(BIN)/python -m benchmarks.imbalance
	$(BIN)/python benchmarks/families.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
