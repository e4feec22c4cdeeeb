.PHONY: help setup demo demo-cloud run test test-slow test-sdk-next test-clients mutations check fmt docs pin audit images test-image push clean
.DEFAULT_GOAL := help

PY := .venv/bin/python

PIP_AUDIT = pip-audit==2.10.1

# Images are named IMAGE-gateway and IMAGE-worker, for example IMAGE=registry.example.com/me/reelay.
IMAGE ?= reelay
ENGINE ?= docker
# Without this, Podman and Buildah drop the HEALTHCHECK that compose.yaml waits for.
export BUILDAH_FORMAT = docker
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
COMMIT = $(shell git rev-parse --short=12 HEAD)$(if $(shell git status --porcelain),-changed)
TAG = $(VERSION)-$(COMMIT)
BUILD = $(ENGINE) build --platform linux/amd64 --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT)

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup:  ## Install what is missing: FFmpeg, fonts, the virtual environment .venv
	@sh scripts/setup.sh

demo: setup  ## Run every operation on the samples and stop; the videos are in demo-output/
	@$(PY) -m scripts.demo

demo-cloud: setup  ## The same through a stand-in for RunPod, with real workers and no account (FAIL=runpod: Vast.ai)
	@$(PY) -m scripts.demo --cloud $(if $(FAIL),--fail $(FAIL))

run: setup  ## Run gateway and worker until Ctrl-C (PORT, WORKER_PORT, DATA_DIR, X_API_KEY)
	@exec $(PY) -m scripts.run

test: setup check  ## Run linters, type checks and the quick tests, in under five minutes on two cores
	$(PY) -m pytest -n 4 --dist worksteal -m "not slow"

test-slow: setup test-sdk-next  ## Run the other tests: real processes, faults, chaos
	$(PY) -m pytest -n 3 --dist worksteal -m slow --ignore=tests/chaos --ignore=tests/generated_clients
	$(PY) -m pytest -m slow tests/chaos

test-sdk-next: setup  ## Run the tests of RunPod's SDK with its newest pre-release
	@sh scripts/test_sdk_next.sh

test-clients: setup  ## Lint /openapi.json, generate clients from it and run them (needs npm)
	@sh scripts/test_clients.sh

mutations: setup  ## Break one promise of the product at a time and check that a test fails (JOBS)
	$(PY) -m tests.mutations --jobs $(or $(JOBS),2)

check: setup  ## Run linters, type checks and import rules
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

fmt: setup  ## Format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup  ## Generate the parts of the documentation that are made from the code
	$(PY) -m scripts.docs
	$(PY) -m scripts.licences

pin: setup  ## Pin all requirements to their newest releases
	PATH="$$PWD/.venv/bin:$$PATH" sh scripts/pin.sh

audit: setup  ## Check the pinned packages of the images for known vulnerabilities
	for package in gateway handler; do \
		$(PY) -m uv tool run $(PIP_AUDIT) --strict --disable-pip --require-hashes -r $$package/requirements.txt || exit 1; done

images:  ## Build the images of gateway and worker and tag them with version and commit (IMAGE, ENGINE)
	$(BUILD) -f Dockerfile.gateway -t $(IMAGE)-gateway:$(TAG) .
	$(BUILD) -f Dockerfile.worker -t $(IMAGE)-worker:$(TAG) .

test-image:  ## Run the tests of the operations in the worker's image (ENGINE)
	$(BUILD) -f Dockerfile.worker --target test -t reelay-test:$(TAG) .
	$(ENGINE) run --rm reelay-test:$(TAG)

push:  ## Build and push the images of a clean checkout (IMAGE, ENGINE)
	@test -z "$$(git status --porcelain)" || { echo "push: commit your changes first: the tag names one commit" >&2; exit 1; }
	@$(MAKE) images
	$(ENGINE) push $(IMAGE)-gateway:$(TAG)
	$(ENGINE) push $(IMAGE)-worker:$(TAG)

clean:  ## Remove everything that the other targets made
	rm -rf .venv .venv-sdk-next .venv-clients tests/*/node_modules .cache demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
