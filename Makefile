PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-semantic test lint docs clean

# One environment for everything; made again when the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

## Train on built-in synthetic images and write label images and a picture into demo/.
demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

## The same for classes of pixels, from masks, boxes, points and tags; into demo_semantic/.
demo-semantic: $(VENV)/.installed
	$(BIN)/python examples/demo_semantic.py

## All tests but the slow ones.
test: $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo demo_semantic dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
