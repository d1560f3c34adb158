# One obvious way to work: make demo, make test, make lint. Each does the set-up it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
export PYTHON

BIN := .venv/bin
COVERAGE_FLOOR := 90
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
IMAGE := images/attested-host
VARIANT := numpy
BENCHMARKS := train seal release appraise fleet masked demo
MINUTES ?= 10

.PHONY: help setup demo demo-masked test test-long lint bench model fuzz properties format docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## make .venv with .venv/bin/svetovid; as root also the system packages
	@scripts/setup.sh

demo: setup ## owners who trust nobody train one model, end to end, and what is refused
	@$(BIN)/svetovid demo

image: setup ## the attested host image, into images/attested-host/build; its README names the options
	@PYTHONPATH=$(IMAGE) $(BIN)/python -m attested_host.build --variant $(VARIANT) \
	  $(if $(SIGNER),--signer $(SIGNER)) $(if $(ENFORCE),--enforce $(ENFORCE))

demo-vm: image ## that image in a virtual machine: the main job, and what is refused
	@PYTHONPATH=$(IMAGE) $(BIN)/python -m attested_host.demo

demo-masked: setup ## a job on three workers that see only masked numbers; the card, accuracies, bytes seen
	@$(BIN)/python examples/masked/demo.py

test: setup ## the suite, with the gate on branch coverage
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow" --cov=svetovid --cov-branch \
	  --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE_FLOOR) </dev/null

test-long: setup ## every test, the slow ones too
	@$(BIN)/python -m pytest </dev/null

lint: setup ## ruff, mypy --strict, the floors of the house, pure rooms, docstrings, banned names
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@MYPYPATH=$(IMAGE) $(BIN)/mypy --strict $(IMAGE)/attested_host
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/check_names.py
	@$(BIN)/python scripts/check_pure.py
	@$(BIN)/python scripts/check_docstrings.py

bench: setup ## every benchmark on this machine, JSON into benchmarks/results
	@for name in $(BENCHMARKS); do \
	  $(BIN)/svetovid bench $$name --json benchmarks/results/$$name.json || exit; done

model: setup ## search the model of a release, and each of its mutants, with Spin
	@$(BIN)/python -m pytest tests/test_model.py </dev/null

fuzz: setup ## fuzz every parser of hostile bytes, MINUTES in all (default 10); the time goes to fuzz/log.json
	@PYTHONPATH=.:tests $(BIN)/python -m fuzz --minutes $(MINUTES)

properties: setup ## the property tests with fresh random examples, PROPERTY_SECONDS long (default 600)
	@scripts/properties.sh

mutate: setup ## take each security check away in turn; what no test notices: tests/mutants.json (hours)
	@nice -n 19 $(BIN)/python scripts/mutate.py

format: setup ## rewrite to the one style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: setup ## rewrite the pages that are made from the source
	@$(BIN)/python scripts/reason_codes.py --write
	@$(BIN)/python scripts/messages_page.py --write
	@$(BIN)/python scripts/trust_table.py --write
	@$(BIN)/python scripts/figures.py

clean: ## remove what the targets above made
	rm -rf .venv build dist out htmlcov src/svetovid/offload/_native*.so .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
