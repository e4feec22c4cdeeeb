"""Files on the gateway's disk: signatures, paths, and that only whole files are seen."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.domain import ids
from gateway.errors import BadRequest
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.storage import StorageFullError, StorageUnavailable
from gateway.storage.local import HALF_WRITTEN_MS, LocalStorage
from tests.gateway.conftest import PROCESSES, SECRET_KEY, START_MS, FixedClock, Gateway, Wire

KEY = f"outputs/{ids.new('job', START_MS)}/{ids.new('att', START_MS)}/video.mp4"
OTHER = f"outputs/{ids.new('job', START_MS)}/{ids.new('att', START_MS)}/video.mp4"
UPLOAD = f"uploads/{ids.new('key', START_MS)}/{ids.ulid(START_MS)}"
SOON = START_MS + 1_000


@pytest.fixture
def storage(services: Gateway) -> LocalStorage:
    return services.storage


def signature(url: str) -> str:
    return parse_qs(urlsplit(url).query)["signature"][0]


def files_in(storage: LocalStorage) -> list[Path]:
    return [path for path in storage._root.rglob("*") if path.is_file()]


def test_a_signature_grants_its_own_call(storage: LocalStorage) -> None:
    put = storage.presign_put(KEY, max_bytes=7, expires_at=SOON)
    get = storage.presign_get(KEY, expires_at=SOON)
    assert storage.allowed("PUT", KEY, signature(put.url)) == 7
    assert storage.allowed("GET", KEY, signature(get)) == 0


@pytest.mark.parametrize(
    ("method", "key"), [("GET", KEY), ("DELETE", KEY), ("put", KEY), ("PUT", OTHER), ("PUT", "")], ids=range(5)
)
def test_a_put_signature_grants_nothing_else(storage: LocalStorage, method: str, key: str) -> None:
    put = storage.presign_put(KEY, max_bytes=7, expires_at=SOON)
    assert storage.allowed(method, key, signature(put.url)) is None


def test_a_signature_expires(services: Gateway, storage: LocalStorage) -> None:
    granted = signature(storage.presign_get(KEY, expires_at=SOON))
    services.clock.advance(999)
    assert storage.allowed("GET", KEY, granted) == 0
    services.clock.advance(1)
    assert storage.allowed("GET", KEY, granted) is None


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "\0", "W10.x", "A" * 100_000])
def test_rubbish_is_no_signature(storage: LocalStorage, token: str) -> None:
    assert storage.allowed("GET", KEY, token) is None


def test_workers_and_clients_get_their_own_address(wire: Wire) -> None:
    storage = wire(public_url="https://video.example.com/", worker_url="http://10.0.0.1:8000").storage
    assert storage.presign_get(KEY, expires_at=SOON).startswith(f"https://video.example.com/files/{KEY}?")
    for url in (
        storage.presign_get(KEY, expires_at=SOON, for_worker=True),
        storage.presign_put(KEY, max_bytes=1, expires_at=SOON).url,
    ):
        assert url.startswith(f"http://10.0.0.1:8000/files/{KEY}?")


ODD_KEYS = [
    "",
    "/etc/passwd",
    "../reelay.db",
    "outputs/../../reelay.db",
    KEY + "/..",
    KEY + "\n",
    KEY + "\0",
    KEY.replace("outputs/", "outputs//"),
    KEY.replace("outputs/", "outputs/%2e%2e/"),
    KEY.replace("outputs", "OUTPUTS"),
    KEY.replace(".mp4", ".html"),
    KEY.replace("/video", "/Video"),
    KEY.replace("/video", ""),
    KEY.replace(".mp4", ".mp4.mp4"),
    KEY.replace("att_", "att_/../"),
    KEY.lower(),
    "/" + KEY,
    "./" + KEY,
    UPLOAD + ".mp4",
    UPLOAD.replace("key_", "job_"),
    "uploads/../outputs",
]


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
def test_odd_keys_lead_nowhere(storage: LocalStorage, key: str) -> None:
    for call in (storage.path, storage.size, storage.delete, lambda k: storage.write(k, [b"x"], 1)):
        with pytest.raises(ValueError, match="not a storage key"):
            call(key)  # type: ignore[operator]
    assert files_in(storage) == []


def broken_after(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    raise BadRequest("the client disconnected")


def test_a_broken_transfer_changes_nothing(storage: LocalStorage) -> None:
    for before in ([], [b"whole"]):
        for body in before:
            storage.write(KEY, [body], len(body))
        with pytest.raises(BadRequest):
            storage.write(KEY, broken_after(b"half"), 9)
        assert [path.read_bytes() for path in files_in(storage)] == before
        assert storage.path(KEY).parent.exists() == bool(before)


def test_a_file_is_not_seen_before_it_is_whole(storage: LocalStorage) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        assert storage.size(KEY) is None
        yield b"whole"

    storage.write(KEY, chunks(), 9)
    assert storage.size(KEY) is not None


def test_a_file_is_on_the_disk_before_it_has_its_name(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (order.append(name), real(*a))[1])
    storage.path(KEY).parent.mkdir(parents=True)
    storage.write(KEY, [b"x"], 1)
    assert order == ["fsync", "replace", "fsync"]


def test_every_new_folder_is_entered_on_the_disk(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd)))
    storage.write(KEY, [b"x"], 1)
    attempt = storage.path(KEY).parent
    folders = [attempt.parents[i] for i in (3, 2, 1, 0)]  # the data folder, files/, outputs/, the job's
    assert [Path(path) for path in synced if Path(path).is_dir()] == [*folders, attempt]


# Finding and removing


def test_the_keys_of_whole_files_are_found_and_nothing_else(storage: LocalStorage) -> None:
    assert list(storage.keys()) == []
    for key in (KEY, OTHER, UPLOAD):
        storage.write(key, [b"x"], 1)
    storage.path(KEY).with_name(".part-abc").touch()
    storage.path(KEY).with_name("notes.html").touch()
    (storage._root / "outputs" / "stray").touch()
    assert sorted(storage.keys()) == sorted([KEY, OTHER, UPLOAD])


def test_files_may_go_while_keys_are_listed(storage: LocalStorage) -> None:
    for key in (KEY, OTHER):
        storage.write(key, [b"x"], 1)
    keys = storage.keys()
    assert next(keys) in {KEY, OTHER}
    for key in (KEY, OTHER):
        storage.delete(key)
    assert list(keys) == []


def test_deleting_leaves_no_empty_folder(storage: LocalStorage) -> None:
    second = KEY.replace("video.mp4", "poster.jpg")
    for key in (KEY, second):
        storage.write(key, [b"x"], 1)
    storage.delete(KEY)
    assert list(storage.keys()) == [second]
    storage.delete(second)
    assert not storage.path(KEY).parent.parent.exists()


def killed_while_writing(settings: Settings) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        os._exit(9)

    LocalStorage(settings, Signer((SECRET_KEY,)), FixedClock()).write(KEY, chunks(), 1 << 30)


@pytest.mark.slow
def test_what_a_killed_gateway_left_is_removed_and_what_is_being_written_is_not(
    services: Gateway, storage: LocalStorage, settings: Settings
) -> None:
    process = PROCESSES.Process(target=killed_while_writing, args=(settings,))
    process.start()
    process.join(30)
    assert process.exitcode == 9
    (left,) = files_in(storage)
    assert left.name.startswith(".part-")
    written_at = left.stat().st_mtime_ns // 1_000_000
    services.clock.advance(written_at + HALF_WRITTEN_MS - 1000 - services.clock.now_ms())
    storage.tidy()
    assert files_in(storage) == [left]
    services.clock.advance(3000)
    storage.tidy()
    assert files_in(storage) == []
    assert not left.parent.exists()


def writing(settings: Settings, begun: Event, go_on: Event) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 100_000
        begun.set()
        go_on.wait(30)

    LocalStorage(settings, Signer((SECRET_KEY,)), FixedClock()).write(KEY, chunks(), 100_000)


def test_what_another_process_writes_slowly_is_kept(
    services: Gateway, storage: LocalStorage, settings: Settings
) -> None:
    begun, go_on = PROCESSES.Event(), PROCESSES.Event()
    process = PROCESSES.Process(target=writing, args=(settings, begun, go_on))
    process.start()
    begun.wait(30)
    (part,) = files_in(storage)
    services.clock.advance(part.stat().st_mtime_ns // 1_000_000 + 10 * HALF_WRITTEN_MS - services.clock.now_ms())
    storage.tidy()
    go_on.set()
    process.join(30)
    assert process.exitcode == 0
    assert [(path.suffix, path.stat().st_size) for path in files_in(storage)] == [(".mp4", 100_000)]


def test_a_folder_without_files_is_removed(storage: LocalStorage) -> None:
    storage.write(UPLOAD, [b"x"], 1)
    storage.path(KEY).parent.mkdir(parents=True)
    storage.tidy()
    assert not storage.path(KEY).parent.exists()
    assert list(storage.keys()) == [UPLOAD]


def tidy_until(settings: Settings, stop: Event) -> None:
    storage = LocalStorage(settings, Signer((SECRET_KEY,)), FixedClock())
    while not stop.is_set():
        storage.tidy()


def test_folders_that_another_process_removes_disturb_no_transfer(storage: LocalStorage, settings: Settings) -> None:
    stop = PROCESSES.Event()
    process = PROCESSES.Process(target=tidy_until, args=(settings, stop))
    process.start()
    try:
        for number in range(200):
            storage.write(KEY, [b"x" * number], number)
            assert storage.size(KEY) == number
            storage.delete(KEY)
    finally:
        stop.set()
        process.join(30)
    assert process.exitcode == 0


def full(code: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize(("where", "name"), [(os, "fsync"), (os, "replace"), (tempfile, "mkstemp"), (Path, "mkdir")])
def test_a_full_disk_is_reported_and_leaves_nothing(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int, where: object, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(where, name, full(code))
        with pytest.raises(StorageFullError):
            storage.write(KEY, [b"x"], 1)
    assert files_in(storage) == []


def test_another_error_of_the_disk_is_not_a_full_one(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full(errno.EIO))
        with pytest.raises(StorageUnavailable, match="Input/output"):
            storage.write(KEY, [b"x"], 1)
    assert files_in(storage) == []
