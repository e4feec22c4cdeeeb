"""The endpoint that `runpod.toml` describes, checked before RunPod is called."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate, validates_schema

from common.validation import mistakes
from gateway.providers.runpod.endpoint.failures import EndpointError
from gateway.providers.runpod.gpus import POOLS, Pool

# The gateway's secrets: a worker holds no key of an account, a storage or a client.
GATEWAYS_OWN = frozenset(
    [
        "RUNPOD_API_KEY",
        "VAST_API_KEY",
        "X_API_KEY",
        "SECRET_KEY",
        "DATABASE_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ]
)
# NVENC in Debian 13's FFmpeg needs driver 530.41.03. CUDA 12.1 came with 530.30, CUDA 12.2 with 535.
MIN_CUDA = (12, 2)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE|SIGNATURE", re.IGNORECASE)
_USER_IN_URL = re.compile(r"://[^/\s]*@")
# registry:5000/account/name:tag@digest, where the host's port is not a tag
_IMAGE = re.compile(
    r"(?P<name>[a-z0-9]+(?:[._:-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True)
class Wanted:
    """The wanted endpoint."""

    #: The request body that creates it in the management API.
    body: Mapping[str, Any]
    #: In the order of preference.
    pools: tuple[Pool, ...]

    @property
    def name(self) -> str:
        return str(self.body["name"])


def load(path: Path, image: str | None = None) -> Wanted:
    """The file at `path`; `image` replaces the one that it names. Raises EndpointError with all mistakes."""
    raw = _toml(path)
    if image is not None and isinstance(raw.get("project"), dict):
        raw["project"]["base_image"] = image
    try:
        return _wanted(FileSchema().load(raw))
    except ValidationError as error:
        listed = "".join(f"\n- {mistake}" for mistake in mistakes(error))
        raise EndpointError(f"{path.name} cannot be applied:{listed}") from error


def name_in(path: Path) -> str:
    """The endpoint's name alone, from a file that may otherwise be wrong. Raises EndpointError."""
    name = _toml(path).get("name")
    if not isinstance(name, str) or not name:
        raise EndpointError(f"{path} has no name.")
    return name


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EndpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EndpointError(f"{path} is not valid TOML: {error}.") from error


def is_secret(name: str, value: str) -> bool:
    """Whether the value of a variable must not be shown."""
    return bool(_SECRET.search(name) or _USER_IN_URL.search(value))


def _wanted(file: Mapping[str, Any]) -> Wanted:
    project, endpoint, own = file["project"], file["endpoint"], file["reelay"]
    body = {
        "name": file["name"],
        "type": "QUEUE",
        "image": project["base_image"],
        "gpu": {
            "pools": own["gpu_pools"],
            "excludedTypes": own["excluded_gpus"],
            "count": project["gpu_count"],
            "minCudaVersion": own["min_cuda"],
            # sent, because RunPod refuses a minimum beside a set that was chosen in its page
            "allowedCudaVersions": [],
        },
        "workers": {
            "min": endpoint["active_workers"],
            "max": endpoint["max_workers"],
            "idleTimeout": own["idle_timeout_s"],
        },
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": own["queue_delay_s"]},
        "timeout": own["timeout_s"] * 1000,
        "flashboot": "FLASHBOOT" if endpoint["flashboot"] else "OFF",
        "disk": project["container_disk_size_gb"],
        "env": project["env_vars"],
    }
    return Wanted(body, tuple(POOLS[name] for name in own["gpu_pools"]))


def _whole(minimum: int, maximum: int) -> Any:
    return fields.Integer(required=True, strict=True, validate=validate.Range(minimum, maximum))


def _flag() -> Any:
    return fields.Boolean(required=True, truthy={True}, falsy={False})


def _check_image(image: str) -> None:
    parts = _IMAGE.fullmatch(image)
    if parts is None:
        raise ValidationError(
            f"{image!r} cannot be pulled: write account/name:tag, in lower case, with your own account."
        )
    if parts["digest"]:
        return
    if not parts["tag"]:
        raise ValidationError("Has no tag, which means `latest`: write account/name:tag.")
    if parts["tag"] == "latest":
        raise ValidationError("Hosts cache the tag `latest` that they pulled first: pin a version.")


def _check_pools(pools: Sequence[str]) -> None:
    known = [pool for pool in POOLS if POOLS[pool].nvenc]
    wrong = [f"{name} is not a known pool; known: {', '.join(known)}." for name in pools if name not in POOLS]
    wrong += [
        f"{name} ({POOLS[name].shown}) has no NVENC: it would encode on the CPU, at several times the price."
        for name in pools
        if name in POOLS and not POOLS[name].nvenc
    ]
    if len(set(pools)) != len(pools):
        wrong.append("Names a pool twice.")
    if wrong:
        raise ValidationError(wrong)


def _check_env(env: Mapping[str, str]) -> None:
    wrong = [f"{name} is the gateway's own: a worker must not hold it." for name in env if name in GATEWAYS_OWN]
    capabilities = env.get("NVIDIA_DRIVER_CAPABILITIES", "video").replace(" ", "").split(",")
    if not {"video", "all"} & set(capabilities):
        wrong.append("NVIDIA_DRIVER_CAPABILITIES needs `video`: without it NVENC does not load.")
    if wrong:
        raise ValidationError(wrong)


def _check_cuda(version: str) -> None:
    if not re.fullmatch(r"\d{1,3}\.\d{1,3}", version):
        raise ValidationError("Must be like 12.2.")
    if tuple(map(int, version.split("."))) < MIN_CUDA:
        raise ValidationError("Must be at least 12.2: machines with CUDA 12.1 may have a driver without our NVENC.")


def _check_scaling(scaling: str) -> None:
    if scaling == "REQUEST_COUNT":
        raise ValidationError(
            "REQUEST_COUNT allows no idle timeout (RunPod refuses the two together), and ours is required: "
            "write QUEUE_DELAY."
        )
    if scaling != "QUEUE_DELAY":
        raise ValidationError("Must be QUEUE_DELAY.")


class ProjectSchema(Schema):
    """[project]: the keys of `runpodctl` that also apply to an endpoint."""

    class Meta:
        unknown = EXCLUDE

    base_image = fields.String(required=True, validate=_check_image)
    gpu_count = _whole(1, 8)
    container_disk_size_gb = _whole(5, 1000)
    env_vars = fields.Dict(
        keys=fields.String(validate=validate.Regexp(r"[A-Za-z_]\w*\Z", error="Is not the name of a variable.")),
        values=fields.String(),
        load_default=dict,
        validate=_check_env,
    )


class EndpointSchema(Schema):
    """[endpoint], as `runpodctl` defines it."""

    class Meta:
        unknown = EXCLUDE

    active_workers = _whole(0, 1000)
    max_workers = _whole(1, 1000)
    flashboot = _flag()

    @validates_schema(skip_on_field_errors=False)
    def _order(self, data: Mapping[str, Any], **kwargs: Any) -> None:
        if data.get("active_workers", 0) > data.get("max_workers", 1000):
            raise ValidationError("Must not be more than max_workers.", "active_workers")


class ReelaySchema(Schema):
    """[reelay]: what `runpodctl` has no key for."""

    class Meta:
        unknown = RAISE

    gpu_pools = fields.List(fields.String(), required=True, validate=[validate.Length(1), _check_pools])
    excluded_gpus = fields.List(fields.String(), load_default=list)
    min_cuda = fields.String(required=True, validate=_check_cuda)
    idle_timeout_s = _whole(1, 3600)
    scaling = fields.String(required=True, validate=_check_scaling)
    queue_delay_s = fields.Float(required=True, validate=validate.Range(0.5, 3600))
    timeout_s = _whole(5, 86_400)

    @validates_schema
    def _exclusions(self, data: Mapping[str, Any], **kwargs: Any) -> None:
        offered = {gpu for name in data["gpu_pools"] for gpu in POOLS[name].gpus}
        excluded = set(data["excluded_gpus"])
        known = ", ".join(sorted(offered))
        wrong = [f"{gpu!r} is in none of the pools; in them are: {known}." for gpu in sorted(excluded - offered)]
        if offered <= excluded:
            wrong.append("Leaves no GPU.")
        if wrong:
            raise ValidationError(wrong, "excluded_gpus")


class FileSchema(Schema):
    """`runpod.toml`; other keys of `runpodctl` are ignored."""

    class Meta:
        unknown = EXCLUDE

    name = fields.String(required=True, validate=validate.Length(1, 100))
    project = fields.Nested(ProjectSchema, required=True)
    endpoint = fields.Nested(EndpointSchema, required=True)
    reelay = fields.Nested(ReelaySchema, required=True)
