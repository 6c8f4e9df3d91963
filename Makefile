# neurotransfer: `make demo` and `make test` are all a newcomer needs.

PYTHON ?= python3
CORES ?= 2
IMAGES_PER_JOB ?= 64
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-fast lint figures validate type-one teaching bench bench-demo bench-fits bench-reader bench-training bench-training-gpu bench-gpu fewer-scans dry-run rulegraph tutorial slurm-up slurm-down test-slurm test-slurm-all test-gpu clean help

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

LOCKED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement
CUDA := from importlib.metadata import requires; print(any(name.startswith("nvidia-") for name in requires("torch") or ()))

$(VENV)/.installed: requirements.lock requirements-dev.lock requirements-cuda.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("neurotransfer needs Python 3.11 or newer; say which one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
# a build of torch in a folder that pip is told of (find-links) comes first: with hashes, pip prefers the index's
	@sed -n '/^torch==/,/[^\\]$$/p' requirements.lock > $(VENV)/torch.lock
	@$(LOCKED) $(VENV)/torch.lock --no-index 2>/dev/null || true
	$(LOCKED) requirements.lock --requirement requirements-dev.lock
	@if [ "$$($(BIN)/python -c '$(CUDA)')" = True ]; then $(LOCKED) requirements-cuda.lock; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.installed ## simulate a study and run the whole workflow on it, in demo/
	@neurotransfer demo --cores $(CORES) demo

test: $(VENV)/.installed ## every test that needs no Slurm
	@python -m pytest -n $(CORES) -m "not slurm"

test-fast: $(VENV)/.installed ## the quick unit tests, for after each change: under 2 minutes
	@python -m pytest -n $(CORES) -m "not slurm and not slow" tests/unit

test-slurm: $(VENV)/.installed ## faults and rehearsals on a real Slurm cluster on this machine: 5 minutes
	@python -m pytest -n $(CORES) -m "slurm and not long" tests/slurm

test-slurm-all: $(VENV)/.installed ## every fault, and the paper's fan-out: up to an hour each
	@python -m pytest -m slurm tests/slurm

slurm-up: $(VENV)/.installed ## start a Slurm cluster of four nodes on this machine, in .slurm/, to try things
	@python tests/slurm/cluster.py up .slurm

slurm-down: ## end it
	@python tests/slurm/cluster.py down .slurm

lint: $(VENV)/.installed ## ruff, mypy, snakefmt, codespell, snakemake --lint
	@ruff check . && ruff format --check .
	@mypy
	@snakefmt --check Snakefile workflow/Snakefile workflow/rules benchmarks/bare.smk
	@python tests/workflow/lint.py
	@codespell

bench: $(VENV)/.installed ## a training step against plain torch layers and against the machine: benchmarks/README.md
	@python benchmarks/step.py

MONAI := .bench/monai
BRAINS ?=
DATA ?=

bench-reader: $(VENV)/.installed ## the cache against a copy, MONAI, NIfTI and the disk; BRAINS=FOLDER: with your own brain-extracted T1w images
	@test -d $(MONAI) || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(MONAI) monai==1.6.1
	@python benchmarks/reader.py --monai $(MONAI) $(if $(BRAINS),--brains $(BRAINS))

figures: ## the README's pictures, from the demo's results
	@neurotransfer demo --cores $(CORES) demo
	@mkdir -p docs && cp demo/results/report/figures/figure2.png docs/figure2.png

tutorial: $(VENV)/.installed ## the outputs in docs/tutorial.md, again; DATA=FOLDER: with ds002748 and ds000011 of OpenNeuro
	@test -n "$(DATA)" || { echo "tutorial: say where the data sets are: make tutorial DATA=FOLDER (docs/tutorial.md)"; exit 1; }
	@python benchmarks/tutorial.py $(DATA) --cores 2

bench-fits: $(VENV)/.installed ## what a replicate of fine-tuning costs by n: benchmarks/README.md
	@python benchmarks/fit_cost.py

bench-demo: $(VENV)/.installed ## how often the demo's answer is right, at twenty seeds: benchmarks/README.md; hours on 2 cores, can be stopped
	@python benchmarks/demo_power.py .bench/demo --cores $(CORES)

bench-gpu: ## a training step, the loop and a replicate on this machine's NVIDIA GPU, with the Python that is on it
	@python3 benchmarks/gpu.py

test-gpu: ## network, loop and fits on this machine's NVIDIA GPU, with the Python that is on it
	@python3 -m pytest --noconftest tests/gpu

bench-training: $(VENV)/.installed ## which optimiser trains the full network: docs/pretraining.md; hours on 2 cores, can be stopped
	@python benchmarks/training.py --processes $(CORES)
	@python benchmarks/training_fits.py --processes $(CORES)

bench-training-gpu: $(VENV)/.installed ## the same on a GPU at the paper's crop, 15 minutes of an H200, the decisive runs first
	@python benchmarks/training_gpu.py --minutes 15

fewer-scans: $(VENV)/.installed ## from how many healthy scans on pretraining pays, simulated; an hour on 2 cores, can be stopped
	@python benchmarks/fewer_scans.py --processes $(CORES)

dry-run: $(VENV)/.installed ## tables, manifest and dry run at the size of the paper's study; IMAGES_PER_JOB=1 for a job per image
	@python benchmarks/dry_run.py --images-per-job $(IMAGES_PER_JOB)

validate: $(VENV)/.installed ## coverage, rejections and planted leaks on simulated studies, 3 to 5 minutes: docs/validity.md
	@python benchmarks/validate.py --processes $(CORES)

type-one: $(VENV)/.installed ## type-I error and power of every test at the paper's sizes, 12 minutes on 2 cores: docs/type-one.md
	@python benchmarks/type_one.py --processes $(CORES)

teaching: $(VENV)/.installed ## what pretraining teaches on a simulated study: docs/pretraining.md; 50 minutes on 2 cores
	@python benchmarks/teaching.py --cores $(CORES)

rulegraph: $(VENV)/.installed ## docs/rulegraph.svg, from the rules as they are (needs graphviz: apt install graphviz)
	@command -v dot >/dev/null || { echo "rulegraph: dot is missing; apt install graphviz"; exit 1; }
	@python benchmarks/rulegraph.py docs/rulegraph.svg

clean: ## remove the demo, the dry run, the studies of benchmarks, the trial cluster and the virtual environment
	rm -rf demo dry-run teaching .slurm .bench $(VENV)
