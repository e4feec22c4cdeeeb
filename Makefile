.PHONY: help setup demo demo-cloud run test test-slow mutations check fmt docs pin audit images test-image push clean
.DEFAULT_GOAL := help

PY := .venv/bin/python

PIP_AUDIT = pip-audit==2.10.1

# Images are named IMAGE-gateway and IMAGE-worker, for example IMAGE=registry.example.com/me/reelay.
IMAGE ?= reelay
ENGINE ?= docker
# Podman and Buildah leave HEALTHCHECK out of what they build otherwise, and compose.yaml waits for it.
export BUILDAH_FORMAT = docker
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
COMMIT = $(shell git rev-parse --short=12 HEAD)$(if $(shell git status --porcelain),-changed)
TAG = $(VERSION)-$(COMMIT)
BUILD = $(ENGINE) build --platform linux/amd64 --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT)

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup:  ## Install what is missing: FFmpeg, fonts, the virtual environment .venv
	@sh scripts/setup.sh

demo: setup  ## Run all three operations on the samples and stop; videos are in demo-output/
	@$(PY) -m scripts.demo

demo-cloud: setup  ## The same by way of a stand-in for RunPod, with real workers and no account (FAIL=runpod: Vast.ai)
	@$(PY) -m scripts.demo --cloud $(if $(FAIL),--fail $(FAIL))

run: setup  ## Start gateway and worker and stay (PORT, WORKER_PORT, DATA_DIR, X_API_KEY)
	@exec $(PY) -m scripts.run

test: setup check  ## Linters, types and the quick tests, in under five minutes on two cores
	$(PY) -m pytest -n 4 --dist worksteal -m "not slow"

test-slow: setup  ## The other tests: real processes, faults, chaos
	$(PY) -m pytest -n 3 --dist worksteal -m slow --ignore=tests/chaos
	$(PY) -m pytest -m slow tests/chaos

mutations: setup  ## Break one promise after the other and see that the tests notice (JOBS)
	$(PY) -m tests.mutations --jobs $(or $(JOBS),2)

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
	$(PY) -m scripts.licences

pin: setup  ## Pin all requirements anew
	PATH="$$PWD/.venv/bin:$$PATH" sh scripts/pin.sh

audit: setup  ## Ask whether the pinned packages of the images have known weaknesses
	for room in gateway handler; do \
		$(PY) -m uv tool run $(PIP_AUDIT) --strict --disable-pip --require-hashes -r $$room/requirements.txt || exit 1; done

images:  ## Build the images of gateway and worker, tagged with version and commit (IMAGE, ENGINE)
	$(BUILD) -f Dockerfile.gateway -t $(IMAGE)-gateway:$(TAG) .
	$(BUILD) -f Dockerfile.worker -t $(IMAGE)-worker:$(TAG) .

test-image:  ## Run the tests of the operations on the FFmpeg and Python of the worker's image (ENGINE)
	$(BUILD) -f Dockerfile.worker --target test -t reelay-test:$(TAG) .
	$(ENGINE) run --rm reelay-test:$(TAG)

push:  ## Build the images and push them; only what is committed (IMAGE, ENGINE)
	@test -z "$$(git status --porcelain)" || { echo "push: commit your changes first: the tag names one commit" >&2; exit 1; }
	@$(MAKE) images
	$(ENGINE) push $(IMAGE)-gateway:$(TAG)
	$(ENGINE) push $(IMAGE)-worker:$(TAG)

clean:  ## Remove what the other targets made
	rm -rf .venv demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
