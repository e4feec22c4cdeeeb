"""A stand-in for RunPod's management API that checks requests and responses against the published schema.

    with management() as runpod:
        RUNPOD_MANAGEMENT_BASE = runpod.base; RUNPOD_API_KEY = runpod.key
        runpod.endpoints["4m7x2k9q"]["workers"]["max"] = 0     # a change by a person or by RunPod
        runpod.gpus.append(gpu("NVIDIA X1", "ADA_24"))         # a new GPU in the catalogue
        runpod.worker_limit = 5                                # of all endpoints together; more is cut off in silence
        runpod.faults.append(Fault("POST", after_effect="drop"))

The schema is `management.openapi.json`; `calls` records (method, path, body). It also enforces what the schema says in
prose only: the key, one of `gpu` and `cpu`, no idle timeout with REQUEST_COUNT, a minimum CUDA version or a set but not
both, exclusions that belong to pools, `env` replaced as a whole, names that need not be unique. What a write returns is
what was sent; only a read shows what was accepted. The schema of the account's limits is not in our copy.
"""

from __future__ import annotations

import copy
import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from gateway.providers.runpod.gpus import NANO, POOLS

KEY = "rpa_TESTSTESTSTESTSTESTS0123456789"
_SCHEMA = json.loads(Path(__file__).with_name("management.openapi.json").read_text())
_URI = "urn:runpod:management"
_REGISTRY: Registry[Any] = Registry().with_resource(_URI, DRAFT202012.create_resource(_SCHEMA))


@dataclass(frozen=True)
class Fault:
    """For the next call with `method` (and `path` in its path): a response instead of the effect, or a fault after it.

    `instead` is (status, body, headers); `after_effect` is `drop` (no response at all) or `bad gateway`.
    """

    method: str
    instead: tuple[int, Any, Mapping[str, str]] | None = None
    after_effect: str | None = None
    path: str = ""


def gpu(id_: str, pool: str | None, per_hour: float | None = None) -> dict[str, Any]:
    """A GPU of the catalogue."""
    price = {"secure": 0.5, "community": 0.4, **({} if per_hour is None else {"serverless": per_hour})}
    return {
        "id": id_,
        "name": id_.removeprefix("NVIDIA "),
        "pool": pool,
        "manufacturer": "NVIDIA",
        "memory": 24,
        "secure": True,
        "community": False,
        "price": price,
        "maxCount": {"secure": 8, "community": 0},
        "availability": "HIGH",
    }


class Problem(Exception):
    """Returned as a problem document of RFC 9457."""

    def __init__(self, status: int, title: str, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"title": title, "status": status, "detail": detail} | ({"errors": errors} if errors else {})


def violations(schema: str, value: Any) -> list[str]:
    """How `value` breaks the published schema `schema`, like "Endpoint"."""
    validator = Draft202012Validator({"$ref": f"{_URI}#/components/schemas/{schema}"}, registry=_REGISTRY)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


class Management:
    """The state of one account; see the module's docstring."""

    def __init__(self) -> None:
        self.key = KEY
        self.base = ""
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.workers: dict[str, list[dict[str, Any]]] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.faults: list[Fault] = []
        self.worker_limit = 1000
        known = [gpu(id_, pool.name, pool.price * 3600 / NANO) for pool in POOLS.values() for id_ in pool.gpus]
        self.gpus = [*known, gpu("NVIDIA GeForce RTX 3070", None)]
        self.unfit: list[str] = []
        self._ids = (f"ep{number:06d}" for number in itertools.count(1))
        self._lock = threading.Lock()

    def writes(self) -> list[tuple[str, str, Any]]:
        return [call for call in self.calls if call[0] != "GET"]

    def add(self, **members: Any) -> str:
        """Add an endpoint, as if made in RunPod's console."""
        body = {
            "name": "reelay",
            "type": "QUEUE",
            "image": "someone/worker:1.0",
            "gpu": {"pools": ["ADA_24"]},
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        }
        return str(self._create({**body, **members})["id"])

    def answer(self, method: str, path: str, key: str, body: Any) -> tuple[int, Any, Mapping[str, str], str | None]:
        """Status, body, headers, and the fault that affects the response."""
        with self._lock:
            self.calls.append((method, path, body))
            fault = next((fault for fault in self.faults if fault.method == method and fault.path in path), None)
            if fault:
                self.faults.remove(fault)
                if fault.instead:
                    return *fault.instead, None
            try:
                if key != f"Bearer {self.key}":
                    raise Problem(401, "Unauthorized", "missing or invalid bearer token")
                status, answer, schema = self._route(method, path, body)
            except Problem as problem:
                status, answer, schema = problem.status, problem.body, "ErrorResponse"
            self.unfit += violations(schema, answer) if schema else []
            return status, copy.deepcopy(answer), {}, fault.after_effect if fault else None

    def _route(self, method: str, path: str, body: Any) -> tuple[int, Any, str | None]:
        match method, path.partition("?")[0].strip("/").split("/")[1:]:
            case "GET", ["catalog", "gpus"]:
                return 200, {"gpus": self.gpus}, "ListGpuTypesResponse"
            case "GET", ["account", "limits"]:
                used = sum(endpoint["workers"]["max"] for endpoint in self.endpoints.values())
                limits = {"limit": self.worker_limit, "used": used}
                return 200, {"serverlessWorkers": limits, "spendRate": {"limit": 80, "used": 0}}, None
            case "GET", ["serverless"]:
                return 200, {"endpoints": list(self.endpoints.values())}, "ListEndpointsResponse"
            case "POST", ["serverless"]:
                _valid("CreateEndpointRequest", body)
                return 201, self._create(body), "Endpoint"
            case "GET", ["serverless", key]:
                return 200, self._known(key), "Endpoint"
            case "PATCH", ["serverless", key]:
                endpoint = self._known(key)
                _valid("UpdateEndpointRequest", body)
                return 200, self._change(endpoint, body), "Endpoint"
            case "GET", ["serverless", key, "workers"]:
                self._known(key)
                rows = self.workers.get(key, [])
                words = ("running", "idle", "initializing", "throttled", "unhealthy")
                summary = {word: sum(row["status"] == word.upper() for row in rows) for word in words}
                return 200, {"workers": rows, "summary": summary | {"total": len(rows)}}, "ListEndpointWorkersResponse"
        raise Problem(404, "Not Found", f"no such path: {method} {path}")

    def _known(self, key: str) -> dict[str, Any]:
        if key not in self.endpoints:
            raise Problem(404, "Not Found", "endpoint not found")
        return self.endpoints[key]

    def _create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if ("gpu" in body) == ("cpu" in body):
            raise Problem(400, "Bad Request", "specify exactly one of gpu and cpu")
        endpoint: dict[str, Any] = {
            "id": next(self._ids),
            "name": body["name"],
            "type": body["type"],
            "workers": {"min": 0, "max": 3, "idleTimeout": 10},
            "scaling": body["scaling"],
            "dataCenterIds": [],
            "networkVolumes": [],
            "timeout": 300_000,
            "flashboot": "OFF",
            "createdAt": "2026-01-31T12:00:00Z",
            "args": "",
            "disk": 20,
            "ports": [],
            "env": {},
            "registry": None,
        }
        if "gpu" in body:
            endpoint["gpu"] = {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None}
        else:
            endpoint["cpu"] = [{**cpu, "memory": 16} for cpu in body["cpu"]]
        made = self._changed(endpoint, {key: value for key, value in body.items() if key != "cpu"})
        self.endpoints[made["id"]] = self._within_limit(made)
        return made

    def _change(self, endpoint: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        if ("gpu" in body and "cpu" in endpoint) or ("cpu" in body and "gpu" in endpoint):
            raise Problem(400, "Bad Request", "the compute family is immutable")
        changed = self._changed(endpoint, body)
        kept = self._within_limit(changed)
        endpoint.clear()
        endpoint.update(kept)
        return changed

    def _within_limit(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        """The endpoint with as many workers as the account's limit leaves for it."""
        others = sum(one["workers"]["max"] for one in self.endpoints.values() if one["id"] != endpoint["id"])
        allowed = max(0, min(endpoint["workers"]["max"], self.worker_limit - others))
        return {**endpoint, "workers": {**endpoint["workers"], "max": allowed}}

    def _changed(self, endpoint: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        new = copy.deepcopy({**endpoint, **body})
        new["workers"] = {**endpoint["workers"], **body.get("workers", {})}
        if "gpu" in endpoint:
            new["gpu"] = self._gpu(endpoint["gpu"], body.get("gpu", {}))
        if new["scaling"]["type"] == "REQUEST_COUNT" and new["type"] == "QUEUE":
            if "idleTimeout" in body.get("workers", {}):
                raise Problem(422, "Unprocessable Entity", "idleTimeout does not apply to REQUEST_COUNT", ["$.workers"])
            new["workers"].pop("idleTimeout", None)
        return new

    def _gpu(self, present: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        new = {**present, **change}
        if "pools" in change and "excludedTypes" not in change:
            new.pop("excludedTypes", None)
        if unknown := set(new["pools"]) - {row["pool"] for row in self.gpus}:
            raise Problem(400, "Bad Request", f"unknown pools: {unknown}")
        offered = {row["id"] for row in self.gpus if row["pool"] in new["pools"]}
        if not set(new.get("excludedTypes", [])) < offered:
            raise Problem(400, "Bad Request", "an exclusion is not in the pools, or nothing is left")
        new["minCudaVersion"] = new["minCudaVersion"] or None
        if new["minCudaVersion"] and new["allowedCudaVersions"]:
            raise Problem(400, "Bad Request", "minCudaVersion and allowedCudaVersions are mutually exclusive")
        # as a set: nothing promises an order
        return {**new, "pools": sorted(new["pools"])}


def _valid(schema: str, body: Any) -> None:
    if wrong := violations(schema, body):
        raise Problem(422, "Unprocessable Entity", "Request validation failed.", wrong)


@contextmanager
def management() -> Iterator[Management]:
    """Serve on loopback; raise at the end if a response broke the published schema."""
    account = Management()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = self.headers.get("Authorization", "")
            status, body, headers, fault = account.answer(
                self.command, self.path, key, json.loads(raw) if raw else None
            )
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "bad gateway":
                status, body = 502, "<html>Bad gateway</html>"
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status < 300 else "application/problem+json")
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    account.base = f"http://127.0.0.1:{server.server_address[1]}/v2"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield account
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert account.unfit == []
