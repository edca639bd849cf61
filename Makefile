PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test test-slow test-all durations check clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "lsr needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/lsr demo --out demo-index

# One thread of torch for each of two processes; worksteal, since few tests take most of the time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
TWO := -n 2 --dist worksteal

test: $(STAMP)
	$(PYTEST) $(TWO) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) $(TWO) -m slow --durations=20

test-all: test test-slow

# Tests that should be marked slow. One process, so that each is measured alone.
durations: $(STAMP)
	$(PYTEST) -q -m "not slow" -p tests.durations

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info
