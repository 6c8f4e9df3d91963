# neurotransfer: `make demo` and `make test` are all a newcomer needs.

PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint figures clean help slurm-up slurm-down test-slurm test-slurm-all

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("neurotransfer needs Python 3.11 or newer; say which one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.installed ## simulate a study and run the whole workflow on it, in demo/
	@neurotransfer demo --cores $(CORES) demo

test: $(VENV)/.installed ## every test that needs no Slurm
	@python -m pytest -n $(CORES) --dist loadgroup -m "not slurm"

test-slurm: $(VENV)/.installed ## four faults on a real Slurm cluster on this machine: 6 minutes
	@python -m pytest -n $(CORES) -m "slurm and not long" tests/slurm

test-slurm-all: $(VENV)/.installed ## every fault, and the paper's fan-out: up to an hour each
	@python -m pytest -m slurm tests/slurm

slurm-up: $(VENV)/.installed ## start a Slurm cluster of four nodes on this machine, in .slurm/, to try things
	@python tests/slurm/cluster.py up .slurm

slurm-down: ## end it
	@python tests/slurm/cluster.py down .slurm

lint: $(VENV)/.installed ## ruff, snakefmt, codespell
	@ruff check . && ruff format --check .
	@snakefmt --check Snakefile workflow/rules
	@codespell

figures: ## the README's pictures, from the demo's results
	@neurotransfer demo --cores $(CORES) demo
	@mkdir -p docs && cp demo/results/report/figures/figure2.png docs/figure2.png

clean: ## remove the demo and the virtual environment
	rm -rf demo .slurm $(VENV)
