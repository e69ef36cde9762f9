# Every target works from a fresh clone: it makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
export SPLITPOINT_RUNS := $(RUNS)

.PHONY: help install install-dev quickstart paper test test-slow test-cluster lint types docs clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The stamps depend on what pins the environment, so a changed pin installs again, into the same environment: the
# python3 of another host, or of another login, would break it.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps fastmri runstats
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

install: $(VENV)/installed  ## create .venv with the pinned dependencies

install-dev: $(VENV)/installed-dev  ## the same, with what tests and checks need

# What the quickstart runs, as a user would type it. Each command goes on from where an interrupted run left it.
QUICK := $(RUNS)/quickstart
RAW := $(QUICK)/data/raw
PREPARED := $(QUICK)/data/prepared
SPLITPOINT := $(BIN)/splitpoint

$(RAW)/complete: $(VENV)/installed
	$(SPLITPOINT) simulate $(RAW) --train 14 --val 12 --test 20 --matrix 56 --slices 2 --coils 4 --snr 20
	touch $@

quickstart: $(RAW)/complete  ## simulated knees to a tested bundle; 9 to 15 minutes on two cores
	$(SPLITPOINT) prepare $(RAW) --out $(PREPARED)
	$(SPLITPOINT) inspect $(PREPARED) --space spaces/quickstart.yaml --out $(QUICK)/contact_sheet.png
	$(SPLITPOINT) launch spaces/quickstart.yaml --data $(PREPARED) --study quickstart
	$(SPLITPOINT) leaderboard quickstart --all
	$(SPLITPOINT) confirm quickstart
	$(SPLITPOINT) leaderboard quickstart --confirmed
	$(SPLITPOINT) noise quickstart
	$(SPLITPOINT) leaderboard quickstart --all --format csv --out $(QUICK)/leaderboard.csv
	$(SPLITPOINT) leaderboard quickstart --confirmed --format csv --out $(QUICK)/confirmed.csv
	$(SPLITPOINT) export quickstart
	$(SPLITPOINT) test $(QUICK)/bundle --data $(PREPARED)
	@echo
	@echo "leaderboard  $(QUICK)/leaderboard.csv, $(QUICK)/confirmed.csv"
	@echo "final test   $(QUICK)/test/summary.csv, $(QUICK)/test/slices.csv"
	@echo "pictures     $(QUICK)/test/*.png, $(QUICK)/contact_sheet.png"
	@echo "bundle       $(QUICK)/bundle/ (read its README.md)"

# The paper as a study, as docs/paper.md describes it.
PAPER := $(RUNS)/paper
KNEES := $(PAPER)/data

$(KNEES)/raw/complete: $(VENV)/installed
	$(SPLITPOINT) simulate $(KNEES)/raw --train 16 --val 6 --test 20 --matrix 56 --slices 2 --coils 6 --snr 20 --seed 0
	touch $@

paper: $(KNEES)/raw/complete $(VENV)/installed-dev  ## the paper's tables and figures at small scale; two hours on two cores
	$(SPLITPOINT) prepare $(KNEES)/raw --out $(KNEES)/prepared
	$(SPLITPOINT) launch spaces/paper-small.yaml --data $(KNEES)/prepared --study paper
	$(SPLITPOINT) test --study paper
	$(BIN)/python -m benchmarks.peer spaces/paper-small.yaml --data $(KNEES)/prepared --out $(PAPER)/test --epochs 48 --n 16 --n 32
	$(SPLITPOINT) report paper --tables --figures $(PAPER)/figures

test: $(VENV)/installed-dev  ## run the tests (under 15 minutes on two cores)
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-dev  ## the long tests
	$(BIN)/python -m pytest -m slow

test-cluster: $(VENV)/installed-dev  ## tests over several hosts (root, ssh, network namespaces)
	$(BIN)/python -m pytest -m cluster

lint: $(VENV)/installed-dev  ## ruff, and the one-way arrows between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev  ## mypy
	$(BIN)/mypy

docs: $(VENV)/installed-docs  ## the documentation's site, into site/; a broken link fails
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/draw_blocks.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove .venv and caches (runs and data stay)
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache *.egg-info
