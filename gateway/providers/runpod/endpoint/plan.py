"""Plans the changes from the present endpoint to the wanted one, and applies them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.providers.runpod.endpoint import catalogue
from gateway.providers.runpod.endpoint.catalogue import Account, warnings
from gateway.providers.runpod.endpoint.failures import AnswerLost, EndpointError
from gateway.providers.runpod.endpoint.management import Endpoint, Management, plain
from gateway.providers.runpod.endpoint.wanted import Wanted

ABSENT = None
# Lists whose order does not matter.
_SETS = frozenset({"gpu.pools", "gpu.excludedTypes", "gpu.allowedCudaVersions"})


@dataclass(frozen=True)
class Line:
    """One field of the endpoint."""

    #: Its path in the management API, such as `workers.max`.
    path: str
    #: The value in the file; ABSENT if it has none.
    wanted: Any
    #: The value at RunPod; ABSENT if it has none.
    present: Any

    @property
    def differs(self) -> bool:
        return bool(_comparable(self.path, self.wanted) != _comparable(self.path, self.present))


@dataclass(frozen=True)
class Plan:
    """The way from the present endpoint to the wanted one."""

    #: Without the GPUs of which it is not known whether they can encode.
    wanted: Wanted
    #: None when there is no endpoint yet.
    present: Endpoint | None
    #: What RunPod offers and allows.
    account: Account = Account()

    @property
    def warnings(self) -> list[str]:
        return warnings(self.account, self.wanted)

    @property
    def lines(self) -> list[Line]:
        """Every field that the file sets, and the variables that only the present endpoint has."""
        present = self.present or {}
        wanted = {path: value for path, value in _flat(self.wanted.body) if path != "type"}
        lines = [Line(path, value, at(present, path)) for path, value in wanted.items()]
        env = present.get("env") or {}
        return lines + [Line(f"env.{key}", ABSENT, env[key]) for key in env if f"env.{key}" not in wanted]

    @property
    def changes(self) -> list[Line]:
        return [line for line in self.lines if line.differs]

    @property
    def patch(self) -> dict[str, Any]:
        """The members that differ, each complete: a part of `env` or of `gpu.pools` would remove the other entries."""
        return {top: self.wanted.body[top] for top in dict.fromkeys(line.path.split(".")[0] for line in self.changes)}


def look(management: Management, wanted: Wanted, endpoint_id: str | None) -> Plan:
    """Compare the endpoint with the wanted one. Raises EndpointError, also if it cannot be changed into that."""
    present = _changeable(management.find(wanted.name, endpoint_id))
    account = catalogue.read(management, None if present is None else str(present["id"]))
    return Plan(catalogue.without_unknown(wanted, account), present, account)


def apply(management: Management, plan: Plan) -> Plan:
    """Create or change the endpoint; return the new plan, whose `changes` are the values that RunPod did not accept.

    Raises EndpointError, also without the catalogue: GPUs that it alone names would no longer be excluded.
    """
    if plan.account.gpus is None:
        raise EndpointError(f"{plan.account.problems[0]} Nothing was changed.")
    if plan.present is None:
        return replace(plan, present=_read(management, str(_create(management, plan.wanted)["id"]), "created"))
    if not plan.changes:
        return plan
    key = str(plan.present["id"])
    management.change(key, plan.patch)
    return replace(plan, present=_read(management, key, "changed"))


def _read(management: Management, endpoint_id: str, done: str) -> Endpoint:
    """Read the endpoint after a write, whose response says what was sent and not what was accepted."""
    try:
        return management.read(endpoint_id)
    except EndpointError as error:
        raise EndpointError(
            f"The endpoint {endpoint_id} was {done}, but reading it failed: {error} Check it with `plan`."
        ) from error


def _create(management: Management, wanted: Wanted) -> Endpoint:
    try:
        return management.create(wanted.body)
    except AnswerLost as lost:
        # A second call might create a second endpoint.
        try:
            found = _changeable(management.find(wanted.name))
        except EndpointError as error:
            raise EndpointError(f"{lost} It may have been created; looking for it failed: {error}") from error
        if found is None:
            raise EndpointError(
                f"{lost} There is no endpoint {wanted.name!r} yet, and it was not sent again: "
                "look with `plan` in a minute, and `apply` if there still is none."
            ) from lost
        return found


def _changeable(endpoint: Endpoint | None) -> Endpoint | None:
    if endpoint is None:
        return None
    kind = f"is of type {endpoint['type']}" if endpoint.get("type", "QUEUE") != "QUEUE" else ""
    if kind := kind or ("runs on CPUs" if endpoint.get("cpu") else ""):
        raise EndpointError(
            f"The endpoint {endpoint.get('name')!r} ({endpoint['id']}) {kind}, which cannot be changed: "
            "delete it, or give ours another name."
        )
    return endpoint


def _flat(body: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in body.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def at(endpoint: Mapping[str, Any], path: str) -> Any:
    """The value at `path`, like `workers.max`, of an endpoint or of a create call's body; ABSENT if there is none."""
    top, _, rest = path.partition(".")
    value = endpoint.get(top, ABSENT)
    return value if not rest else value.get(rest, ABSENT) if isinstance(value, Mapping) else ABSENT


def _comparable(path: str, value: Any) -> Any:
    if path in _SETS and (value is ABSENT or isinstance(value, list)):
        return frozenset(map(str, value or ()))
    return plain(value) if path == "name" and isinstance(value, str) else value
