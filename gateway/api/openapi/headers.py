"""The headers of responses."""

from __future__ import annotations

from typing import Any

from gateway.errors import RangeNotSatisfiable, RateLimited, RequestError, SpendingLimit


def _header(description: str, example: Any, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": schema, "example": example}


_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
# Components of the document.
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        **_header(
            "The request's own `X-Request-Id`, or a new one: it identifies the request in the server's log.",
            "01HF7YAT00M3XH5S9QHW1K2YB4",
            type="string",
            maxLength=64,
        ),
        "required": True,
    },
    "RateLimit-Limit": _header("Requests a minute, if they are limited.", 600, **_COUNT),
    "RateLimit-Remaining": _header("Requests that are left in this minute.", 599, **_COUNT),
    "RateLimit-Reset": _header("Seconds until all of them are allowed again.", 60, **_COUNT),
    "Retry-After": _header("Seconds after which to ask again.", 2, type="integer", minimum=1),
    "Location": _header(
        "The job's path.", "/jobs/job_01HF7YAT00M3XH5S9QHW1K2YB4", type="string", format="uri-reference"
    ),
    "Preference-Applied": _header("What of `Prefer`, or of `wait` in the query, was done.", "wait=60", type="string"),
    "Content-Range": _header("Which part of the file this is; with 416, its size.", "bytes 0-999/5000", type="string"),
    "ETag": _header("Identifies the file, for `If-None-Match`.", '"1700000000.0-5000-123"', type="string"),
    "Allow": _header("The methods that the route supports.", "GET, HEAD, OPTIONS", type="string"),
}
_OF_LIMITS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_RETRY = frozenset({RateLimited.status, SpendingLimit.status, 503, 507})
_OF_JOBS = frozenset({409, 422, 502})


def refer(*names: str) -> dict[str, Any]:
    """The headers with these names, as references."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


# Of a response with a job, and of one with several.
OF_JOB = refer("Location", "Retry-After", "Preference-Applied")
OF_JOBS = refer("Retry-After", "Preference-Applied")


def of_every_response(refusals: set[type[RequestError]]) -> dict[str, Any]:
    """The headers that all responses of a view have."""
    return refer("X-Request-Id", *(_OF_LIMITS if RateLimited in refusals else ()))


def of_error(status: int, failed_jobs: bool) -> dict[str, Any]:
    """Further headers of an error with this status. `failed_jobs`: that of a job may be such an error."""
    job = refer("Location", "Preference-Applied") if failed_jobs and status in _OF_JOBS else {}
    part = refer("Content-Range") if status == RangeNotSatisfiable.status else {}
    return job | part | (refer("Retry-After") if status in _RETRY else {})
