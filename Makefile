# demo and test do everything on a fresh machine; the rest are their parts.
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 200
EXAMPLES ?= 20000

.PHONY: demo test check unit sim integration e2e attack fuzz crash-sample crash bench clean

demo: .venv/ready
	examples/demo

test: check unit sim integration e2e attack crash-sample

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest tests/test_house.py

unit: .venv/ready
	$(BIN)/pytest tests/unit

sim: .venv/ready
	$(BIN)/python -m tests.simulation run --seeds $(SEEDS)
	$(BIN)/pytest tests/simulation

integration: .venv/ready
	$(BIN)/pytest tests/integration

e2e: .venv/ready
	$(BIN)/pytest tests/e2e

attack: .venv/ready
	$(BIN)/pytest tests/attack

fuzz: .venv/ready
	CORPS_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest --timeout 0 tests/attack

crash-sample: .venv/ready
	$(BIN)/pytest tests/crash

crash: .venv/ready
	$(BIN)/python -m tests.crash

bench: .venv/ready
	$(BIN)/python -m bench
	$(BIN)/python -m bench.copies

clean:
	rm -rf .venv build dist src/*.egg-info

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "corps needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
