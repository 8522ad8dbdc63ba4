# Everything a fresh machine needs is Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin

QUICK := start packed factorised trp beta_lasso memory

.PHONY: run demo test test-slow test-long benchmarks leaderboard dashboard sync lint docs
run: .venv/ready  ## set up, then one experiment on the embedded digits: a dense network, the same at a quarter of the multiply-adds
	$(BIN)/python src/run.py dataset=digits model=resnet20 method=l1_filters speed_up=4 \
		recipe.epochs=20 method.finetune.epochs=10 method.finetune.learning_rate=0.01 deploy=auto latency.seconds=2

demo: .venv/ready  ## set up, then five methods on the embedded digits, and their report
	$(BIN)/paredown demo

test: .venv/ready  ## set up, then the tests, two at a time
	$(BIN)/python -m pytest -n 2

test-slow: .venv/ready  ## the longer tests that prove a capability from the outside
	$(BIN)/python -m pytest -m "slow and not long and not gpu" -n 2 --dist loadgroup

test-long: .venv/ready  ## the slow tests that .ci/run has no time for
	$(BIN)/python -m pytest -m long -n 2 --dist loadgroup

benchmarks: .venv/ready  ## the quick benchmarks, a few minutes each; make benchmarks CIFAR10=FOLDER measures the loader too
	$(foreach name,$(QUICK),$(BIN)/python benchmarks/$(name).py &&) true
	$(if $(CIFAR10),$(BIN)/python benchmarks/loader.py --root $(CIFAR10))

leaderboard: .venv/ready  ## docs/leaderboard.md, its picture and its CSV from what is recorded
	$(BIN)/python scripts/leaderboard.py

dashboard: .venv/ready  ## MLflow with everything recorded; prints the link; make dashboard OUTPUT=outputs/demo for another folder
	$(BIN)/python scripts/dashboard.py $(if $(OUTPUT),--output '$(OUTPUT)')

sync: .venv/ready  ## send the records that wait on disk; make sync URI=http://HOST:PORT for a server
	$(BIN)/python -m paredown.tracking $(if $(URI),--uri $(URI))

docs: .venv/docs  ## the documentation as a site, outputs/site/index.html; fetches nothing once its tools are installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Compiled bytecode matters: without it every start imports for 20 s instead of 6.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "paredown needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --compile -c constraints.txt -e '.[test]'
	touch $@

.venv/docs: .venv/ready
	$(BIN)/python -m pip install -q --disable-pip-version-check --compile -c constraints.txt -e '.[docs]'
	touch $@
