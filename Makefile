# The tests start hundreds of processes, which would else compile the package anew where the environment forbids caches.
export PYTHONDONTWRITEBYTECODE :=
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# Tests side by side, one thread each: most of them wait for a Python that starts.
JOBS ?= 2
PYTEST = -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder
LOWEST = .venv-lowest
# The lower ends of pyproject.toml's ranges, but for torch's, torchvision's and matplotlib's.
LOWEST_VERSIONS = transformers==5.17.* huggingface_hub==1.33.* datasets==4.4.* accelerate==1.12.* timm==1.0.31 \
  evaluate==0.4.6

.PHONY: help venv dev train test test-slow test-lowest check smoke bench bench-gpu faults clean

help:           ## print this help
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

train: $(VENV)/.installed ## install, and train the quickstart recipe
	$(BIN)/hfseg train recipes/segformer_quickstart.json --overwrite true

test: $(VENV)/.installed-dev ## install the dev extra, and run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m 'not slow'

test-slow: $(VENV)/.installed-dev ## run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m slow

$(LOWEST)/.installed: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --editable '.[dev]' $(LOWEST_VERSIONS)
	touch $@

test-lowest: $(LOWEST)/.installed ## run the fast tests with the lowest versions, in an environment of their own
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python $(PYTEST) -m 'not slow'

check: $(VENV)/.installed-dev ## lint, format, spelling, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

smoke: $(VENV)/.installed-dev ## train, evaluate, and run a small study with its report, on drawn data
	$(BIN)/hfseg train recipes/segformer_quickstart.json --num_images 64 --num_train_epochs 2 --output_dir runs/smoke --overwrite true
	$(BIN)/hfseg eval runs/smoke/best --output_dir runs/smoke/test
	rm -rf runs/smoke_study
	$(BIN)/hfseg study recipes/studies/smoke.json --output_dir runs/smoke_study

faults: $(VENV)/.installed-dev ## kill a short run at 50 random moments, resume it, and compare the ends bit for bit
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py --kills 50 --in_saves 20 --seed 0 --results results

bench: $(VENV)/.installed-dev ## measure against stock behaviour, and write benchmarks/results.json
	$(BIN)/python -m benchmarks

bench-gpu: $(VENV)/.installed-dev ## the same on a GPU, with larger models in bf16
	$(BIN)/python -m benchmarks --gpu

clean:          ## delete the runs
	rm -rf runs out
