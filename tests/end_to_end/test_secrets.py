"""No secret appears in a log line, an error, the metrics or a list: known ones are put everywhere, then searched for."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.access.keys import webhook_secrets
from gateway.providers.worker_client import credentials_of
from gateway.signing import Signer
from scripts.stack import Stack
from tests.end_to_end.conftest import FINISHED, MakeStack
from tests.servers import FileServer, Reply, Request, eventually, responds

pytestmark = pytest.mark.slow

SECRET_KEY = "canary-secret-key-of-the-gateway-0123456789"
RUNPOD_KEY = "canary-runpod-key-0123456789"
S3_ID, S3_SECRET = "canaryS3id0123456789", "canary-s3-secret-0123456789"
PASSWORD, QUERY, FRAGMENT = "canary-password-0123", "canary-query-0123", "canary-fragment-0123"
WRONG_KEY = "canary-key-that-does-not-exist"
OTHERS = [SECRET_KEY, RUNPOD_KEY, S3_ID, S3_SECRET, PASSWORD, QUERY, FRAGMENT, WRONG_KEY]


def secretive(files: FileServer, path: str) -> str:
    """A URL of `files` that holds a secret wherever one may be."""
    return f"http://me:{PASSWORD}@{files.origin.removeprefix('http://')}{path}?token={QUERY}#{FRAGMENT}"


def echo(request: Request) -> Reply:
    """A server that returns all it was sent, as an error."""
    received = json.dumps([request.path, request.headers, request.body.decode(errors="replace")])
    return Reply(401, received.encode(), {"X-Received": request.headers.get("Authorization", "")})


class Gateway:
    """A client that keeps all responses."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.answers: list[str] = []

    def call(self, method: str, path: str, *, key: str | None = None, **kwargs: Any) -> requests.Response:
        url = path if path.startswith("http") else self.stack.url + path
        headers = {"X-API-Key": key or self.stack.api_key, **kwargs.pop("headers", {})}
        answer = requests.request(method, url, headers=headers, timeout=30, **kwargs)
        if not url.startswith(f"{self.stack.url}/files"):
            self.answers.append(f"{method} {path}\n{answer.headers}\n{answer.text}")
        return answer

    def submit(self, operation: str, **params: Any) -> str:
        answer = self.call("POST", f"/video/{operation}", json=params)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["jobId"])

    def ended(self, job_id: str) -> dict[str, Any]:
        def over() -> bool:
            job = self.call("GET", f"/jobs/{job_id}", params={"wait": 5}).json()
            return job["status"] in FINISHED

        eventually(over, 90)
        return dict(self.call("GET", f"/jobs/{job_id}").json())

    def send(self, raw: bytes) -> None:
        """Send invalid HTTP, which only its sender may get back."""
        with socket.create_connection(("127.0.0.1", self.stack.port), timeout=10) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(65536).startswith(b"HTTP/1.1 4")


@pytest.fixture
def gateway(make_stack: MakeStack, sample_files: FileServer) -> Iterator[Gateway]:
    """A gateway at log level DEBUG, whose first provider fails and returns all it was sent."""
    for path in ("/runpod/e1/run", "/runpod/e1/health", "/denied"):
        sample_files.routes[path] = echo
    sample_files.routes["/hook"] = echo
    sample_files.routes["/elsewhere"] = Reply(302, headers={"Location": secretive(sample_files, "/none")})
    environ = {
        "LOG_LEVEL": "DEBUG",
        "PROVIDERS": "runpod,local",
        "SECRET_KEY": SECRET_KEY,
        "RUNPOD_API_KEY": RUNPOD_KEY,
        "RUNPOD_ENDPOINT_ID": "e1",
        "RUNPOD_API_BASE": sample_files.url("/runpod"),
        "S3_ACCESS_KEY_ID": S3_ID,
        "S3_SECRET_ACCESS_KEY": S3_SECRET,
        "WEBHOOK_ALLOW_ORIGINS": sample_files.origin,
    }
    with make_stack(**environ) as stack:
        yield Gateway(stack)


def test_known_secrets_are_in_no_log_and_no_response(gateway: Gateway, sample_files: FileServer, samples: Path) -> None:
    photo = (samples / "photo.jpg").read_bytes()
    upload = gateway.call("POST", "/files", data=photo).json()["url"]
    hook = f"{sample_files.url('/hook')}?token={QUERY}"
    good = gateway.submit("img2vid", url_image=upload, duration=0.5, webhook_url=hook)
    bad = [
        gateway.submit("img2vid", url_image=url, duration=0.5)
        for url in (
            secretive(sample_files, "/photo.jpg"),
            f"{sample_files.url('/none')}?token={QUERY}#{FRAGMENT}",
            f"{sample_files.url('/denied')}?token={QUERY}",
            f"{sample_files.url('/elsewhere')}?token={QUERY}",
            f"{sample_files.url('/narration.mp3')}?token={QUERY}",
            f"http://127.0.0.1:9/x?token={QUERY}",
            f"https://me:{PASSWORD}@127.0.0.1/x?token={QUERY}",
        )
    ]
    done = gateway.ended(good)
    assert done["status"] == "completed", done
    assert {gateway.ended(job)["status"] for job in bad} == {"failed"}
    eventually(lambda: [r for r in sample_files.requests if r.path.startswith("/hook")])

    # other requests that are refused
    gateway.call("GET", "/jobs", key=WRONG_KEY)
    gateway.call("GET", "/metrics", key=WRONG_KEY, headers={"Authorization": f"Bearer {WRONG_KEY}"})
    gateway.call("GET", "/jobs/none", params={"x": PASSWORD})
    gateway.call("GET", f"{upload}{QUERY}")
    gateway.call("PUT", upload, data=PASSWORD)
    gateway.call("POST", "/video/img2vid", data=f'{{"url_image": "{PASSWORD}')
    gateway.call("POST", "/events/none", json={"type": PASSWORD}, headers={"Authorization": f"Bearer {WRONG_KEY}"})
    key = gateway.stack.api_key
    gateway.send(f"GET /jobs HTTP/1.1\r\nX-API-Key: {key}\r\nX API Key: {key}\r\n\r\n".encode())
    gateway.send(f"GET /jobs?token={QUERY} HTTP/9.9\r\nX-API-Key: {key}\r\n\r\n".encode())
    gateway.send(f"GET /files/x?signature={QUERY}\x01 HTTP/1.1\r\nX-API-Key: {key}\x01\r\n\r\n".encode())
    gateway.send(f"POST /files HTTP/1.1\r\nX-API-Key: {key}\r\nContent-Length: {PASSWORD}\r\n\r\n".encode())
    for path in ("/jobs", "/metrics", "/health", "/ready", "/openapi.json", "/docs/", f"/jobs/{good}"):
        gateway.call("GET", path)

    handed = [json.loads(r.body)["input"] for r in sample_files.requests if r.path == "/runpod/e1/run"]
    assert handed and all("delivery" in each for each in handed)
    signatures = [u.partition("signature=")[2] for u in (upload, done["video_url"])]
    tokens = [each["delivery"]["events"]["token"] for each in handed]
    puts = [each["delivery"]["uploads"]["video"]["url"].partition("signature=")[2] for each in handed]
    signer = Signer((SECRET_KEY,))
    key_id = upload.split("/uploads/")[1].split("/")[0]
    hooks = [secret.removeprefix("whsec_") for secret in webhook_secrets(signer, key_id, None, 0)]
    made = [*credentials_of(signer)[0].environ.values(), *hooks, *tokens, *puts]
    assert all(len(secret) > 10 for secret in (*signatures, *made))

    logs = "".join(path.read_text() for path in gateway.stack.log_dir.glob("*.log"))
    assert logs.count('"event": "request.handled"') > 20 and "asset.fetched" in logs
    for secret in [key, *OTHERS, *made, *signatures]:
        at = logs.find(secret)
        assert at < 0, logs[max(0, at - 600) : at + 200]
    for answer in gateway.answers:
        for secret in [key, *OTHERS, *made]:
            # except in the first line, which repeats the request
            assert secret not in answer.partition("\n")[2], answer


def test_the_keys_of_s3_are_in_no_log_and_no_response(make_stack: MakeStack, files: FileServer) -> None:
    stack = make_stack(
        LOG_LEVEL="DEBUG",
        PROVIDERS="runpod",
        RUNPOD_API_KEY=RUNPOD_KEY,
        RUNPOD_ENDPOINT_ID="e1",
        RUNPOD_API_BASE=files.url("/runpod"),
        STORAGE="s3",
        S3_BUCKET="b",
        S3_ENDPOINT_URL=files.origin,
        S3_ACCESS_KEY_ID=S3_ID,
        S3_SECRET_ACCESS_KEY=S3_SECRET,
        DATABASE_URL="",
    )
    stack.start_gateway()
    gateway = Gateway(stack)
    eventually(lambda: responds(f"{stack.url}/health"))
    ready = gateway.call("GET", "/ready")
    stored = gateway.call("POST", "/files", data=b"ID3")
    assert (ready.status_code, stored.status_code) == (503, 503)
    gateway.answers.append(stored.text)
    stack.stop()
    logs = (stack.log_dir / "gateway.log").read_text()
    assert "storage.failed" in logs
    for text in (logs, *gateway.answers):
        for secret in (S3_ID, S3_SECRET, RUNPOD_KEY, stack.api_key, "X-Amz-Signature"):
            assert secret not in text, text[max(0, text.find(secret) - 600) : text.find(secret) + 200]
