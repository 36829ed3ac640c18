# make demo   sets up and runs the main job on images that come with scikit-learn
# make test   sets up and passes all checks: style, types, tests
.PHONY: demo test test-long check clean

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Frostline needs Python 3.11 or newer: make PYTHON=python3.12 …"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/frostline fit digits

test: check
	$(BIN)/pytest -m "not long"

test-long: $(VENV)/.installed
	$(BIN)/pytest -m long

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
