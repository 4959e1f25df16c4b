# Needs python3 and make. Start with `make demo` or `make test`; both create the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Processes of mypy and of pytest, which otherwise use one core. Each test process needs about 2 GiB of memory. Set
# PROCESSES=8 on a machine with more memory.
PROCESSES ?= 2

.PHONY: help demo test test-only test-all check fixup bench gpu docs docs-serve notebooks dist clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	@touch $@

demo: $(READY) ## train a small network on generated images and show the results
	$(BIN)/glmix demo

check: $(READY) ## check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(PROCESSES)

# Each file runs in one process, in alphabetical order: pytest-xdist would start the files with few tests last, which are
# those with long trainings, and one process would run several of them alone.
# Many container images set PYTHONDONTWRITEBYTECODE. Every process would then compile the package and the tests again.
PYTEST = PYTHONDONTWRITEBYTECODE= \
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadscope --no-loadscope-reorder --durations 10

test: check test-only ## check, then run all tests except the slow ones

# For the oldest versions: mypy accepts the types of the newest ones only.
test-only: $(READY) ## run all tests except the slow ones, without the checks
	$(PYTEST) -m "not slow"

test-all: check ## check, then run all tests
	$(PYTEST)

fixup: $(READY) ## fix lint and format errors automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure images per second and peak memory of every model
	$(BIN)/glmix bench

# Some parts only: make gpu PART="agreement inference". `python -m studies.gpu --help` lists them.
PART ?=

gpu: $(READY) ## check and measure everything on a GPU
	$(BIN)/python -m studies.gpu $(PART)

docs: $(READY) ## build the documentation site into out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(READY) ## show the documentation site at http://127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

notebooks: $(READY) ## run the scripts of the tutorials and write their notebooks
	$(BIN)/python docs/site/notebooks.py

# The time of the last commit, so that anybody can build the same files from the same commit.
dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
dist: $(READY) ## build the source distribution and the wheel into dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

clean: ## remove the environment and all generated files
	rm -rf $(VENV) build dist out *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
