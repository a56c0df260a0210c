# Everything installs into .venv; a target that needs something makes it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := service clients/python tests bench

.DEFAULT_GOAL := help
.PHONY: help install serve demo test conformance docker-test crash fuzz bench check format lint types generated openapi docs clean

help: ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/service: pyproject.toml | $(VENV)/pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/everything: pyproject.toml clients/python/pyproject.toml | $(VENV)/service
	$(BIN)/python -m pip install --quiet --editable clients/python --editable '.[test]'
	touch $@

install: $(VENV)/everything ## Install the service, the SDK and all tools

serve: $(VENV)/service ## Serve on 127.0.0.1:8000, sessions kept in gradstep-data
	$(BIN)/gradstep-server

demo: $(VENV)/everything ## Train on real data through the service, and compare with torch
	$(BIN)/python clients/python/examples/digits.py

test: $(VENV)/everything ## Run all tests
	$(BIN)/python -m pytest

conformance: $(VENV)/everything ## Compare every kind with the library whose numbers it has, and write down how close
	$(BIN)/python -m pip install --quiet --editable '.[conformance]'
	CONFORMANCE_PAGE=docs/conformance.md $(BIN)/python -m pytest -s -m 'conformance or not slow' tests/schedulers/test_schedule_conformance.py tests/optimizers/test_optimizer_conformance.py tests/optimizers/test_many_hyperparameters.py

docker-test: $(VENV)/everything ## Build the image and run it, wherever there is a Docker engine
	$(BIN)/python -m pytest -m docker -s tests/docker

crash: $(VENV)/everything ## Break the service in every way for about an hour, and write down what came of it
	PYTHONPATH=tests $(BIN)/python -m crash.programme --write

fuzz: $(VENV)/everything ## Send a running service what its OpenAPI document allows and forbids, 50,000 calls or more
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	PYTHONPATH=tests $(BIN)/python -m fuzz_api.programme $(FUZZ)

bench: $(VENV)/everything ## Measure beside torch and others for some minutes, and write down the figures
	PYTHONPATH=tests $(BIN)/python -m bench --write

check: $(VENV)/everything lint types generated ## Format, lint, types, layers, generated files, tests
	$(BIN)/python -m pytest

format: $(VENV)/everything ## Format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: $(VENV)/everything
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/everything
	$(BIN)/mypy

openapi: $(VENV)/everything ## Write clients/openapi.json anew
	$(BIN)/gradstep-server openapi > clients/openapi.json

docs: $(VENV)/everything ## Write docs/reference anew, from the classes
	rm -rf docs/reference
	$(BIN)/gradstep-server reference docs/reference

generated: $(VENV)/everything
	@$(BIN)/gradstep-server openapi | diff -u clients/openapi.json - \
		|| { echo 'clients/openapi.json is stale: run `make openapi`'; exit 1; }
	@$(BIN)/gradstep-server reference --check docs/reference \
		|| { echo 'docs/reference is stale: run `make docs`'; exit 1; }

clean: ## Remove what was made, sessions excepted
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
