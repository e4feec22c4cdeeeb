"""The API: the calls of the published schema that a gateway and a worker make."""

from __future__ import annotations

import base64
import hmac
import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from tests.emulators.vast import market, published
from tests.emulators.vast.calls import Calls, Problem, auth_error
from tests.emulators.vast.clock import Clock
from tests.emulators.vast.config import Config
from tests.emulators.vast.faults import Fault
from tests.emulators.vast.instances import Account, Instance

MAX_PAGE, ODD_PAGE = 25, 5
MAX_TEXT, MIN_DISK_GB = 256, 8
KEPT_LISTINGS = 50
FILTERABLE = {"id", "label", "actual_status", "gpu_name", "verification", "machine_id", "image_uuid", "cur_state"}
Row = dict[str, Any]


def vast_api(config: Callable[[], Config], clock: Clock, account: Account, calls: Calls) -> Blueprint:
    api = Blueprint("vast_api", __name__)
    listings = _Listings(config, account)

    def authorize(instance_id: int | None = None) -> None:
        """Allow the account everything, a container to stop and destroy itself."""
        key = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if hmac.compare_digest(key, config().api_key.encode()):
            return
        owner = next((one for one in account.instances.values() if hmac.compare_digest(key, one.key.encode())), None)
        if owner is None:
            raise auth_error()
        if owner.id != instance_id:
            raise Problem(403, "not_authorized", "this key may stop or destroy its own instance only")

    @api.post("/api/v0/bundles", strict_slashes=False)
    @calls.call("search")
    def search(fault: Fault | None) -> Response:
        authorize()
        query = request.get_json(silent=True)
        if not isinstance(query, dict) or published.request_violations("search", query):
            raise Problem(400, "invalid_request", "Invalid json body")
        kind = fault.kind if fault else None
        try:
            rows = market.found(account.market(), query)
        except (ValueError, TypeError) as error:
            raise Problem(400, "invalid_request", str(error)) from error
        return jsonify(offers=[] if kind == "no_offers" else rows)

    @api.put("/api/v0/asks/<int:offer_id>", strict_slashes=False)
    @calls.call("create")
    def create(fault: Fault | None, offer_id: int) -> Response:
        authorize()
        body, kind = request.get_json(silent=True), fault.kind if fault else ""
        fields = _asked(body, offer_id)
        if kind == "insufficient_credit" or account.credit <= 0:
            raise Problem(400, "insufficient_credit", "", ask_id=offer_id)
        if fault and kind == "gone":
            account.withdraw(offer_id)
            raise _no_such_ask(offer_id, fault.status)
        if kind == "refused":
            return jsonify(success=False, error="invalid_args", msg="not this time", ask_id=offer_id)
        if fault and kind == "foreign_in_error":
            theirs = next(one.id for one in account.alive() if one.foreign)
            raise Problem(fault.status, "internal_error", "something went wrong", new_contract=theirs)
        with account.lock:
            offer = account.free(offer_id)
            if offer is None:
                raise _no_such_ask(offer_id, 404)
            if fault and kind == "late_effect":
                account.later(fault.seconds, lambda: account.create(offer, **fields))
            else:
                instance = account.create(offer, **fields)
        if fault and kind == "contract_in_error":
            raise Problem(fault.status, "internal_error", "created all the same", new_contract=instance.id)
        if fault and kind in {"error_after", "late_effect"}:
            raise Problem(fault.status, "internal_error", "something went wrong")
        return jsonify(success=True, new_contract=instance.id, instance_api_key=instance.key)

    @api.get("/api/v0/instances", strict_slashes=False)
    def retired() -> tuple[Response, int]:
        return jsonify(success=False, error="endpoint_retired", msg="use /api/v1/instances"), 410

    @api.get("/api/v1/instances", strict_slashes=False)
    @calls.call("list")
    def instances(fault: Fault | None) -> Response:
        authorize()
        return jsonify(listings.page(request.args, fault))

    @api.get("/api/v0/instances/<int:instance_id>", strict_slashes=False)
    @calls.call("show")
    def show(fault: Fault | None, instance_id: int) -> Response:
        authorize()
        instance = account.known(instance_id)
        return jsonify(instances=instance and row(instance, account))

    @api.delete("/api/v0/instances/<int:instance_id>", strict_slashes=False)
    @calls.call("destroy")
    def destroy(fault: Fault | None, instance_id: int) -> Response:
        authorize(instance_id)
        instance = touched(instance_id)
        if not (fault and fault.kind == "ignored"):
            account.end(instance, "api")
        return jsonify(success=True, msg="Instance destroyed successfully")

    @api.put("/api/v0/instances/<int:instance_id>", strict_slashes=False)
    @calls.call("manage")
    def manage(fault: Fault | None, instance_id: int) -> Response:
        authorize(instance_id)
        instance, body = touched(instance_id), request.get_json(silent=True) or {}
        if body.get("state") == "stopped":
            account.stop(instance)
        elif "label" in body:
            instance.label = body["label"]
        else:
            raise Problem(400, "invalid_args", "state or label")
        return jsonify(success=True)

    @api.get("/api/v0/users/current", strict_slashes=False)
    @calls.call("account")
    def user(fault: Fault | None) -> Response:
        authorize()
        left = round(account.credit, 6)
        return jsonify(id=4711, key_id=12, email="ops@example.com", balance=left, credit=left, ssh_key="", sid="1")

    def touched(instance_id: int) -> Instance:
        instance = account.known(instance_id)
        if instance is None:
            raise Problem(404, "no_such_instance", f"Instance {instance_id} not found")
        instance.touched += 1
        return instance

    return api


def _asked(body: Any, offer_id: int) -> dict[str, Any]:
    """The request as fields of an Instance. Raises Problem."""

    def wrong(what: str) -> Problem:
        return Problem(400, "invalid_args", f"error 400/3467: Invalid args: {what}", ask_id=offer_id)

    if not isinstance(body, dict):
        raise wrong("not a JSON object")
    if violations := published.request_violations("create", body):
        raise wrong("; ".join(violations))
    env, label = body.get("env", {}), body.get("label")
    if isinstance(env, str):
        env = {}  # dropped silently
    if not isinstance(env, dict) or not all(
        isinstance(value, str) and len(value) <= MAX_TEXT for value in env.values()
    ):
        raise wrong("env")
    if label is not None and len(label) > MAX_TEXT:
        raise wrong("label")
    if body.get("disk", MIN_DISK_GB) < MIN_DISK_GB:
        raise wrong("disk")
    return {"label": label, "image": body["image"], "runtype": body.get("runtype", "ssh"), "env": env}


def _no_such_ask(offer_id: int, status: int) -> Problem:
    if status == 404:
        message = f"error 404/3603: no_such_ask Instance type by id {offer_id} is not available."
        return Problem(404, "invalid_args", message, ask_id=offer_id)
    message = f"error {status}/3907: no_such_ask Instance type {offer_id} is no longer available."
    return Problem(410 if status == 500 else status, "no_such_ask", message, ask_id=offer_id)


class _Listings:
    """Pages of listings, which may be some listings old. The pages of a listing are one snapshot."""

    def __init__(self, config: Callable[[], Config], account: Account) -> None:
        self._config, self._account = config, account
        # empty before the first listing
        self._past: deque[list[Row]] = deque([[]], maxlen=KEPT_LISTINGS)
        self._number = 0

    def page(self, query: Mapping[str, str], fault: Fault | None) -> Row:
        if "after_token" in query:
            kind = fault.kind if fault else None
            if kind == "bad_token":
                raise Problem(400, "invalid_token", "after_token")
            number, after = _untoken(query["after_token"])
        else:
            number, after = self._look(), 0
        back = self._number - number + self._config().list_behind
        rows = _filtered(self._past[max(0, len(self._past) - 1 - back)], query.get("select_filters", "{}"))
        limit = int(query.get("limit", MAX_PAGE))
        limit = ODD_PAGE if limit <= 0 else min(limit, MAX_PAGE)
        rest = [one for one in rows if one["id"] > after]
        token = _token(number, rest[limit - 1]["id"]) if len(rest) > limit else None
        return _document(rows, rest[:limit], token, fault.kind if fault else None)

    def _look(self) -> int:
        with self._account.lock:
            self._past.append([row(one, self._account) for one in self._account.alive()])
            self._number += 1
            return self._number


def _document(rows: list[Row], page: list[Row], token: str | None, lie: str | None) -> Row:
    if lie in {"empty", "unsuccessful"}:
        rows, page, token = [], [], None
    document: Row = {
        "success": lie != "unsuccessful",
        "instances_found": len(page),
        "total_instances": len(rows) + (lie == "wrong_count"),
        "label_counts": Counter(one["label"] or "" for one in rows),
        "next_token": token,
        "instances": page,
    }
    if lie == "truncated":
        document.update(instances=page[:-1], next_token=None)
    if lie == "no_list":
        del document["instances"]
    return document


def _filtered(rows: list[Row], raw: str) -> list[Row]:
    try:
        filters = json.loads(raw)
        unknown = set(filters) - FILTERABLE
        if unknown:
            raise ValueError(f"cannot filter by: {unknown}")
        return [one for one in rows if all(market.fits(one, *item) for item in filters.items())]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Problem(400, "invalid_request", str(error)) from error


def _token(number: int, last: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"listing": number, "values": {"id": last}}).encode()).decode()


def _untoken(token: str) -> tuple[int, int]:
    try:
        decoded = json.loads(base64.urlsafe_b64decode(token))
        return int(decoded["listing"]), int(decoded["values"]["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(400, "invalid_token", "after_token") from error


def row(instance: Instance, account: Account) -> Row:
    """One instance as the API shows it."""
    offer, runs = instance.offer, instance.status == "running"
    same = ("machine_id", "host_id", "gpu_name", "gpu_arch", "gpu_ram", "gpu_frac", "num_gpus", "cpu_arch", "cpu_cores")
    more = ("dph_base", "dph_total", "inet_up", "inet_down", "reliability2", "verification", "geolocation", "is_bid")
    return {
        **{name: offer[name] for name in (*same, *more)},
        "id": instance.id,
        "label": instance.label,
        "actual_status": instance.status,
        "intended_status": "stopped" if instance.status == "stopped" else "running",
        "cur_state": "stopped" if instance.status == "stopped" else "running",
        "next_state": "stopped" if instance.status == "stopped" else "running",
        "status_msg": instance.message,
        "image_uuid": instance.image,
        "image_runtype": instance.runtype,
        "extra_env": [[name, value] for name, value in instance.env.items()],
        "public_ipaddr": " 127.0.0.1 " if instance.status not in {None, "created"} else "",
        "ports": account.mapped(instance),
        "start_date": instance.created_at,
        "end_date": instance.created_at + offer["duration"],
        "duration": offer["duration"],
        "uptime_mins": None,
        "static_ip": False,
        "direct_port_count": 1 if runs else 0,
        "disk_space": 10.0,
    }
