# Everything sets itself up: `make demo` and `make test` work in a fresh clone with Python 3.11 to 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help
help: ## show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1@\2/' | column -t -s@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.PHONY: install
install: $(READY) ## a virtual environment with everything, pinned

.PHONY: demo
demo: $(READY) ## a tiny model learns an invented archive and forgets a part of it: three methods, one report
	$(BIN)/mari sweep -c experiments/demo/run.yaml

.PHONY: test
test: $(READY) ## the whole test suite
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 -rs

.PHONY: smoke
smoke: $(READY) ## losses end to end on a tiny GPT-2
	$(BIN)/pytest -m smoke

.PHONY: gpu
gpu: $(READY) ## the tests that need a CUDA device; fails where torch sees none
	@$(BIN)/python -c "import torch, sys; torch.cuda.is_available() or sys.exit( \
	  f'error: torch {torch.__version__} sees no CUDA device\n' \
	  '  hint: install torch for CUDA into $(VENV), as README.md says under \"On a GPU\"')"
	$(BIN)/pytest -m gpu

.PHONY: bench
bench: $(READY) ## what the engine costs beside plain fine-tuning and full logits: a table of ratios
	$(BIN)/python experiments/engine/bench.py

.PHONY: format
format: $(READY) ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lint
lint: $(READY) ## form, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: check
check: lint test ## format, lint, types and tests

.PHONY: clean
clean: ## remove what was built, but no run
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
