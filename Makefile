PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test check clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "lsr needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/lsr demo --out demo-index

test: $(STAMP)
	# One thread of torch for each of two processes; worksteal, since few tests take most of the time.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info
