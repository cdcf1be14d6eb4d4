.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
BENCH := bench

.PHONY: help setup flink demo test lint bench bench-quick clean

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/.ready ## A virtual environment in .venv with everything in it

$(BIN)/.ready: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "kpiflow needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 setup" >&2; exit 2; }
	@$(PYTHON) -m venv .venv \
	  || { echo "no virtual environment could be made: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing kpiflow and what it needs into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[html,dev]"
	@touch $@

flink: setup ## Fetch Flink into .flink, for `kpiflow stream` (needs Maven and Java 17)
	@$(BIN)/python -m runners.jars

demo: setup ## A live stream, killed and resumed, reconciled, and certified by a backfill (three minutes; installs what it needs)
	@deploy/demo.sh $(DEMO)

test: setup flink lint ## Every check and test, but for the long ones of `make chaos` (needs redis-server, Java 17 and Maven)
	$(BIN)/pytest

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup ## The whole graph on 1M and 3M reports, beside a per-row Beam pipeline (seven minutes)
	$(BIN)/python tests/benchmarks/bench.py --folder $(BENCH)

bench-quick: setup ## The same on a tenth of the reports
	$(BIN)/python tests/benchmarks/bench.py --folder $(BENCH) --scale 0.1

clean: ## Remove what demo, bench, flink and setup made
	rm -rf $(DEMO) $(BENCH) .flink .venv build ./*.egg-info
