"""Who may call: clients' API keys, and what each of them may do. Only their SHA-256 is kept."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import zlib
from collections.abc import Callable, Collection
from dataclasses import replace

from common.clock import Clock
from gateway.db.records import ApiKey
from gateway.db.store import Store
from gateway.domain import ids
from gateway.signing import Signer

PREFIX = "rl"
FROM_ENVIRONMENT = "environment"
# `jobs`: make and follow jobs, store files. `metrics`: read the figures. `admin`: all that needs a key.
SCOPES = ("jobs", "metrics", "admin")
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHOWN = 8
_BODY = 40
MAX_SECRET = 512
MOST_LATELY = 1000
# How long webhooks are signed with the secret before the newest as well.
WEBHOOK_SECRET_KEPT_MS = 24 * 3600 * 1000


def make_secret() -> str:
    """`rl_` + 40 random characters + 6 of a checksum, by which a mistyped or leaked key is recognised."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_BODY))
    return f"{PREFIX}_{body}{_checksum(body)}"


def mistyped(secret: str) -> bool:
    """Whether it looks like a key of our making with a wrong checksum: no look-up is needed. Others may be anything."""
    body, checksum = secret[len(PREFIX) + 1 : -6], secret[-6:]
    return secret.startswith(f"{PREFIX}_") and len(body) == _BODY and checksum != _checksum(body)


class Keys:
    """Creates, lists, rotates, revokes and recognises API keys."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._lately: dict[str, None] = {}

    def create(self, name: str, scopes: Collection[str] = ("jobs",)) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once."""
        secret = make_secret()
        now = self._clock.now_ms()
        key = ApiKey(ids.new("key", now), name, "cli", secret[:_SHOWN], digest(secret), now, scopes=_words(scopes))
        with self._store.transaction() as tx:
            tx.put_api_key(key)
        return key, secret

    def adopt(self, secret: str | None) -> None:
        """Make X_API_KEY of the environment a key. A changed value replaces the old one, and its jobs stay its own."""
        with self._store.transaction() as tx:
            keys = tx.api_keys()
            current = next((key for key in keys if key.source == FROM_ENVIRONMENT), None)
            wanted = self._wanted(current, secret, keys)
            if wanted is not None and wanted != current:
                tx.put_api_key(wanted)

    def _wanted(self, current: ApiKey | None, secret: str | None, keys: Collection[ApiKey]) -> ApiKey | None:
        """The environment's key as it should be."""
        now = self._clock.now_ms()
        created = {key.secret_sha256 for key in keys if key.source != FROM_ENVIRONMENT}
        if secret is None or digest(secret) in created:
            return _revoked(current, now) if current else None
        # No part of it is shown: of a secret of the operator's own making any part may be too much.
        wanted = ApiKey(
            ids.new("key", now), "X_API_KEY", FROM_ENVIRONMENT, "", digest(secret), now, scopes=_words(SCOPES)
        )
        changes = {"secret_sha256": wanted.secret_sha256, "scopes": wanted.scopes, "revoked_at": None}
        return replace(current, **changes) if current else wanted  # type: ignore[arg-type]

    def revoke(self, key_id: str) -> ApiKey | None:
        """Refuse the key from now on, with all its secrets; None when there is no such key."""
        return self._change(key_id, lambda key, now: _revoked(key, now))

    def rotate(self, key_id: str, grace_ms: int) -> tuple[ApiKey, str] | None:
        """Give the key a new secret, which is shown this once; the one before stays valid for `grace_ms`.

        Of two rotations within that time only the last two secrets are valid. None: no such key, or revoked.
        """
        secret = make_secret()

        def change(key: ApiKey, now: int) -> ApiKey:
            if key.revoked_at is not None:
                return key
            before = {"previous_sha256": key.secret_sha256, "previous_until": now + grace_ms}
            return replace(key, prefix=secret[:_SHOWN], secret_sha256=digest(secret), **before)  # type: ignore[arg-type]

        key = self._change(key_id, change)
        return (key, secret) if key and key.revoked_at is None else None

    def rotate_webhook_secret(self, key_id: str) -> ApiKey | None:
        """Give the key's webhooks a new secret; None when there is no such key."""
        return self._change(
            key_id,
            lambda key, now: replace(key, webhook_rotations=key.webhook_rotations + 1, webhook_rotated_at=now),
        )

    def _change(self, key_id: str, change: Callable[[ApiKey, int], ApiKey]) -> ApiKey | None:
        with self._store.transaction() as tx:
            key = next((key for key in tx.api_keys() if key.id == key_id), None)
            if key is not None:
                key = change(key, self._clock.now_ms())
                tx.put_api_key(key)
        return key

    def list(self) -> list[ApiKey]:
        return self._store.api_keys()

    def recognise(self, secret: str | None) -> ApiKey | None:
        """The key that `secret` belongs to, if it is valid."""
        if not secret or len(secret) > MAX_SECRET or mistyped(secret):
            return None
        # The look-up is by hash: what its timing could tell of the table is of no use without the secret.
        given = digest(secret)
        key = self._store.api_key_by_hash(given)
        valid = key is not None and _opens(key, given, self._clock.now_ms())
        self._remember(given, valid)
        return key if valid else None

    def lately_recognised(self, secret: str | None) -> bool:
        """Whether `secret` was valid when it was last seen here; it may have been revoked since."""
        return bool(secret) and len(secret or "") <= MAX_SECRET and digest(secret or "") in self._lately

    def _remember(self, given: str, valid: bool) -> None:
        if valid == (given in self._lately):
            return
        with self._lock:
            self._lately.pop(given, None)
            if valid:
                self._lately[given] = None
            if len(self._lately) > MOST_LATELY:
                del self._lately[next(iter(self._lately))]


def webhook_secrets(signer: Signer, key_id: str, key: ApiKey | None, now: int) -> list[str]:
    """The secrets (`whsec_…`) that sign the webhooks of a key's jobs, newest first.

    More than one after a change, until those who check have taken the new one. `key`: None if it is not stored.
    """
    rotations = key.webhook_rotations if key else 0
    live = [rotations]
    if key and key.webhook_rotated_at is not None and now < key.webhook_rotated_at + WEBHOOK_SECRET_KEPT_MS:
        live.append(rotations - 1)
    derived = [digits for n in live for digits in signer.derive_all("webhook", f"{key_id}:{n}")]
    return [f"whsec_{base64.b64encode(bytes.fromhex(digits)).decode()}" for digits in derived]


def _opens(key: ApiKey, given: str, now: int) -> bool:
    """Whether the hash `given` is that of a live secret of the key."""
    newest = hmac.compare_digest(given, key.secret_sha256)
    before = hmac.compare_digest(given, key.previous_sha256 or "") and now < (key.previous_until or 0)
    return (newest or before) and key.revoked_at is None


def _words(scopes: Collection[str]) -> str:
    """In one order, whatever order they were named in."""
    return ",".join(scope for scope in SCOPES if scope in scopes)


def may(key: ApiKey, scope: str) -> bool:
    """Whether the key has the scope; `admin` has all."""
    return not {scope, "admin"}.isdisjoint(key.scopes.split(","))


def _revoked(key: ApiKey, now: int) -> ApiKey:
    return key if key.revoked_at is not None else replace(key, revoked_at=now)


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
