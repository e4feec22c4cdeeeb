"""What every storage must do, on the gateway's disk and in S3: over HTTP, as workers and clients use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest
import requests
from werkzeug.serving import make_server

from common.clock import SystemClock
from ffmpeg_ops.operation import StopSignal
from gateway import create_app
from gateway.dispatch.output_check import check_outputs
from gateway.domain import ids
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.errors import BadRequest
from gateway.settings import Settings
from gateway.storage import Storage, StorageUnavailable
from gateway.storage.s3 import S3Storage
from gateway.wiring import Services
from handler.upload import upload
from tests.gateway.conftest import RESULT, SECRET_KEY, FixedClock, Gateway
from tests.gateway.storage.test_local import broken_after
from tests.outputs import video_key
from tests.s3 import BUCKET, KEY, s3_server
from wire.envelope import Upload
from wire.errors import JobError, OutputMissing, OutputTooLarge
from wire.media_types import MP4

NOW = SystemClock().now_ms()
HOUR = 3_600_000  # the tests run long after this module was imported


class Place(NamedTuple):
    """A storage with files that can be reached, a key that may be written, and one more."""

    storage: Storage
    output: str
    upload: str


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    with s3_server() as origin:
        yield origin


def s3_settings(settings: Settings, origin: str, **changes: object) -> Settings:
    prefix = f"{ids.ulid(NOW)}/"
    s3 = {"s3_bucket": BUCKET, "s3_endpoint_url": origin, "s3_access_key_id": KEY, "s3_secret_access_key": KEY}
    return replace(settings, storage="s3", s3_prefix=prefix, **{**s3, **changes})


@pytest.fixture(params=["local", "s3"])
def services(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Gateway]:
    """Of a gateway that really listens, on the machine's own clock: S3 has no other."""
    if request.param == "s3":
        settings = s3_settings(settings, request.getfixturevalue("s3"))
    app = create_app(settings)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    settings = replace(settings, public_url=f"http://127.0.0.1:{server.port}")
    app.extensions["reelay"] = Gateway.wire(settings, provider={})
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield app.extensions["reelay"]
    server.shutdown()
    thread.join()
    server.server_close()
    app.extensions["reelay"].store._engine.dispose()


@pytest.fixture
def place(services: Gateway) -> Place:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    return Place(services.storage, video_key(services.attempt(job)), f"uploads/{ids.new('key', NOW)}/{ids.ulid(NOW)}")


def put(target: Upload, body: bytes) -> int:
    headers = {"Content-Type": "video/mp4", **target.headers}
    return requests.put(target.url, data=body, headers=headers, timeout=10).status_code


def changed(url: str) -> Iterator[str]:
    """The URL with each part of its query changed in turn, and with another key in its path."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query)
    for i, (name, value) in enumerate(pairs):
        other = value[:-1] + ("0" if value[-1] != "0" else "1") if not value.isdecimal() else str(int(value) + 1)
        middle = len(value) // 2
        if "ignature" in name:
            other = value[:middle] + ("A" if value[middle] not in "Aa" else "B") + value[middle + 1 :]
        yield urlunsplit(parts._replace(query=urlencode([*pairs[:i], (name, other), *pairs[i + 1 :]])))
    last = "A" if parts.path.removesuffix(".mp4")[-1] != "A" else "B"
    stem = parts.path.removesuffix(".mp4")
    yield urlunsplit(parts._replace(path=stem[:-1] + last + parts.path[len(stem) :]))


def test_a_worker_puts_and_a_client_gets(place: Place, tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(bytes(range(256)) * 1000)
    target = place.storage.presign_put(place.output, max_bytes=300_000, expires_at=NOW + HOUR)
    upload(video, target, MP4.mime, StopSignal())  # what workers run, and nothing else
    upload(video, target, MP4.mime, StopSignal())  # its answer was lost
    assert place.storage.size(place.output) == 256_000
    url = place.storage.presign_get(place.output, expires_at=NOW + HOUR)
    answer = requests.get(url, timeout=10)
    assert (answer.status_code, answer.content) == (200, video.read_bytes())
    assert answer.headers["Content-Type"] == "video/mp4"
    part = requests.get(url, headers={"Range": "bytes=10-19"}, timeout=10)
    assert (part.status_code, part.content) == (206, video.read_bytes()[10:20])


def test_no_changed_url_gets_or_puts(place: Place) -> None:
    storage = place.storage
    storage.write(place.output, [b"secret"], 6)
    get = storage.presign_get(place.output, expires_at=NOW + HOUR)
    target = storage.presign_put(place.output, max_bytes=6, expires_at=NOW + HOUR)
    for url in changed(get):
        answer = requests.get(url, timeout=10)
        assert answer.status_code in {400, 403} and b"secret" not in answer.content, url
    for url in changed(target.url):
        assert put(replace(target, url=url), b"changed") in {400, 403}, url
    assert put(replace(target, url=get), b"changed") == 403, "a URL to read does not let write"
    assert requests.get(target.url, timeout=10).status_code == 403, "a URL to write does not let read"
    assert requests.delete(target.url, timeout=10).status_code in {401, 403}
    assert storage.size(place.output) == 6


def test_urls_expire(place: Place) -> None:
    storage, soon = place.storage, SystemClock().now_ms() + 1_000
    storage.write(place.output, [b"x"], 1)
    get = storage.presign_get(place.output, expires_at=soon)
    target = storage.presign_put(place.output, max_bytes=1, expires_at=soon)
    time.sleep(2.1)  # S3 counts whole seconds, by its own clock
    assert requests.get(get, timeout=10).status_code == 403
    assert put(target, b"y") == 403


def test_urls_signed_with_another_secret_are_foreign(place: Place, services: Gateway) -> None:
    place.storage.write(place.output, [b"x"], 1)
    settings = replace(services.settings, secret_key=("f" * 32,), s3_secret_access_key="another secret")
    foreign = Services.wire(settings, provider={})
    get = foreign.storage.presign_get(place.output, expires_at=NOW + HOUR)
    target = foreign.storage.presign_put(place.output, max_bytes=1, expires_at=NOW + HOUR)
    foreign.store._engine.dispose()
    assert requests.get(get, timeout=10).status_code == 403
    assert put(target, b"y") == 403


def test_a_url_gives_nothing_of_its_secrets_away(place: Place) -> None:
    urls = [
        place.storage.presign_get(place.output, expires_at=NOW + HOUR),
        place.storage.presign_put(place.output, max_bytes=1, expires_at=NOW + HOUR).url,
    ]
    assert not any(SECRET_KEY in url for url in urls)


def test_a_transfer_that_breaks_off_never_counts(place: Place, services: Gateway) -> None:
    target = place.storage.presign_put(place.output, max_bytes=100, expires_at=NOW + HOUR)
    url = urlsplit(target.url)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=10)
    connection.putrequest("PUT", f"{url.path}?{url.query}")
    for name, value in {**target.headers, "Content-Length": "100"}.items():
        connection.putheader(name, value)
    connection.endheaders(b"half of it")
    connection.close()
    time.sleep(0.2)
    # s3rver, unlike S3, keeps what came: even then it is measured
    assert isinstance(checked(place, services, {"video": 100}, 100), OutputMissing)


def checked(place: Place, services: Gateway, sizes: dict[str, int], max_bytes: int) -> JobError | None:
    """What is wrong with the outputs of the attempt, reported to have `sizes`."""
    attempt = services.store.attempt(Path(place.output).parent.name)
    job = services.store.job(attempt.job_id)
    result = {"outputs": {name: {"size_bytes": size} for name, size in sizes.items()}, "stats": {}}
    return check_outputs(place.storage, job, attempt, result, max_bytes)


def test_an_upload_whose_client_disconnects_is_a_bad_request(place: Place) -> None:
    with pytest.raises(BadRequest):
        place.storage.write(place.upload, broken_after(b"half"), 8)


def test_files_are_stored_replaced_and_deleted(place: Place) -> None:
    storage = place.storage
    for key in (place.output, place.upload):
        assert storage.size(key) is None
        storage.write(key, [b"abc", b"de"], 5)
        storage.write(key, [b"x"], 1)
        assert requests.get(storage.presign_get(key, expires_at=NOW + HOUR), timeout=10).content == b"x"
        storage.delete(key)
        storage.delete(key)
        assert storage.size(key) is None
        assert requests.get(storage.presign_get(key, expires_at=NOW + HOUR), timeout=10).status_code == 404


@pytest.mark.parametrize("key", ["", "../x", "/etc/passwd", "outputs/x", "uploads/../outputs"])
def test_odd_keys_lead_nowhere(place: Place, key: str) -> None:
    calls: list[Callable[[str], object]] = [
        place.storage.size,
        place.storage.delete,
        lambda key: place.storage.write(key, [b"x"], 1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not a storage key"):
            call(key)


def test_the_storage_has_space_and_can_be_reached(place: Place) -> None:
    place.storage.check()
    assert 0 < place.storage.free_percent() <= 100


def test_an_upload_of_a_client_can_be_read_by_a_worker(services: Gateway) -> None:
    _, secret = services.keys.create("tests")
    base, headers = services.settings.client_base, {"X-API-Key": secret}
    answer = requests.post(f"{base}/files", data=b"GIF89a photo", headers=headers, timeout=10)
    assert answer.status_code == 201, answer.text
    assert requests.get(answer.json()["url"], timeout=10).content == b"GIF89a photo"


# S3 alone


@pytest.fixture
def bucket(settings: Settings, s3: str) -> Callable[..., Storage]:
    """A storage in the bucket, below a prefix of its own; `changes` are of the settings."""
    return lambda **changes: S3Storage(s3_settings(settings, s3, **changes), SystemClock())


def an_output() -> str:
    return f"outputs/{ids.new('job', NOW)}/{ids.new('att', NOW)}/video.mp4"


def test_s3_sends_browsers_the_type_and_the_name_of_a_file(bucket: Callable[..., Storage], tmp_path: Path) -> None:
    storage, key = bucket(), an_output()
    (tmp_path / "video.mp4").write_bytes(b"x")
    target = storage.presign_put(key, max_bytes=1, expires_at=NOW + HOUR, file_name='Não "já".mp4')
    upload(tmp_path / "video.mp4", target, MP4.mime, StopSignal())
    headers = requests.get(storage.presign_get(key, expires_at=NOW + HOUR), timeout=10).headers
    encoded = "N%C3%A3o%20%22j%C3%A1%22.mp4"
    assert headers["Content-Disposition"] == rf"""inline; filename="Nao \"ja\".mp4"; filename*=UTF-8''{encoded}"""
    assert headers["Content-Type"] == "video/mp4"


def test_s3_binds_the_name_of_an_upload(bucket: Callable[..., Storage]) -> None:
    target = bucket().presign_put(an_output(), max_bytes=1, expires_at=NOW + HOUR, file_name="film.mp4")
    other = {**target.headers, "Content-Disposition": "attachment; filename=setup.exe"}
    for headers in (other, {"Content-Type": "video/mp4"}):
        assert requests.put(target.url, data=b"x", headers=headers, timeout=10).status_code == 403


def test_a_public_bucket_gives_clients_unsigned_urls_and_workers_signed_ones(
    bucket: Callable[..., Storage], s3: str
) -> None:
    storage, key = bucket(s3_public_url="https://videos.example.com/"), an_output()
    storage.write(key, [b"x"], 1)
    url = storage.presign_get(key, expires_at=NOW + HOUR)
    assert url.startswith("https://videos.example.com/") and url.endswith(f"/{key}"), "with S3_PREFIX, and no query"
    signed = storage.presign_get(key, expires_at=NOW + HOUR, for_worker=True)
    assert signed.startswith(s3) and requests.get(signed, timeout=10).content == b"x"
    assert storage.presign_put(key, max_bytes=1, expires_at=NOW + HOUR).url.startswith(s3)


def test_s3_binds_the_content_type_of_an_upload(bucket: Callable[..., Storage]) -> None:
    target = bucket().presign_put(an_output(), max_bytes=1, expires_at=NOW + HOUR)
    assert target.headers == {"Content-Type": "video/mp4"}
    assert requests.put(target.url, data=b"x", headers={"Content-Type": "text/html"}, timeout=10).status_code == 403


@pytest.mark.parametrize(("lives_ms", "signed_s"), [(HOUR, 3600), (30 * 24 * HOUR, 7 * 24 * 3600), (-HOUR, 1)])
def test_an_s3_url_ends_at_its_deadline_within_the_limits_of_s3(
    settings: Settings, lives_ms: int, signed_s: int
) -> None:
    storage = S3Storage(s3_settings(settings, "http://127.0.0.1:1"), FixedClock(NOW))  # signing needs no server
    key, expires_at = an_output(), NOW + lives_ms
    urls = (
        storage.presign_put(key, max_bytes=9, expires_at=expires_at).url,
        storage.presign_get(key, expires_at=expires_at),
    )
    assert {dict(parse_qsl(urlsplit(url).query))["X-Amz-Expires"] for url in urls} == {str(signed_s)}


def test_s3_lists_what_is_ours_and_nothing_else_in_the_bucket(bucket: Callable[..., Storage]) -> None:
    storage, other = bucket(), bucket()
    made = {an_output(), an_output(), f"uploads/{ids.new('key', NOW)}/{ids.ulid(NOW)}"}
    for key in made:
        storage.write(key, [b"x"], 1)
    other.write(an_output(), [b"x"], 1)
    storage._s3.put_object(Bucket=BUCKET, Key=storage._prefix + "holiday.jpg", Body=b"x")
    assert set(storage.keys()) == made


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"s3_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"s3_access_key_id": "unknown"}, "InvalidAccessKeyId"),
        ({"s3_bucket": "no-such-bucket"}, "NoSuchBucket"),
        ({"s3_endpoint_url": "http://127.0.0.1:9"}, "EndpointConnectionError"),
    ],
    ids=["secret", "key", "bucket", "address"],
)
def test_s3_that_fails_is_unavailable_and_no_file_seems_missing(
    bucket: Callable[..., Storage], changes: dict[str, str], reason: str
) -> None:
    storage, key = bucket(**changes), an_output()
    with pytest.raises(StorageUnavailable, match=reason):
        storage.check()
    for call in (storage.delete, lambda key: storage.write(key, [b"x"], 1)):
        with pytest.raises(StorageUnavailable) as caught:
            call(key)
        assert "wrong" not in str(caught.value)
    if reason != "NoSuchBucket":  # HEAD says 404 for it, as for a missing file
        with pytest.raises(StorageUnavailable):
            storage.size(key)


def test_an_unreachable_s3_is_503_and_not_ready_and_no_job_fails_for_it(settings: Settings, s3: str) -> None:
    app = create_app(away := s3_settings(settings, "http://127.0.0.1:9"))
    services = app.extensions["reelay"] = Gateway.wire(away, provider={})
    attempt = services.attempt(services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING))
    client = app.test_client()
    token = services.signer.sign("events", [attempt.id, attempt.deadline])
    event = {"type": "completed", "claim_id": attempt.claim_id, "result": RESULT}
    answer = client.post(f"/events/{attempt.id}", json=event, headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    heard = services.store.attempt(attempt.id)
    assert heard == replace(attempt, heard_at=heard.heard_at), "it was heard, and is as it was"
    assert client.get("/ready").get_json()["checks"]["storage"].startswith("S3 could not be reached")
    services.store._engine.dispose()


def test_what_is_larger_than_allowed_does_not_count_though_s3_took_it(place: Place, services: Gateway) -> None:
    place.storage.write(place.output, [b"x" * 11], 11)
    assert isinstance(checked(place, services, {"video": 11}, 10), OutputTooLarge)
