.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
BENCH := bench
SCALE := 1
WORKERS ?= 3
SEED := $(shell od -An -N2 -tu2 /dev/urandom | tr -d " ")

.PHONY: help setup flink servers demo check test lint docs bench bench-quick bench-scale bench-batch bench-stream bench-sinks bench-trends chaos clean

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/.ready ## A virtual environment in .venv with everything in it

$(BIN)/.ready: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "kpiflow needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 setup" >&2; exit 2; }
	@PYTHON=$(PYTHON) deploy/install.sh python3-venv
	@$(PYTHON) -m venv .venv
	@echo "installing kpiflow and what it needs into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[html,objects,bigquery,timeseries,features,relay,service,encryption,analysis,dev,docs]"
	@touch $@

flink: setup ## Fetch Flink into .flink, for `kpiflow stream` (installs Java 17 and Maven where they are missing)
	@deploy/install.sh java $(if $(wildcard .flink/lib),,mvn)
	@$(BIN)/python -m runners.flink.jars

servers: ## Install the servers that tests use, and a browser
	@deploy/install.sh redis-server victoria-metrics prometheus chromium

demo: setup ## A live stream, killed and resumed, reconciled, and certified by a backfill (three minutes; installs what it needs)
	@deploy/demo.sh $(DEMO)

check: lint ## ruff, mypy and the unit tests: Python only, two and a half minutes
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile -m "not (server or slow or chaos)" --ignore tests/integration --ignore tests/chaos --ignore tests/benchmarks

test: setup flink servers lint ## Every check and test except the long ones of `make chaos` (installs what it needs)
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

chaos: setup flink servers ## Every fault at a running stream, and a cluster of its own (three quarters of an hour; SEED=N repeats what was drawn by lot)
	@echo "SEED=$(SEED)"
	CHAOS_SEED=$(SEED) $(BIN)/pytest -m "chaos or not chaos" -v --durations=0 tests/chaos tests/integration/test_flink.py

lint: setup ## ruff and mypy
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup ## The docs site, in site/
	@deploy/build_docs.sh

bench: setup ## A backfill of 1M and 3M reports beside DuckDB, Polars and per-row Beam (ten minutes; SCALE=0.1 for a short one)
	$(BIN)/python -m tests.benchmarks.bench --folder $(BENCH) --scale $(SCALE)

bench-quick: setup ## The same on a tenth of the reports (three minutes)
	$(BIN)/python -m tests.benchmarks.bench --folder $(BENCH) --scale 0.1

bench-scale: setup flink ## Time and memory by reports, agents, cores, engine, dirt and order, as curves (35 minutes; SCALE=0.1 for a short one)
	$(BIN)/python -m tests.benchmarks.scale --folder $(BENCH) --scale $(SCALE)

bench-batch: bench bench-scale ## Both of these, and the pictures of the docs from them (45 minutes)
	$(BIN)/python -m tests.benchmarks.scale --folder $(BENCH) --draw docs/pictures

bench-stream: setup flink servers ## The live stream: latency, drain, a half hour's memory, recovery (80 minutes; SCALE=0.1 for a short one)
	$(BIN)/python -m tests.benchmarks.stream --folder $(BENCH) --scale $(SCALE)

bench-sinks: setup servers ## Rows a second into each kind of output, beside its plain client library (two minutes)
	$(BIN)/python -m tests.benchmarks.sinks --folder $(BENCH) --scale $(SCALE)

bench-trends: setup ## Changes that `kpiflow trends` finds, and false ones, beside PELT (two minutes; NAB=DIR scores the Numenta benchmark)
	$(BIN)/python -m tests.benchmarks.trends $(if $(NAB),--nab $(NAB))

clean: ## Remove what demo, bench, flink and setup made
	rm -rf $(DEMO) $(BENCH) site .flink .bqemulator .venv build ./*.egg-info
