"""Events and files with the tokens and signatures of others are refused and change nothing.

FUZZ_CASES random ones are tried, reproducible by FUZZ_SEED.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous.encoding import base64_decode

from gateway.dispatch.delivery import EVENTS_PURPOSE
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import JobStatus
from gateway.signing import Signer
from tests.gateway.api.conftest import VIDEO, assert_problem
from tests.gateway.api.stored import files, rows
from tests.gateway.conftest import CLAIM, SECRET_KEY, FixedClock, Gateway, JobFactory, Wire, new_attempt
from tests.outputs import video_key

CASES, SEED = int(os.environ.get("FUZZ_CASES", "200")), int(os.environ.get("FUZZ_SEED", "1"))
OLDER_KEY, GONE_KEY = "older-secret-key-0123456789abcdef", "rotated-out-key-0123456789abcdef"
EVENTS = [
    {"type": "started"},
    {"type": "progress", "progress": 0.9},
    {
        "type": "completed",
        "result": {"outputs": {"video": {"size_bytes": len(VIDEO)}}, "stats": {"size_bytes": len(VIDEO)}},
    },
    {"type": "failed", "error": {"code": "asset_invalid", "message": "Broken.", "retryable": False}},
]
MOST = 10_000


@dataclass(frozen=True)
class Scene:
    """`mine` is claimed and unfinished; all others are not, or belong to another job."""

    services: Gateway
    client: FlaskClient
    mine: Attempt
    others: dict[str, Attempt]

    def token(self, attempt: Attempt, signer: Signer | None = None, expires_at: int | None = None) -> str:
        signer = signer or self.services.signer
        return signer.sign(EVENTS_PURPOSE, [attempt.id, expires_at or attempt.deadline])

    def signature(
        self, attempt: Attempt, method: str = "PUT", signer: Signer | None = None, expires_at: int | None = None
    ) -> str:
        signer = signer or self.services.signer
        return signer.sign(f"file:{video_key(attempt)}", [method, expires_at or attempt.deadline, MOST])

    def report(self, attempt: Attempt, token: str, event: dict[str, object]):  # type: ignore[no-untyped-def]
        headers = {"Authorization": f"Bearer {token}"}
        return self.client.post(f"/events/{attempt.id}", json={"claim_id": CLAIM, **event}, headers=headers)

    def put(self, attempt: Attempt, signature: str):  # type: ignore[no-untyped-def]
        return self.client.put(f"/files/{video_key(attempt)}", query_string={"signature": signature}, data=b"x" * 100)

    def get(self, attempt: Attempt, signature: str):  # type: ignore[no-untyped-def]
        return self.client.get(f"/files/{video_key(attempt)}", query_string={"signature": signature}, buffered=True)

    @property
    def state(self) -> object:
        return rows(self.services), files(self.services)


@pytest.fixture
def services(wire: Wire) -> Gateway:
    return wire(secret_key=(SECRET_KEY, OLDER_KEY))


@pytest.fixture
def scene(app: Flask, services: Gateway, job_factory: JobFactory, clock: FixedClock) -> Scene:
    def attempt(state: AttemptState, **job: object) -> Attempt:
        return services.attempt(job_factory(attempt=state, next_at=None, **job))

    mine = attempt(AttemptState.CLAIMED, status=JobStatus.RUNNING)
    older = new_attempt(services.store.job(mine.job_id), clock.now_ms(), AttemptState.SUPERSEDED)
    services.store.together(lambda tx: tx.add_attempt(older))
    others = {
        "older attempt of the job": older,
        "other job": attempt(AttemptState.CLAIMED, status=JobStatus.RUNNING),
        "not claimed": attempt(AttemptState.SUBMITTED),
        "done": attempt(
            AttemptState.DONE, status=JobStatus.COMPLETED, finished_at=clock.now_ms(), started_at=clock.now_ms()
        ),
        "failed": attempt(AttemptState.FAILED, status=JobStatus.FAILED, finished_at=clock.now_ms()),
        "cancelled": attempt(AttemptState.SUPERSEDED, status=JobStatus.CANCELLED, finished_at=clock.now_ms()),
    }
    for stored in (mine, others["other job"], others["done"]):
        services.storage.write(video_key(stored), [VIDEO], len(VIDEO))
    return Scene(services, app.test_client(), mine, others)


def foreign_tokens(scene: Scene) -> Iterator[str]:
    """Well-formed tokens that are not the events token of `mine`."""
    mine, now = scene.mine, scene.services.clock.now_ms()
    for other in scene.others.values():
        yield scene.token(other)
        yield scene.signature(other)
    yield scene.token(mine, expires_at=now)
    yield scene.token(mine, expires_at=1)
    yield scene.token(mine, Signer((GONE_KEY,)))
    yield scene.signature(mine)
    yield scene.signature(mine, "GET")
    sign = scene.services.signer.sign
    for purpose in ("webhook", f"file:{mine.id}", f"events:{mine.id}", "", "Events"):
        yield sign(purpose, [mine.id, mine.deadline])
    for value in (mine.id, [mine.id], [mine.id, str(mine.deadline)], [mine.id, mine.deadline, 1], [mine.deadline, mine.id],
                  [[mine.id], mine.deadline], {"0": mine.id, "1": mine.deadline}, [mine.id, None], [mine.id, 1e300], None,
                  [mine.id.lower(), mine.deadline], [mine.job_id, mine.deadline], ["", mine.deadline]):  # fmt: skip
        yield sign(EVENTS_PURPOSE, value)


def foreign_signatures(scene: Scene, method: str) -> Iterator[str]:
    """Well-formed signatures that do not allow `method` for the output of `mine`."""
    mine, now = scene.mine, scene.services.clock.now_ms()
    for other in scene.others.values():
        yield scene.signature(other, method)
        yield scene.token(other)
    yield scene.signature(mine, "GET" if method == "PUT" else "PUT")
    yield scene.signature(mine, method, expires_at=now)
    yield scene.signature(mine, method, Signer((GONE_KEY,)))
    yield scene.token(mine)
    sign = scene.services.signer.sign
    good = [method, mine.deadline, MOST]
    key = video_key(mine)
    for purpose in ("file:", "file", key, f"file:{quote(key, safe='')}", f"file:/{key}"):
        yield sign(purpose, good)
    for value in (good[:2], [*good, 1], [method.lower(), *good[1:]], [[method], *good[1:]], ["HEAD", *good[1:]],
                  [method, str(mine.deadline), MOST], [method, mine.deadline, None], method, None, {}):  # fmt: skip
        yield sign(f"file:{video_key(mine)}", value)


def damaged(good: str, chance: random.Random) -> str:
    """`good` shortened, extended, or with one bit or character changed, but never equivalent to it."""
    while True:
        text = good
        at = chance.randrange(len(text))
        match chance.randrange(6):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + chance.choice(string.ascii_letters + "._-=+/ %é") + text[at:]
            case 2:
                text = text[:at] + chr(ord(text[at]) ^ 1 << chance.randrange(7)) + text[at + 1 :]
            case 3:
                text = text[:at] + text[at + 1 :]
            case 4:
                text = ".".join(chance.sample(text.split("."), 2))
            case 5:
                text = text.swapcase() if chance.random() < 0.1 else text[at:] + text[:at]
        if text.isprintable() and not same(text, good):
            return text


def same(text: str, good: str) -> bool:
    """Some bits of the last character of a signature do not count."""
    payload, _, mac = text.rpartition(".")
    their_payload, _, their_mac = good.rpartition(".")
    try:
        return payload == their_payload and base64_decode(mac) == base64_decode(their_mac)
    except Exception:
        return False


def test_foreign_tokens_report_nothing(scene: Scene) -> None:
    before = scene.state
    for token in foreign_tokens(scene):
        for event in EVENTS:
            assert_problem(scene.report(scene.mine, token, event), 401, "unauthorized")
        assert scene.state == before


@pytest.mark.parametrize("what", ["token", "signature"])
def test_damaged_tokens_and_signatures_change_nothing(scene: Scene, what: str) -> None:
    before = scene.state
    for number in range(CASES):
        chance = random.Random(f"{SEED}-{number}")
        if what == "token":
            wrong = damaged(scene.token(scene.mine), chance)
            assert_problem(scene.report(scene.mine, wrong, chance.choice(EVENTS)), 401, "unauthorized")
        else:
            method, call = chance.choice([("PUT", scene.put), ("GET", scene.get)])
            wrong = damaged(scene.signature(scene.mine, method), chance)
            assert_problem(call(scene.mine, wrong), 403, "signature_invalid")
    assert scene.state == before


def test_foreign_signatures_store_and_show_nothing(scene: Scene) -> None:
    before = scene.state
    for method, call in (("PUT", scene.put), ("GET", scene.get)):
        for signature in foreign_signatures(scene, method):
            assert_problem(call(scene.mine, signature), 403, "signature_invalid")
            assert scene.state == before


def test_a_signature_is_not_valid_for_other_spellings_of_its_key(scene: Scene) -> None:
    before, key = scene.state, video_key(scene.mine)
    job, name = key.split("/", 2)[1:]
    paths = [f"outputs//{job}/{name}", f"./{key}", f"outputs/{job}/../{job}/{name}", f"outputs%2f{job}%2f..%2f{name}"]
    paths += [f"/{key}", f"{key}/", f"{key}%00", f"{key}%0a", f"{key};x", f"{key}.mp4", key.lower(), key.upper()]
    for path in paths:
        for method in ("PUT", "GET"):
            url = f"/files/{path}?signature={scene.signature(scene.mine, method)}"
            assert scene.client.open(url, method=method, data=b"x").status_code in {308, 401, 403, 404}, path
    assert scene.state == before


@pytest.mark.parametrize("which", ["older attempt of the job", "failed", "cancelled", "done", "not claimed"])
def test_without_a_live_claim_an_attempt_s_own_token_changes_nothing(scene: Scene, which: str) -> None:
    before, attempt = scene.state, scene.others[which]
    repeatable = {"done": "completed", "failed": "failed", "not claimed": "started"}.get(which)
    for event in EVENTS:
        if event["type"] != repeatable:
            assert_problem(scene.report(attempt, scene.token(attempt), event), 409, "attempt_superseded")
    if which != "not claimed":
        assert_problem(scene.put(attempt, scene.signature(attempt)), 409, "attempt_superseded")
    assert scene.state == before


def test_own_tokens_and_signatures_are_valid(scene: Scene) -> None:
    """The refusals above prove nothing otherwise. An older SECRET_KEY is valid while it is configured."""
    older = Signer((OLDER_KEY,))
    before = scene.state
    for signer in (None, older):
        assert scene.report(scene.mine, scene.token(scene.mine, signer), EVENTS[1]).status_code == 200
        assert scene.put(scene.mine, scene.signature(scene.mine, signer=signer)).status_code == 201
        assert scene.get(scene.mine, scene.signature(scene.mine, "GET", signer)).data == b"x" * 100
    assert scene.state != before
