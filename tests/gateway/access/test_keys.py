"""Clients' keys."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.access.keys import FROM_ENVIRONMENT, SCOPES, Keys, digest, make_secret, may, mistyped
from gateway.db.store import Store
from gateway.db.transaction import Transaction
from gateway.settings import Settings
from gateway.wiring import Services
from tests.gateway.conftest import START_MS, FixedClock, Wire, on_every_database

OWN = "a key of the operator's own"


@pytest.fixture
def keys(services: Services) -> Keys:
    return services.keys


def on_disk(settings: Settings) -> bytes:
    return b"".join(path.read_bytes() for path in Path(settings.data_dir).rglob("*") if path.is_file())


def test_a_created_key_is_recognised(keys: Keys) -> None:
    record, secret = keys.create("n8n")
    assert keys.verify(secret) == record
    assert (record.name, record.source, record.created_at, record.revoked_at) == ("n8n", "cli", START_MS, None)


@pytest.mark.parametrize("secret", [None, "", "x", "é" * 20, "r" * 513, "r" * 1_000_000])
def test_what_is_no_key_is_not_recognised(keys: Keys, secret: str | None) -> None:
    keys.create("n8n")
    assert keys.verify(secret) is None


def test_neither_hash_nor_prefix_nor_id_opens(keys: Keys) -> None:
    record, secret = keys.create("n8n")
    for guess in (record.secret_sha256, record.prefix, record.id, secret[:-1], secret + "x", secret.swapcase()):
        assert keys.verify(guess) is None


def test_a_revoked_key_is_refused_and_stays_listed(keys: Keys, clock: FixedClock) -> None:
    record, secret = keys.create("n8n")
    other, other_secret = keys.create("other")
    clock.advance(5)
    assert keys.revoke(record.id) == replace(record, revoked_at=START_MS + 5)
    clock.advance(5)
    assert keys.revoke(record.id) == replace(record, revoked_at=START_MS + 5)
    assert keys.verify(secret) is None
    assert keys.verify(other_secret) == other
    assert [key.id for key in keys.list()] == [record.id, other.id]


def test_an_unknown_key_cannot_be_revoked(keys: Keys) -> None:
    assert keys.revoke("key_x") is None


def test_no_secret_lies_on_the_disk_in_clear(keys: Keys, settings: Settings) -> None:
    _, secret = keys.create("n8n")
    keys.adopt(own := "Zq9-Xw7-Vu5-Ts3-")
    found = on_disk(settings)
    assert b"n8n" in found
    assert secret.encode() not in found
    assert not any(own[i : i + 4].encode() in found for i in range(len(own) - 3))
    assert secret[8:].encode() not in found


def test_the_environments_key_is_adopted_once(keys: Keys) -> None:
    keys.adopt(OWN)
    keys.adopt(OWN)
    (record,) = keys.list()
    assert (keys.verify(OWN), record.source) == (record, FROM_ENVIRONMENT)


def between(store: Store, monkeypatch: pytest.MonkeyPatch, other: Callable[[], object]) -> None:
    """Another gateway does `other` after `store` was first used and before it writes."""
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
    keys: Keys, store: Store, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = keys.create("n8n")
    between(store, monkeypatch, lambda: Keys(store, FixedClock()).revoke(record.id))
    clock.advance(5)
    revoked = replace(record, revoked_at=START_MS)
    assert keys.revoke(record.id) == revoked
    assert keys.list() == [revoked]


def test_a_changed_environment_key_keeps_its_id(keys: Keys) -> None:
    keys.adopt(OWN)
    before = keys.verify(OWN)
    keys.adopt("another key of the operator's")
    after = keys.verify("another key of the operator's")
    assert before and after and before.id == after.id
    assert keys.verify(OWN) is None


def test_a_changed_environment_key_keeps_the_secret_of_its_webhooks(keys: Keys) -> None:
    keys.adopt(OWN)
    rotated = keys.rotate_webhook_secret(keys.list()[0].id)
    keys.adopt("another key of the operator's")
    (after,) = keys.list()
    assert rotated and (after.webhook_rotations, after.webhook_rotated_at) == (1, START_MS)
    assert after.secret_sha256 != rotated.secret_sha256


def test_an_unset_environment_key_is_revoked_and_comes_back(keys: Keys) -> None:
    keys.adopt(None)
    assert keys.list() == []
    keys.adopt(OWN)
    before = keys.verify(OWN)
    keys.adopt(None)
    assert keys.verify(OWN) is None
    keys.adopt(OWN)
    assert keys.verify(OWN) == before


def test_a_created_key_may_be_the_environments_too(keys: Keys) -> None:
    record, secret = keys.create("n8n")
    keys.adopt(secret)
    assert keys.list() == [record]
    keys.adopt(OWN)
    assert keys.verify(OWN)
    keys.adopt(secret)
    assert keys.verify(secret) == record
    assert keys.verify(OWN) is None


def test_both_secrets_open_while_a_key_is_rotated(keys: Keys, clock: FixedClock) -> None:
    record, old = keys.create("n8n")
    rotated, new = keys.rotate(record.id, 1000) or (None, "")
    assert rotated and (rotated.id, rotated.scopes, rotated.created_at) == (record.id, "jobs", START_MS)
    assert old != new and rotated.prefix == new[:8]
    clock.advance(999)
    assert keys.verify(old) == keys.verify(new) == rotated
    clock.advance(1)
    assert keys.verify(old) is None
    assert keys.verify(new) == rotated


def test_without_grace_the_old_secret_ends_at_once(keys: Keys) -> None:
    record, old = keys.create("n8n")
    _, new = keys.rotate(record.id, 0) or (None, "")
    assert keys.verify(old) is None
    assert keys.verify(new)


def test_no_more_than_two_secrets_live(keys: Keys) -> None:
    record, first = keys.create("n8n")
    second, third = ((keys.rotate(record.id, 60_000) or (None, ""))[1] for _ in range(2))
    assert [bool(keys.verify(secret)) for secret in (first, second, third)] == [False, True, True]


def test_a_revoked_key_has_no_live_secret_and_gets_no_new_one(keys: Keys) -> None:
    record, old = keys.create("n8n")
    _, new = keys.rotate(record.id, 60_000) or (None, "")
    revoked = keys.revoke(record.id)
    assert keys.rotate(record.id, 60_000) is None
    assert keys.rotate("key_x", 60_000) is None
    assert [keys.verify(secret) for secret in (old, new)] == [None, None]
    assert keys.list() == [revoked]


def test_a_clock_that_jumps_back_brings_back_no_ended_secret_of_a_revoked_key(keys: Keys, clock: FixedClock) -> None:
    record, old = keys.create("n8n")
    keys.rotate(record.id, 1000)
    keys.revoke(record.id)
    clock.advance(-3_600_000)
    assert keys.verify(old) is None


def test_the_environments_key_may_be_the_secret_that_another_key_had(keys: Keys, clock: FixedClock) -> None:
    record, old = keys.create("n8n")
    keys.rotate(record.id, 1000)
    keys.adopt(old)
    found = keys.verify(old)
    assert found and (found.source, found.scopes) == (FROM_ENVIRONMENT, "jobs,metrics,admin")
    clock.advance(1000)
    assert keys.verify(old) == found


def test_a_thousand_keys_are_told_apart_and_a_thousand_guesses_are_none(keys: Keys, store: Store) -> None:
    template, _ = keys.create("n8n")
    made = {make_secret(): f"key_{i}" for i in range(1000)}
    with store.transaction() as tx:
        for secret, key_id in made.items():
            tx.put_api_key(replace(template, id=key_id, secret_sha256=digest(secret)))
    found = {secret: keys.verify(secret) for secret in made}
    assert len(made) == 1000
    assert {secret: key and key.id for secret, key in found.items()} == made
    assert not any(keys.verify(make_secret()) for _ in range(1000))


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


def test_a_mistyped_key_asks_no_database_and_every_other_one_asks_the_same(
    keys: Keys, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger can measure does not depend on whether a secret once was one."""
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
    assert keys.verify(secret) is None, "nothing but this comparison lets anybody in"


def test_what_was_valid_lately_is_known_until_it_is_not(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    record, secret = keys.create("n8n")
    assert not keys.recently_valid(secret)
    keys.verify(secret)
    assert keys.recently_valid(secret)
    keys.revoke(record.id)
    keys.verify(secret)
    assert not keys.recently_valid(secret)
    assert not any(keys.recently_valid(other) for other in (None, "", make_secret(), "x" * 1_000_000))


def test_only_so_many_are_known(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.access.keys.MAX_RECENT", 2)
    made = [keys.create("n8n")[1] for _ in range(3)]
    assert all(keys.verify(secret) for secret in made)
    assert [keys.recently_valid(secret) for secret in made] == [False, True, True]


def test_made_keys_differ_and_carry_a_checksum() -> None:
    made = {make_secret() for _ in range(200)}
    assert len(made) == 200
    assert all(not mistyped(secret) and len(secret) == 49 for secret in made)


def test_amistyped_key_is_told_by_its_checksum() -> None:
    secret = make_secret()
    for i in range(3, len(secret)):
        assert mistyped(secret[:i] + ("A" if secret[i] != "A" else "B") + secret[i + 1 :])


def test_a_key_of_another_form_may_be_anything() -> None:
    secret = make_secret()
    for other in ("", "rl_", "x" + secret, secret[:-1], OWN, secret.replace("rl_", "rx_")):
        assert not mistyped(other)
