# Everything a fresh machine needs is Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-slow dashboard sync lint
run: .venv/ready  ## set up, then one experiment on the embedded digits
	$(BIN)/python src/run.py dataset=digits model=resnet20 method=ssc sparsity=0.9

test: .venv/ready  ## set up, then the tests, two at a time
	$(BIN)/python -m pytest -n 2

test-slow: .venv/ready  ## the longer tests that prove a capability from the outside
	$(BIN)/python -m pytest -m "slow and not gpu" -n 2 --dist loadgroup

dashboard: .venv/ready  ## MLflow with everything recorded; prints the link
	$(BIN)/python scripts/dashboard.py

sync: .venv/ready  ## send the records that wait on disk; make sync URI=http://HOST:PORT for a server
	$(BIN)/python -m paredown.tracking $(if $(URI),--uri $(URI))

lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Compiled bytecode matters: without it every start imports for 20 s instead of 6.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "paredown needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --compile -c constraints.txt -e '.[test]'
	touch $@
