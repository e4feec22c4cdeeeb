"""RunPod's management API: https://docs.runpod.io/api-reference-v2. It lists all endpoints at once, without pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from gateway.providers.http import Answer, Api, never_sent
from gateway.providers.runpod.endpoint.failures import AnswerLost, EndpointError
from gateway.providers.runpod.settings import RunPodSettings

Endpoint = Mapping[str, Any]


class Management:
    """Endpoints of the account RUNPOD_API_KEY. Every call may raise EndpointError, and nothing else."""

    def __init__(self, settings: RunPodSettings) -> None:
        if not settings.api_key:
            raise EndpointError("RUNPOD_API_KEY is not set; make one at https://console.runpod.io/user/settings.")
        if (urlsplit(settings.management_base).hostname or "").endswith(".runpod.ai"):
            raise EndpointError(
                "RUNPOD_MANAGEMENT_BASE is where jobs are sent; endpoints are managed on api.runpod.io/v2."
            )
        headers = {"Authorization": f"Bearer {settings.api_key}"}
        self._api = Api(settings.management_base, headers, keep_alive=False)
        self._jobs = Api(settings.api_base, headers, keep_alive=False)

    def find(self, name: str, endpoint_id: str | None = None) -> Endpoint | None:
        """Find the endpoint by its id, or without one by its name. Two of the same name are an error."""
        if endpoint_id:
            return self._by_id(endpoint_id)
        found = [endpoint for endpoint in self._all() if plain(str(endpoint.get("name"))) == plain(name)]
        if len(found) > 1:
            ids = ", ".join(str(endpoint["id"]) for endpoint in found)
            raise EndpointError(
                f"{len(found)} endpoints have the name {name!r}: {ids}. "
                "Set RUNPOD_ENDPOINT_ID to the right one, and delete the others in RunPod's page."
            )
        return found[0] if found else None

    def create(self, body: Mapping[str, Any]) -> Endpoint:
        """Create an endpoint; never retried. Raises AnswerLost when it may have been created."""
        answer = _call(self._api, "POST", "/serverless", body)
        if answer.status < 300:
            return _endpoint(answer)
        if answer.status >= 500:
            raise AnswerLost(_problem(answer))
        raise EndpointError(_problem(answer))

    def change(self, endpoint_id: str, body: Mapping[str, Any]) -> Endpoint:
        """Change the endpoint and return it. The call is idempotent."""
        return _endpoint(_successful(_call(self._api, "PATCH", f"/serverless/{quote(endpoint_id, safe='')}", body)))

    def read(self, endpoint_id: str) -> Endpoint:
        """Return the endpoint as it is. The responses of `create` and `change` may repeat what was sent instead."""
        return self._by_id(endpoint_id)

    def gpus(self) -> list[Mapping[str, Any]]:
        """The catalogue of GPUs: `id`, `pool`, `price`, `availability` and more of each."""
        path = "/catalog/gpus?include=AVAILABILITY&product=SERVERLESS"
        return _objects(_successful(_call(self._api, "GET", path)), "gpus")

    def worker_limit(self) -> int:
        """The maximum sum of `workers.max` of all endpoints that the account allows."""
        found = _successful(_call(self._api, "GET", "/account/limits")).body.get("serverlessWorkers")
        limit = found.get("limit") if isinstance(found, dict) else None
        if type(limit) is not int or limit < 0:
            raise EndpointError("RunPod returned an invalid response: it has no limit of serverlessWorkers.")
        return limit

    def max_workers_of_others(self, endpoint_id: str | None) -> int:
        """The sum of `workers.max` of all endpoints but this one."""
        others = [endpoint for endpoint in self._all() if endpoint["id"] != endpoint_id]
        found = [(endpoint.get("workers") or {}).get("max") for endpoint in others]
        return sum(number for number in found if isinstance(number, int))

    def workers(self, endpoint_id: str) -> list[Mapping[str, Any]]:
        """List the present workers: `id`, `status`, `gpuTypeId`, `dataCenterId`, `uptimeSeconds`, `isStale`."""
        answer = _successful(_call(self._api, "GET", f"/serverless/{quote(endpoint_id, safe='')}/workers"))
        return _objects(answer, "workers")

    def health(self, endpoint_id: str) -> Mapping[str, Mapping[str, int]]:
        """The job API's own counts: `jobs` and `workers`, each state → number."""
        answer = _successful(_call(self._jobs, "GET", f"/{quote(endpoint_id, safe='')}/health"))
        counts = {part: answer.body.get(part) for part in ("jobs", "workers")}
        if not all(isinstance(part, dict) and set(map(type, part.values())) <= {int} for part in counts.values()):
            raise EndpointError("RunPod returned an invalid response about the queue.")
        return counts  # type: ignore[return-value]

    def _by_id(self, endpoint_id: str) -> Endpoint:
        answer = _call(self._api, "GET", f"/serverless/{quote(endpoint_id, safe='')}")
        if answer.status == 404:
            raise EndpointError(
                f"RUNPOD_ENDPOINT_ID={endpoint_id} is no endpoint of this account. Unset it to look for the name."
            )
        return _endpoint(_successful(answer))

    def _all(self) -> list[Endpoint]:
        return _objects(_successful(_call(self._api, "GET", "/serverless")), "endpoints")


def plain(name: str) -> str:
    """Remove the suffix that RunPod's page has shown in the names of endpoints with FlashBoot."""
    return name.removesuffix(" -fb")


def _call(api: Api, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
    try:
        return api.call(method, path, body)
    except requests.RequestException as error:
        if never_sent(error):
            raise EndpointError(f"RunPod cannot be reached: {type(error).__name__}.") from error
        raise AnswerLost(f"RunPod's answer was lost: {type(error).__name__}.") from error


def _successful(answer: Answer) -> Answer:
    if answer.status >= 300:
        raise EndpointError(_problem(answer))
    return answer


def _endpoint(answer: Answer) -> Endpoint:
    if not isinstance(answer.body.get("id"), str) or not isinstance(answer.body.get("env") or {}, dict):
        raise AnswerLost(f"RunPod returned an invalid response (status {answer.status}).")
    return answer.body


def _objects(answer: Answer, name: str) -> list[Mapping[str, Any]]:
    rows = answer.body.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        raise EndpointError(f"RunPod returned an invalid response: it has no {name}.")
    return rows


def _problem(answer: Answer) -> str:
    """An RFC 9457 problem in one line, with advice for known errors."""
    body = answer.body
    parts = [str(body[key]) for key in ("title", "detail") if body.get(key)]
    if isinstance(body.get("errors"), list):
        parts += [str(error) for error in body["errors"]]
    advice = {401: "Is RUNPOD_API_KEY right?", 403: "The key RUNPOD_API_KEY lacks the permission for endpoints."}
    if answer.status == 429:
        advice[429] = f"Try again in {answer.retry_after_s or 60:g} s."
    text = f"RunPod answered with status {answer.status}: {'; '.join(parts) or 'without a reason'}."
    return f"{text} {advice.get(answer.status, '')}".strip()
