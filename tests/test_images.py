"""Properties of the images that the Dockerfiles show; `make images` and `make test-image` test the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

START = ROOT / "handler/start.sh"
PACKAGES = {
    "Dockerfile.worker": {"common", "wire", "ffmpeg_ops", "handler"},
    "Dockerfile.gateway": {"common", "wire", "ffmpeg_ops", "gateway", "docs", "samples"},
}
# What the images start, and what is imported late.
PROGRAMS = {
    "Dockerfile.worker": ["handler.__main__", "handler.supervisor", "handler.http_worker", "ffmpeg_ops.engine.zygote"],
    "Dockerfile.gateway": ["gateway.__main__", "gateway.dispatch.__main__", "gateway.cli", "gateway.storage.s3"],
}
each_image = pytest.mark.parametrize("name", list(PACKAGES))


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of every line, continued lines joined."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def last_stage(name: str) -> list[tuple[str, str]]:
    found = instructions(name)
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


@each_image
def test_every_stage_begins_with_the_one_base_or_with_another_stage(name: str) -> None:
    bases = [rest.split() for word, rest in instructions(name) if word == "FROM"]
    stages = {base[-1] for base in bases}
    assert {base[0] for base in bases} - stages == {"debian:trixie-slim"}


@each_image
def test_the_process_is_unprivileged_and_has_an_init(name: str) -> None:
    stage = last_stage(name)
    assert [rest for word, rest in stage if word == "USER"] == ["reelay"]
    assert [rest.startswith('["tini", "--"') for word, rest in stage if word == "ENTRYPOINT"] == [True]


def test_the_gateway_has_a_health_check_with_every_engine() -> None:
    (check,) = [rest for word, rest in last_stage("Dockerfile.gateway") if word == "HEALTHCHECK"]
    assert "/health" in check
    assert "export BUILDAH_FORMAT = docker\n" in (ROOT / "Makefile").read_text()


def test_process_1_of_the_worker_may_be_run_and_not_read() -> None:
    """So its environment, all secrets of the worker, belongs to root: see `tests/ffmpeg_ops/engine/test_sandbox.py`."""
    runs = [rest for word, rest in instructions("Dockerfile.worker") if word == "RUN"]
    assert "chmod 0711 /usr/bin/tini" in runs[0]


@each_image
def test_only_pinned_packages_and_no_code_but_its_own(name: str) -> None:
    copied = {rest.split()[0] for word, rest in last_stage(name) if word == "COPY" and "--from" not in rest}
    assert copied == PACKAGES[name]
    pins = [rest.split()[0] for word, rest in instructions(name) if word == "COPY" and "requirements.txt" in rest]
    assert pins[0] in {f"{package}/requirements.txt" for package in PACKAGES[name]}
    installs = [rest for word, rest in instructions(name) if word == "RUN" and "pip" in rest and "all.txt" not in rest]
    assert [rest for rest in installs if " install --" in rest and "apt-get" not in rest] != []
    assert all("--require-hashes" in rest for rest in installs if "apt-get" not in rest)


@each_image
def test_the_programs_of_an_image_import_nothing_that_it_lacks(name: str, tmp_path: Path) -> None:
    for word, rest in last_stage(name):
        if word == "COPY" and not rest.startswith("--from"):
            source, target = rest.split()
            (tmp_path / target).symlink_to(ROOT / source)
    command = [sys.executable, "-P", "-c", f"import {', '.join(PROGRAMS[name])}"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    assert subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True).stderr == ""


def test_the_gpu_is_requested_with_its_encoder() -> None:
    env = " ".join(rest for word, rest in last_stage("Dockerfile.worker") if word == "ENV")
    assert "NVIDIA_VISIBLE_DEVICES=all" in env and "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility" in env


@each_image
def test_dockerignore_lets_in_what_is_copied_and_no_secrets(name: str) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*" and not {"!.env", "!data", "!.git"} & set(rules)
    sources = [
        rest.split()[0] for word, rest in instructions(name) if word == "COPY" and not re.match(r"--from|--chown", rest)
    ]
    for source in sources:
        assert (ROOT / source).exists() and f"!{source.split('/')[0]}" in rules, source


@pytest.mark.parametrize(
    ("mode", "module"), [(None, "handler"), ("", "handler"), ("runpod", "handler"), ("http", "handler.http_worker")]
)
def test_the_mode_chooses_the_module_and_arguments_reach_it(mode: str | None, module: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **({} if mode is None else {"WORKER_MODE": mode})}
    said = subprocess.run(["sh", START, "--test_input", "{}"], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout == f"-m {module} --test_input {{}}\n"


def test_on_a_rented_machine_the_supervisor_runs_the_worker(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WORKER_MODE": "http", "CONTAINER_ID": "4711"}
    said = subprocess.run(["sh", START], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout == "-m handler.supervisor\n"


def test_a_wrong_mode_is_named() -> None:
    environ = {"PATH": os.environ["PATH"], "WORKER_MODE": "vast"}
    done = subprocess.run(["sh", START], env=environ, capture_output=True, text=True)
    assert done.returncode == 1 and "WORKER_MODE" in done.stderr and "'vast'" in done.stderr
