"""`runpod.toml`: what is refused, before anything is called."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gateway.providers.runpod.endpoint.failures import EndpointError
from gateway.providers.runpod.endpoint.wanted import is_secret, load, name_in
from tests.conftest import ROOT
from tests.emulators.runpod.management import Management, violations
from tests.gateway.providers.runpod.endpoint.conftest import IMAGE

Edit = Callable[[str, str], None]


def refused(path: Path) -> list[str]:
    with pytest.raises(EndpointError) as caught:
        load(path)
    head, *mistakes = str(caught.value).splitlines()
    assert head == "runpod.toml cannot be applied:"
    return [mistake.removeprefix("- ") for mistake in mistakes]


def test_what_is_sent_is_as_published_and_as_required(file: Path) -> None:
    body = load(file).body
    assert violations("CreateEndpointRequest", body) == []
    assert body["workers"] == {"min": 0, "max": 10, "idleTimeout": 300}
    assert body["scaling"] == {"type": "QUEUE_DELAY", "queueDelay": 4}
    assert (body["type"], body["flashboot"], body["timeout"]) == ("QUEUE", "FLASHBOOT", 720_000)


def test_a_change_is_as_published_too(file: Path) -> None:
    body = {key: value for key, value in load(file).body.items() if key != "type"}
    assert violations("UpdateEndpointRequest", body) == []


def test_the_keys_of_runpodctl_are_valid() -> None:
    """Their types are those that `runpodctl project` asserts; it panics at others."""
    file = tomllib.loads((ROOT / "runpod.toml").read_text())
    texts = {"project": ["uuid", "base_image", "ports", "volume_mount_path"], "runtime": list(file["runtime"])}
    assert isinstance(file["name"], str)
    assert all(type(file[table][key]) is str for table, keys in texts.items() for key in keys)
    assert set(file["runtime"]) == {"python_version", "handler_path", "requirements_path"}
    assert type(file["project"]["gpu_count"]) is type(file["project"]["container_disk_size_gb"]) is int
    assert all(type(value) is str for value in file["project"]["env_vars"].values())
    assert type(file["endpoint"]["active_workers"]) is type(file["endpoint"]["max_workers"]) is int
    assert type(file["endpoint"]["flashboot"]) is bool
    for key in ("handler_path", "requirements_path"):
        assert (ROOT / file["runtime"][key]).is_file()


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        (
            '"AMPERE_16", "AMPERE_24", "ADA_24"',
            f'"{pool}"',
            f"reelay.gpu_pools: {pool} ({gpu}) has no NVENC: it would encode on the CPU, at several times the price.",
        )
        for pool, gpu in [("AMPERE_80", "A100"), ("ADA_80_PRO", "H100"), ("HOPPER_141", "H200"), ("BLACKWELL_180", "B200")]
    ]
    + [
        ('"QUEUE_DELAY"', '"REQUEST_COUNT"', "reelay.scaling: REQUEST_COUNT allows no idle timeout (RunPod refuses the two together), and ours is required: write QUEUE_DELAY."),
        ('"QUEUE_DELAY"', '"SLOW"', "reelay.scaling: Must be QUEUE_DELAY."),
        (IMAGE, "acme/worker:latest", "project.base_image: Hosts cache the tag `latest` that they pulled first: pin a version."),
        (IMAGE, "acme/worker", "project.base_image: Has no tag, which means `latest`: write account/name:tag."),
        (IMAGE, "registry.acme.example:5000/acme/worker", "project.base_image: Has no tag, which means `latest`: write account/name:tag."),
        (IMAGE, "Acme/worker:1", "project.base_image: 'Acme/worker:1' cannot be pulled: write account/name:tag, in lower case, with your own account."),
        ("max_workers = 10", "max_workers = 0", "endpoint.max_workers: Must be greater than or equal to 1 and less than or equal to 1000."),
        ("max_workers = 10", 'max_workers = "10"', "endpoint.max_workers: Not a valid integer."),
        ("max_workers = 10\n", "", "endpoint.max_workers: Missing data for required field."),
        ("active_workers = 0", "active_workers = 11", "endpoint.active_workers: Must not be more than max_workers."),
        ("flashboot = true", 'flashboot = "yes"', "endpoint.flashboot: Not a valid boolean."),
        ("idle_timeout_s = 300", "idle_timeout_s = 0", "reelay.idle_timeout_s: Must be greater than or equal to 1 and less than or equal to 3600."),
        ("idle_timeout_s = 300", "idle_timeout_s = 3601", "reelay.idle_timeout_s: Must be greater than or equal to 1 and less than or equal to 3600."),
        ("idle_timeout_s = 300", "idle_timeout_s = true", "reelay.idle_timeout_s: Not a valid integer."),
        ("idle_timeout_s = 300", "idle_timout_s = 300\nidle_timeout_s = 300", "reelay.idle_timout_s: Unknown field."),
        ('"AMPERE_24", "ADA_24"', '"ADA_24", "ADA_24"', "reelay.gpu_pools: Names a pool twice."),
        ('["AMPERE_16", "AMPERE_24", "ADA_24"]', "[]", "reelay.gpu_pools: Shorter than minimum length 1."),
        ('"AMPERE_16", "AMPERE_24", "ADA_24"', '"ADA_25"', "reelay.gpu_pools: ADA_25 is not a known pool; known: AMPERE_16, AMPERE_24, ADA_24, ADA_32_PRO, AMPERE_48, ADA_48_PRO, BLACKWELL_96."),
        ("excluded_gpus = []", 'excluded_gpus = ["RTX 5090"]', "reelay.excluded_gpus: 'RTX 5090' is in none of the pools; in them are: NVIDIA GeForce RTX 3090, "),
        ('min_cuda = "12.2"', 'min_cuda = "12"', "reelay.min_cuda: Must be like 12.2."),
        ('min_cuda = "12.2"', 'min_cuda = "12.1"', "reelay.min_cuda: Must be at least 12.2: machines with CUDA 12.1 may have a driver without our NVENC."),
        ('min_cuda = "12.2"', 'min_cuda = "9.10"', "reelay.min_cuda: Must be at least 12.2: machines with CUDA 12.1 may have a driver without our NVENC."),
        ("queue_delay_s = 4", "queue_delay_s = 0.1", "reelay.queue_delay_s: Must be greater than or equal to 0.5 and less than or equal to 3600."),
        ("timeout_s = 720", "timeout_s = 4", "reelay.timeout_s: Must be greater than or equal to 5 and less than or equal to 86400."),
        ('LOG_LEVEL = "INFO"', 'RUNPOD_API_KEY = "rpa_x"', "project.env_vars: RUNPOD_API_KEY is the gateway's own: a worker must not hold it."),
        ('LOG_LEVEL = "INFO"', 'NVIDIA_DRIVER_CAPABILITIES = "compute, utility"', "project.env_vars: NVIDIA_DRIVER_CAPABILITIES needs `video`: without it NVENC does not load."),
        ('LOG_LEVEL = "INFO"', "LOG_LEVEL = 3", "project.env_vars.LOG_LEVEL.value: Not a valid string."),
        ('LOG_LEVEL = "INFO"', '"a b" = "x"', "project.env_vars.a b.key: Is not the name of a variable."),
        ('name = "reelay"', 'name = ""', "name: Length must be between 1 and 100."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_reason(file: Path, edit: Edit, old: str, new: str, mistake: str) -> None:
    edit(old, new)
    (reported,) = refused(file)
    assert reported.startswith(mistake)


def test_all_mistakes_are_reported_together_and_nothing_is_called(
    runpod: Management, call: Callable[..., Result], edit: Edit
) -> None:
    edit('"AMPERE_16", "AMPERE_24", "ADA_24"', '"AMPERE_80", "HOPPER_141"')
    edit('"QUEUE_DELAY"', '"REQUEST_COUNT"')
    edit(IMAGE, "acme/worker:latest")
    edit("active_workers = 0", "active_workers = 20")
    edit("flashboot = true", "flashboot = 2")
    edit("timeout_s = 720", "timeout_s = 720\nregion = 1")
    for command in ("plan", "apply"):
        result = call(command)
        assert result.exit_code == 1
        assert [line.partition(": ")[0] for line in result.output.splitlines()[1:]] == [
            "- project.base_image",
            "- endpoint.flashboot",
            "- endpoint.active_workers",
            "- reelay.gpu_pools",
            "- reelay.gpu_pools",
            "- reelay.scaling",
            "- reelay.region",
        ]
    assert runpod.calls == []


@pytest.mark.parametrize("image", [
    "registry.example/acme/video/worker:1.0_b-2", "host:5000/acme/worker:1", f"acme/worker@sha256:{'a' * 64}",
])  # fmt: skip
def test_an_image_with_a_version_is_taken(file: Path, image: str) -> None:
    assert load(file, image=image).body["image"] == image


def test_the_image_of_a_fresh_checkout_has_to_be_set() -> None:
    (mistake,) = refused(ROOT / "runpod.toml")
    assert mistake.startswith("project.base_image: 'YOUR-ACCOUNT/reelay-worker:0.1.0' cannot be pulled")


def test_some_gpus_can_be_left_out_but_not_all(file: Path, edit: Edit) -> None:
    edit('["AMPERE_16", "AMPERE_24", "ADA_24"]', '["ADA_24", "AMPERE_48"]')
    edit("excluded_gpus = []", 'excluded_gpus = ["NVIDIA A40"]')
    assert load(file).body["gpu"]["excludedTypes"] == ["NVIDIA A40"]
    edit('["ADA_24", "AMPERE_48"]', '["AMPERE_48"]')
    edit('["NVIDIA A40"]', '["NVIDIA A40", "NVIDIA RTX A6000"]')
    assert refused(file) == ["reelay.excluded_gpus: Leaves no GPU."]


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("name = ", "is not valid TOML: Invalid value"),
        (b"\xff", "is not valid TOML: "),
        ("a = " + "[" * 9_999, "is not valid TOML: "),
        ("project = 3", "project: Invalid"),
    ],
)
def test_a_file_that_is_none_is_reported(file: Path, text: str | bytes, reported: str) -> None:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EndpointError, match=reported):
        load(file, image="acme/worker:1")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"nothing.toml cannot be read: No such file or directory\."):
        load(tmp_path / "nothing.toml")


def test_the_name_is_known_even_when_the_rest_is_wrong() -> None:
    assert name_in(ROOT / "runpod.toml") == "reelay"


@pytest.mark.parametrize(("name", "value", "secret"), [
    ("HF_TOKEN", "x", True), ("aws_secret_access_key", "x", True), ("DB_PASSWORD", "x", True),
    ("MIRROR", "https://user:word@mirror.example", True), ("LOG_LEVEL", "INFO", False),
    ("FETCH_ALLOW_ORIGINS", "https://mirror.example", False),
])  # fmt: skip
def test_what_looks_like_a_secret(name: str, value: str, secret: bool) -> None:
    assert is_secret(name, value) is secret
