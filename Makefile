# Each target sets up .venv when it is missing or older than what it is made from.
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
EXTRAS ?= dev,demo,trackers
TEST_PROCESSES ?= 2
IN_PARALLEL := --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test quickstart-test zoo soak slurm lint

quickstart: $(INSTALLED)
	PYTHON=$(VENV)/bin/python bash exp/quickstart/run.sh TEST.ENABLE False
	PYTHON=$(VENV)/bin/python bash exp/quickstart/test.sh

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest $(IN_PARALLEL)

# `make test` leaves out what follows. Files are shared out, and the cases of one file have fixtures in common.
quickstart-test: $(INSTALLED)
	$(VENV)/bin/python -m pytest tests/quickstart -m quickstart

zoo: $(INSTALLED)
	$(VENV)/bin/python -m pytest tests/exp tests/docs -m zoo --numprocesses $(TEST_PROCESSES)

soak: $(INSTALLED)
	$(VENV)/bin/python -m pytest -m soak $(IN_PARALLEL)

slurm: $(INSTALLED)
	$(VENV)/bin/python -m pytest tests/slurm -m slurm $(IN_PARALLEL)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(INSTALLED): setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; say which: make PYTHON=...") if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	touch $@
