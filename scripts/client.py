"""A small client of the HTTP API, as a user would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

TIMEOUT_S = 30
# The gateway may close an idle connection just as it is reused; repeating a read is harmless.
_AGAIN = Retry(total=2, connect=0, redirect=0, status=0, allowed_methods={"GET"})


class ApiError(Exception):
    """The gateway refused a request; the message comes from the gateway."""


class Client:
    """Calls the gateway at `url` with an API key."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._http = requests.Session()
        self._http.headers["X-API-Key"] = api_key
        self._http.mount("http://", HTTPAdapter(max_retries=_AGAIN))

    def upload(self, path: Path) -> str:
        """Upload a file and return the URL to use in a job."""
        with path.open("rb") as file:
            return str(self._json("POST", "/files", data=file)["url"])

    def submit(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Submit a job and return it."""
        return self._json("POST", f"/video/{operation}", json=params)

    def job(self, job_id: str) -> dict[str, Any]:
        """The current state of a job."""
        return self._json("GET", f"/jobs/{job_id}")

    def download(self, url: str, path: Path) -> None:
        """Download a finished file."""
        with self._http.get(url, stream=True, timeout=TIMEOUT_S) as response, path.open("wb") as file:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 16):
                file.write(chunk)

    def close(self) -> None:
        self._http.close()

    def _json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        response = self._http.request(method, f"{self._url}{path}", timeout=TIMEOUT_S, **kwargs)
        body: dict[str, Any] = response.json()
        if not response.ok:
            raise ApiError(f"{method} {path}: {body.get('code')}: {body.get('detail') or body.get('title')}")
        return body
