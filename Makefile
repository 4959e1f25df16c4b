# Two commands do everything on a machine with python3 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-all check fixup bench clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	@touch $@

demo: $(READY) ## train a small network on generated images and show what it learnt
	$(BIN)/glmix demo

check: $(READY) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes by default, because each needs about 2 GiB of memory; PROCESSES=8 where there is more.
PROCESSES ?= 2
PYTEST = $(BIN)/pytest --numprocesses $(PROCESSES) --dist loadscope --durations 10

test: check ## lint, types and all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: check ## lint, types and all tests
	$(PYTEST)

fixup: $(READY) ## mend what lint and format can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## images per second and peak memory of every model
	$(BIN)/glmix bench

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) build dist out *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
