.PHONY: help setup demo demo-cloud run test check fmt docs pin clean
.DEFAULT_GOAL := help

PY := .venv/bin/python

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup:  ## Install what is missing: FFmpeg, fonts, the virtual environment .venv
	@sh scripts/setup.sh

demo: setup  ## Run all three operations on the samples and stop; videos are in demo-output/
	@$(PY) -m scripts.demo

demo-cloud: setup  ## The same by way of a stand-in for RunPod, with real workers and no account
	@$(PY) -m scripts.demo --cloud

run: setup  ## Start gateway and worker and stay (PORT, WORKER_PORT, DATA_DIR, X_API_KEY)
	@exec $(PY) -m scripts.run

test: setup check  ## Run every check and every test
	$(PY) -m pytest -n 2 -m "not slow"
	$(PY) -m pytest -m slow

check: setup  ## Linters, types, import rules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

fmt: setup  ## Format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup  ## Generate the parts of the documentation that come from the code
	$(PY) -m scripts.docs

pin: setup  ## Pin all requirements anew
	PATH="$$PWD/.venv/bin:$$PATH" sh scripts/pin.sh

clean:  ## Remove what the other targets made
	rm -rf .venv demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
