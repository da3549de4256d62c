# make run    sets everything up and runs the scheduler in the foreground on etc/echosched.toml
# make test   sets everything up and runs all checks and tests
#
# On a fresh machine these two need python3 and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
HOME_DIR ?= .home
BIN := $(VENV)/bin
ECHOSCHEDD := $(BIN)/echoschedd
HERE := --home $(HOME_DIR)
# How long `make torture` goes on.
MINUTES ?= 10

# Marks instead of directories: a half-made environment is made again.
MADE := $(VENV)/.made
DEV := $(VENV)/.made-dev

.DEFAULT_GOAL := help
.PHONY: help run test check unit torture torture-all torture-cluster bench bench-cluster clean run-brief run-selfheal run-report retention status stop docs

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n '1,4p'
	@echo
	@echo "also: check unit torture torture-all torture-cluster bench bench-cluster docs clean; with a scheduler running:"
	@echo "      status stop run-brief run-report run-selfheal retention"

$(MADE): pyproject.toml
	@sh tools/make-venv $(PYTHON) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[web,pretty]'
	@touch $@

$(DEV): $(MADE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.made-bench: $(DEV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

$(HOME_DIR)/echosched.toml: | $(MADE)
	@mkdir -p -m 0750 $(HOME_DIR)
	@cp etc/echosched.toml $@

run: $(MADE) $(HOME_DIR)/echosched.toml
	$(ECHOSCHEDD) start --foreground $(HERE)

run-brief run-report run-selfheal: run-%: $(MADE)
	$(ECHOSCHEDD) run $* --wait $(HERE)

retention: $(MADE)
	$(ECHOSCHEDD) run retention --wait $(HERE)

status stop: %: $(MADE)
	$(ECHOSCHEDD) $* $(HERE)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg --no-cache
	$(BIN)/python -m pytest -q tests/unit

unit: $(DEV)
	$(BIN)/python -m pytest -q tests/unit

test: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg --no-cache
	$(BIN)/python -m pytest tests

torture-cluster: $(DEV)
	ECHOSCHED_DEEP=1 $(BIN)/python -m pytest -s --timeout=3600 tests/cluster/test_cluster_chaos.py

torture: $(DEV)
	ECHOSCHED_DEEP=1 ECHOSCHED_TORTURE_MINUTES=$(MINUTES) $(BIN)/python -m pytest -s tests/torture/test_torture_long.py

torture-all: $(DEV)
	ECHOSCHED_DEEP=1 ECHOSCHED_TORTURE_MINUTES=$(MINUTES) $(BIN)/python -m pytest -s --timeout=3600 tests/torture

bench: $(VENV)/.made-bench
	$(BIN)/python bench/run.py

bench-cluster: $(DEV)
	$(BIN)/python bench/cluster.py peers
	$(BIN)/python bench/cluster.py rates
	$(BIN)/python bench/cluster.py rates --spread
	$(BIN)/python bench/cluster.py store
	$(BIN)/python bench/cluster.py idle

docs: $(DEV)
	$(BIN)/python docs/api/make.py build/api

clean:
	rm -rf $(VENV) $(HOME_DIR) build dist artefacts .pytest_cache .mypy_cache .ruff_cache .hypothesis
