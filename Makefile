# make demo   sets up and runs the main job on images that come with scikit-learn
# make test   sets up and passes all checks: style, types, imports, tests
# make test-lowest  the same tests with the lowest versions of everything that Frostline depends on, in .venv-lowest
# make fuzz   looks for bytes that break the reading of images, of lists of images or of the store: 10 minutes each
# make soak   fits again and again in one process for 30 minutes: memory, open files and threads must not grow
# make mutants  changes 320 places of the code, one at a time, and shows which changes no test notices: about an hour of one core
# make docs   sets up and builds the documentation in build/site; warnings are errors
# make bench  measures against other libraries, each in an environment of its own: hours, 40 GB
# make bench-gpu  tests and measures on a CUDA device, if there is one
.PHONY: demo test test-long fuzz soak mutants test-lowest docs check bench bench-gpu clean

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
	$(BIN)/pytest -m "not long" -n auto --dist worksteal

test-long: $(VENV)/.installed
	$(BIN)/pytest -m long

# atheris is no dependency: it has wheels for Linux only.
FUZZ_SECONDS ?= 600
fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet 'atheris>=3.0'
	for target in decoding tables stored; do \
		PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; \
	done

SOAK_MINUTES ?= 30
soak: $(VENV)/.installed
	SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/pytest -q -s tests/test_soak.py

# Old releases warn of each other, so here their warnings are no errors.
test-lowest: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable . pytest pytest-xdist hypothesis
	.venv-lowest/bin/pytest --ignore tests/serve -m "not long" -n auto --dist worksteal -W ignore::DeprecationWarning

# cosmic-ray brings packages that Frostline's tests must not meet, so it has a folder of its own.
mutants: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --upgrade --target build/mutants-tool cosmic-ray==8.7.0
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

docs: $(VENV)/.installed
	$(BIN)/python docs/make_site.py

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/compare_peers.py --measure-epochs 1 3 --env frostline=$(abspath $(BIN))/python --resume
	$(BIN)/python benchmarks/report.py docs/performance.json docs/

bench-gpu: $(VENV)/.installed
	$(BIN)/pytest -rs tests/test_gpu.py
	$(BIN)/python benchmarks/gpu.py

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .venv-lowest build dist .cache .mypy_cache .ruff_cache .hypothesis
