"""What the stand-in's machines do as its time goes by: boot, work, cost money, end."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from common.clock import to_rfc3339
from tests.emulators.conftest import KEY, TOKEN, WORKER_ENV, MakeVast, Renter
from tests.emulators.vast import Emulator
from tests.servers import FileServer, Reply, Request, eventually

PLAIN = {**WORKER_ENV, "WORKER_TLS": "false"}


def running(vast: Emulator, renter: Renter, **changes: Any) -> int:
    """The id of a new instance that runs."""
    instance = renter.rented(**changes)
    vast.advance(vast.config.boot_s)
    return instance


def told(renter: Renter, instance: int) -> Any:
    shown = renter.show(instance)
    assert shown
    return shown["actual_status"], shown["ports"] is not None, shown["public_ipaddr"]


def test_an_instance_boots_by_the_clock(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented()

    seen = [told(renter, instance)]
    for seconds in (1, 1, 87.9, 0.1):
        vast.advance(seconds)
        seen.append(told(renter, instance))

    assert seen == [
        (None, False, ""),
        ("created", False, ""),
        ("loading", False, " 127.0.0.1 "),
        ("loading", False, " 127.0.0.1 "),
        ("running", True, " 127.0.0.1 "),
    ]
    shown = renter.show(instance)
    assert shown
    v6, v4 = shown["ports"]["3334/tcp"]
    assert (v6["HostIp"], v4["HostIp"], v6["HostPort"]) == ("::", "0.0.0.0", v4["HostPort"])
    assert isinstance(v4["HostPort"], str)
    assert vast.unfit == []


def test_the_clock_can_run_faster_than_life(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented()
    vast.clock.speed = 1000

    eventually(lambda: told(renter, instance)[0] == "running")
    assert vast.bill()["paid_s"] >= 90


def test_a_pretended_worker_proves_who_it_is(vast: Emulator, renter: Renter) -> None:
    instance = running(vast, renter)
    port = vast.instances[0].port
    assert port
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port.port), timeout=30) as plain, context.wrap_socket(plain) as tls:
        fingerprint = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()

    nonce = "0123456789abcdef"
    answer = renter.worker(instance, f"/identity?nonce={nonce}").json()

    proof = hmac.new(TOKEN.encode(), f"reelay-worker-identity\n{nonce}\n{fingerprint}".encode(), "sha256").hexdigest()
    assert answer == {"fingerprint": fingerprint, "proof": proof}
    assert renter.worker(instance, "/identity?nonce=../etc").status_code == 400
    vast.strike(instance, "restarted")
    assert renter.worker(instance, f"/identity?nonce={nonce}").json()["fingerprint"] != fingerprint


def test_a_pretended_worker_lets_in_who_has_all_three(vast: Emulator, renter: Renter) -> None:
    instance = running(vast, renter, env={**PLAIN, "ALLOWED_IPS": "127.0.0.1", "WORKER_CONCURRENCY": "2"})
    port = vast.instances[0].port
    assert port
    url = f"http://127.0.0.1:{port.port}/health"

    health = renter.worker(instance).json()

    assert (health["status"], health["slots"]) == ("ok", {"total": 2, "busy": 0})
    assert requests.get(url, headers={"X-Session-Token": TOKEN, "X-API-Key": "x"}, timeout=30).status_code == 401
    elsewhere = running(vast, renter, env={**PLAIN, "ALLOWED_IPS": "192.0.2.1"})
    assert renter.worker(elsewhere).status_code == 403


def job_input(files: FileServer, attempt_id: str) -> dict[str, Any]:
    delivery = {
        "version": 1,
        "job_id": "job_1",
        "attempt_id": attempt_id,
        "deadline": to_rfc3339(int(time.time() * 1000) + 600_000),
        "upload": {"url": files.url("/output.mp4"), "max_bytes": 1000, "headers": {"X-Part": "1"}},
        "events": {"url": files.url("/events"), "token": "token-of-the-attempt"},
    }
    return {"operation": "img2vid", "url_image": "http://example.com/photo.jpg", "delivery": delivery}


def told_events(files: FileServer) -> list[str]:
    return [json.loads(one.body)["type"] for one in files.requests if one.path == "/events"]


def test_a_pretended_worker_does_a_job_in_the_clocks_time(vast: Emulator, renter: Renter, files: FileServer) -> None:
    files.routes |= {"/events": Reply(200, b"{}"), "/output.mp4": Reply(201)}
    vast.configure(job_s=30)
    instance = running(vast, renter)

    answer = renter.worker(instance, "/video/img2vid", "POST", json=job_input(files, "att_1"))

    assert (answer.status_code, answer.json()["attemptId"]) == (202, "att_1")
    eventually(lambda: told_events(files) == ["started"])
    assert renter.worker(instance, "/video/img2vid", "POST", json=job_input(files, "att_2")).status_code == 503
    assert renter.worker(instance, "/jobs/att_1").json()["status"] == "running"
    vast.advance(30)
    eventually(lambda: "completed" in told_events(files))
    eventually(lambda: renter.worker(instance, "/jobs/att_1").json()["status"] == "completed")
    (stored,) = (one for one in files.requests if one.method == "PUT")
    assert stored.body[4:8] == b"ftyp" and stored.headers["X-Part"] == "1"
    assert vast.instances[0].jobs == ["att_1"]


def test_a_pretended_worker_whose_attempt_is_another_ones_stops(
    vast: Emulator, renter: Renter, files: FileServer
) -> None:
    def answer(request: Request) -> Reply:
        return Reply(409)

    files.routes["/events"] = answer
    instance = running(vast, renter)

    renter.worker(instance, "/video/img2vid", "POST", json=job_input(files, "att_1"))

    eventually(lambda: renter.worker(instance, "/jobs/att_1").json()["status"] == "cancelled")
    assert [one.method for one in files.requests] == ["POST"]


def test_a_destroyed_worker_tells_nobody(vast: Emulator, renter: Renter, files: FileServer) -> None:
    files.routes |= {"/events": Reply(200, b"{}"), "/output.mp4": Reply(201)}
    vast.configure(job_s=30)
    instance = running(vast, renter)
    renter.worker(instance, "/video/img2vid", "POST", json=job_input(files, "att_1"))
    eventually(lambda: told_events(files))

    renter.destroy(instance)
    vast.advance(60)

    time.sleep(0.3)
    assert told_events(files) == ["started"]
    assert not [one for one in files.requests if one.method == "PUT"]


def test_silence_makes_an_instance_destroy_itself(vast: Emulator, renter: Renter) -> None:
    instance = running(vast, renter)

    vast.advance(400)
    assert renter.worker(instance).ok
    vast.advance(419)
    assert len(vast.alive()) == 1
    vast.advance(2)

    assert vast.alive() == []
    assert (vast.calls["self-destroy"], vast.calls["destroy"]) == (1, 0)
    assert renter.show(instance) is None


def test_strangers_do_not_keep_an_instance_alive(vast: Emulator, renter: Renter) -> None:
    running(vast, renter, env={**PLAIN, "SESSION_TOKEN": "another" * 8})

    for _ in range(3):
        vast.advance(139)
        assert renter.worker(vast.instances[0].id).status_code == 401
    vast.advance(5)

    assert vast.alive() == []


def test_self_destruction_is_tried_until_the_instance_is_gone(vast: Emulator, renter: Renter) -> None:
    vast.inject("ignored", "self-destroy", times=2)
    vast.inject("status", "self-destroy", status=503, times=2)
    vast.inject("lost_request", "self-destroy")
    running(vast, renter)

    vast.advance(421)
    assert len(vast.alive()) == 1
    vast.advance(30)

    assert (vast.calls["self-destroy"], vast.alive()) == (6, [])


def test_a_restart_does_not_extend_the_deadline(vast: Emulator, renter: Renter) -> None:
    instance = running(vast, renter, env={**PLAIN, "WORKER_LIFETIME_SECONDS": "600"})

    for _ in range(5):
        vast.advance(100)
        vast.strike(instance, "restarted")
        assert renter.worker(instance).ok
    vast.advance(101)

    assert vast.alive() == []
    assert vast.bill()["paid_s"] == pytest.approx(90 + 600, abs=2)


def test_what_never_boots_does_not_destroy_itself(vast: Emulator, renter: Renter) -> None:
    vast.inject("never_runs", "boot")
    renter.rented()

    vast.advance(3600)

    assert len(vast.alive()) == 1


def test_machine_seconds_are_paid_from_creation_to_destruction(vast: Emulator, renter: Renter) -> None:
    first = renter.rented()
    vast.advance(30)
    second = renter.rented()
    vast.advance(20)
    renter.destroy(first)
    vast.advance(100)
    renter.destroy(second)
    vast.advance(1000)

    bill = vast.bill()

    assert (bill["created"], bill["alive"]) == (2, 0)
    assert [one["paid_s"] for one in bill["instances"]] == pytest.approx([50, 120], abs=0.01)
    prices = [one.offer["dph_total"] for one in vast.instances]
    assert bill["dollars"] == pytest.approx((50 * prices[0] + 120 * prices[1]) / 3600)


def test_a_stopped_instance_goes_on_costing(vast: Emulator, renter: Renter) -> None:
    instance = running(vast, renter)
    assert renter.ask("PUT", f"v0/instances/{instance}/", {"state": "stopped"}).json() == {"success": True}
    at_stop = vast.bill()["dollars"]

    vast.advance(3600)

    assert told(renter, instance)[:2] == ("stopped", False)
    assert 0 < vast.bill()["dollars"] - at_stop < 0.01
    assert vast.bill()["alive"] == 1


def test_without_credit_nothing_is_rented_and_everything_stops(vast: Emulator, renter: Renter) -> None:
    instance = running(vast, renter)
    vast.configure(credit=vast.bill()["dollars"] + 0.0001)
    vast.advance(60)

    assert told(renter, instance)[0] == "stopped"
    answer = renter.create()
    assert (answer.status_code, answer.json()["error"]) == (400, "insufficient_credit")


def test_strangers_are_there_and_every_touch_is_seen(vast: Emulator, renter: Renter) -> None:
    stranger = vast.stranger("reelay:tests:1:1")
    vast.advance(100)
    assert renter.listed() == [stranger]
    assert vast.alive() == [] and vast.touched_strangers() == []

    renter.destroy(stranger)

    assert [one.id for one in vast.touched_strangers()] == [stranger]
    assert vast.bill()["created"] == 0


def test_two_rentals_are_told_apart_by_their_label(vast: Emulator, renter: Renter) -> None:
    mine, _ = renter.rented(label="reelay:a:1:1"), renter.rented(label="reelay:ab:1:1")

    assert [one.id for one in vast.alive("reelay:a:")] == [mine]
    assert len(vast.alive()) == 2


def listens(renter: Renter, instance: int) -> bool:
    try:
        return renter.worker(instance).ok
    except requests.ConnectionError:  # the port is mapped before anybody listens
        return False


def of_container(instance: int) -> list[int]:
    """Processes that live in it, by what their environment says."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"CONTAINER_ID={instance}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_real_worker_starts_and_dies_with_its_instance(
    make_vast: MakeVast, rent: Callable[[Emulator], Renter]
) -> None:
    vast = make_vast(pretend=False, boot_s=1)
    renter = rent(vast)
    instance = running(vast, renter)
    eventually(lambda: listens(renter, instance))
    assert len(of_container(instance)) >= 2  # the supervisor, the worker

    renter.destroy(instance)

    eventually(lambda: not of_container(instance))
    assert vast.bill()["alive"] == 0


@pytest.mark.slow
def test_a_real_worker_destroys_itself_in_the_clocks_time(
    make_vast: MakeVast, rent: Callable[[Emulator], Renter]
) -> None:
    vast = make_vast(pretend=False, boot_s=1, speed=100)
    renter = rent(vast)
    instance = running(vast, renter)

    eventually(lambda: not vast.alive())

    eventually(lambda: not of_container(instance))
    assert vast.calls["self-destroy"] == 1
    assert vast.bill()["paid_s"] < 2000  # 420 and the start of its processes, a hundred times as fast as life


def test_a_real_worker_that_ends_leaves_an_exited_instance(
    make_vast: MakeVast, rent: Callable[[Emulator], Renter]
) -> None:
    vast = make_vast(pretend=False, command=("sh", "-c", "exit 3"), boot_s=1)
    renter = rent(vast)
    instance = running(vast, renter)

    eventually(lambda: told(renter, instance)[:2] == ("exited", False))
    assert vast.bill()["alive"] == 1


def test_a_real_worker_is_given_what_was_asked_and_what_the_platform_sets(
    make_vast: MakeVast, rent: Callable[[Emulator], Renter]
) -> None:
    vast = make_vast(
        pretend=False, command=("sh", "-c", "env > environment; exec sleep 60"), boot_s=1, speed=2, env={"MORE": "1"}
    )
    renter = rent(vast)
    instance = running(vast, renter)
    path = vast.home / str(instance) / "environment"
    eventually(lambda: path.exists() and "WORKER_PORT" in path.read_text())
    given = dict(line.partition("=")[::2] for line in path.read_text().splitlines())

    container: Any = vast.instances[0].container
    assert given["SESSION_TOKEN"] == TOKEN and given["WORKER_API_KEY"] == KEY and given["MORE"] == "1"
    assert given["CONTAINER_ID"] == str(instance)
    assert given["CONTAINER_API_KEY"] == vast.instances[0].key
    assert given["SELF_DESTROY_BASE"] == vast.url
    assert given["WORKER_PORT"] == str(container.port)
    assert given["WORKER_SILENCE_SECONDS"] == "210"  # it lives twice as fast
    assert vast.config.api_key not in path.read_text()
