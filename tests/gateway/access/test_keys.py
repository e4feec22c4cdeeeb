"""Clients' API keys."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.access.keys import FROM_ENVIRONMENT, SCOPES, Keys, make_secret, may, mistyped
from gateway.db.store import Store
from gateway.db.transaction import Transaction
from gateway.settings import Settings
from tests.gateway.conftest import START_MS, FixedClock, Gateway, Wire, on_every_database

OWN = "a key of the operator's own"


@pytest.fixture
def keys(services: Gateway) -> Keys:
    return services.keys


def on_disk(settings: Settings) -> bytes:
    return b"".join(path.read_bytes() for path in Path(settings.data_dir).rglob("*") if path.is_file())


def test_only_the_secret_itself_opens(keys: Keys) -> None:
    record, secret = keys.create("n8n")
    assert keys.verify(secret) == record
    assert (record.name, record.source, record.created_at, record.revoked_at) == ("n8n", "cli", START_MS, None)
    derived = (record.secret_sha256, record.prefix, record.id, secret[:-1], secret + "x", secret.swapcase())
    for guess in (*derived, None, "", "x", "é" * 20, "r" * 513, "r" * 1_000_000):
        assert keys.verify(guess) is None


def test_a_revoked_key_is_refused_and_stays_listed(services: Gateway, keys: Keys) -> None:
    record, secret = keys.create("n8n")
    other, other_secret = keys.create("other")
    services.clock.advance(5)
    assert keys.revoke(record.id) == replace(record, revoked_at=START_MS + 5)
    services.clock.advance(5)
    assert keys.revoke(record.id) == replace(record, revoked_at=START_MS + 5)
    assert keys.verify(secret) is None
    assert keys.verify(other_secret) == other
    assert [key.id for key in keys.list()] == [record.id, other.id]


def test_no_secret_is_stored_in_clear_text(keys: Keys, settings: Settings) -> None:
    _, secret = keys.create("n8n")
    keys.adopt(own := "Zq9-Xw7-Vu5-Ts3-")
    found = on_disk(settings)
    assert b"n8n" in found
    assert secret.encode() not in found
    assert not any(own[i : i + 4].encode() in found for i in range(len(own) - 3))
    assert secret[8:].encode() not in found


def test_the_environment_s_key_is_adopted_replaced_revoked_and_restored(keys: Keys) -> None:
    keys.adopt(None)
    assert keys.list() == []
    for _ in range(2):
        keys.adopt(OWN)
    (record,) = keys.list()
    assert (keys.verify(OWN), record.source) == (record, FROM_ENVIRONMENT)
    keys.rotate_webhook_secret(record.id)
    keys.adopt("another key of the operator's")
    after = keys.verify("another key of the operator's")
    assert after and (after.id, after.webhook_rotations, after.webhook_rotated_at) == (record.id, 1, START_MS)
    assert keys.verify(OWN) is None
    keys.adopt(None)
    assert keys.verify("another key of the operator's") is None
    keys.adopt("another key of the operator's")
    assert keys.verify("another key of the operator's") == after


def between(store: Store, monkeypatch: pytest.MonkeyPatch, other: Callable[[], object]) -> None:
    """Run `other`, as another gateway, between the next two statements of `store`."""
    begin = store.transaction

    def transaction() -> AbstractContextManager[Transaction]:
        monkeypatch.undo()
        other()
        return begin()

    monkeypatch.setattr(store, "transaction", transaction)


@on_every_database
def test_two_gateways_that_start_at_once_adopt_one_key(
    keys: Keys, wire: Wire, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(store, monkeypatch, lambda: wire().keys.adopt(OWN))
    keys.adopt(OWN)
    assert len(keys.list()) == 1
    assert keys.verify(OWN)


@on_every_database
def test_a_key_that_another_process_revoked_in_between_stays_as_it_is(
    services: Gateway, keys: Keys, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = keys.create("n8n")
    between(store, monkeypatch, lambda: Keys(store, FixedClock()).revoke(record.id))
    services.clock.advance(5)
    revoked = replace(record, revoked_at=START_MS)
    assert keys.revoke(record.id) == revoked
    assert keys.list() == [revoked]


def test_the_environment_may_name_a_created_key(keys: Keys) -> None:
    record, secret = keys.create("n8n")
    keys.adopt(secret)
    assert keys.list() == [record]
    keys.adopt(OWN)
    assert keys.verify(OWN)
    keys.adopt(secret)
    assert keys.verify(secret) == record
    assert keys.verify(OWN) is None


def test_both_secrets_are_valid_until_the_grace_ends(services: Gateway, keys: Keys) -> None:
    record, old = keys.create("n8n")
    rotated, new = keys.rotate(record.id, 1000) or (None, "")
    assert rotated and (rotated.id, rotated.scopes, rotated.created_at) == (record.id, "jobs", START_MS)
    assert old != new and rotated.prefix == new[:8]
    services.clock.advance(999)
    assert keys.verify(old) == keys.verify(new) == rotated
    services.clock.advance(1)
    assert keys.verify(old) is None
    assert keys.verify(new) == rotated


def test_no_more_than_two_secrets_are_valid(keys: Keys) -> None:
    record, first = keys.create("n8n")
    second, third = ((keys.rotate(record.id, 60_000) or (None, ""))[1] for _ in range(2))
    assert [bool(keys.verify(secret)) for secret in (first, second, third)] == [False, True, True]
    _, fourth = keys.rotate(record.id, 0) or (None, "")
    assert [bool(keys.verify(secret)) for secret in (third, fourth)] == [False, True], "without grace"


def test_a_revoked_key_has_no_valid_secret_and_gets_no_new_one(services: Gateway, keys: Keys) -> None:
    record, old = keys.create("n8n")
    _, new = keys.rotate(record.id, 60_000) or (None, "")
    revoked = keys.revoke(record.id)
    assert keys.rotate(record.id, 60_000) is None
    assert keys.rotate("key_x", 60_000) is None
    assert [keys.verify(secret) for secret in (old, new)] == [None, None]
    assert keys.list() == [revoked]
    services.clock.advance(-3_600_000)
    assert keys.verify(old) is None, "a clock that is set back restores nothing"


def test_the_environment_may_name_the_previous_secret_of_another_key(services: Gateway, keys: Keys) -> None:
    record, old = keys.create("n8n")
    keys.rotate(record.id, 1000)
    keys.adopt(old)
    found = keys.verify(old)
    assert found and (found.source, found.scopes) == (FROM_ENVIRONMENT, "jobs,metrics,admin")
    services.clock.advance(1000)
    assert keys.verify(old) == found


def test_scopes_are_kept_in_one_order_and_admin_has_all(keys: Keys) -> None:
    both, _ = keys.create("both", ("metrics", "jobs", "jobs"))
    admin, _ = keys.create("admin", ("admin",))
    plain, _ = keys.create("plain")
    assert (both.scopes, plain.scopes) == ("jobs,metrics", "jobs")
    assert [[may(key, scope) for scope in SCOPES] for key in (plain, both, admin)] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert not may(replace(plain, scopes=""), "jobs")
    assert not may(replace(plain, scopes="jobs-no-more"), "jobs")


def test_a_mistyped_key_causes_no_query_and_every_other_key_the_same_one(
    keys: Keys, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timing does not reveal whether a secret was once valid."""
    record, revoked = keys.create("revoked")
    keys.revoke(record.id)
    rotated, ended = keys.create("rotated")
    _, good = keys.rotate(rotated.id, 0) or (None, "")
    asked: list[str] = []

    @sa.event.listens_for(store._engine, "before_cursor_execute")
    def _record(_: object, __: object, statement: str, *___: object) -> None:
        asked.append(statement)

    for secret in (revoked[:-1] + "_", "x" * 513, None):
        assert keys.verify(secret) is None
    assert asked == []
    for secret in (revoked, ended, good, make_secret(), OWN):
        keys.verify(secret)
    assert len(asked) == 5 and len(set(asked)) == 1


def test_hashes_are_compared_in_constant_time(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    record, secret = keys.create("n8n")
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    keys.verify(secret)
    assert compared == [(record.secret_sha256, record.secret_sha256), (record.secret_sha256, "")]
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: False)
    assert keys.verify(secret) is None, "nothing but this comparison decides"


def test_a_limited_number_of_recently_valid_secrets_is_kept(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.access.keys.MAX_RECENT", 2)
    made = [keys.create("n8n") for _ in range(3)]
    assert not any(keys.recently_valid(secret) for secret in (None, "", "x" * 1_000_000, made[0][1]))
    assert all(keys.verify(secret) for _, secret in made)
    assert [keys.recently_valid(secret) for _, secret in made] == [False, True, True]
    keys.revoke(made[2][0].id)
    keys.verify(made[2][1])
    assert [keys.recently_valid(secret) for _, secret in made] == [False, True, False]


def test_generated_secrets_differ_and_a_wrong_character_is_noticed() -> None:
    made = {make_secret() for _ in range(200)}
    assert len(made) == 200
    assert all(not mistyped(secret) and len(secret) == 49 for secret in made)
    secret = made.pop()
    for i in range(3, len(secret)):
        assert mistyped(secret[:i] + ("A" if secret[i] != "A" else "B") + secret[i + 1 :])
    for other in ("", "rl_", "x" + secret, secret[:-1], OWN, secret.replace("rl_", "rx_")):
        assert not mistyped(other), "it has another form"
