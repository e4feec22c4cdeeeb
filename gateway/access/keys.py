"""Clients' API keys and their scopes. Only the SHA-256 of a secret is stored."""

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
# `jobs`: create and follow jobs, upload files. `metrics`: read /metrics. `admin`: everything that needs a key.
SCOPES = ("jobs", "metrics", "admin")
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX_CHARACTERS = 8
_BODY_CHARACTERS = 40
MAX_SECRET_CHARACTERS = 512
MAX_RECENT = 1000
# How long webhooks are also signed with the previous secret.
WEBHOOK_SECRET_KEPT_MS = 24 * 3600 * 1000


def make_secret() -> str:
    """Generate `rl_`, 40 random characters and a checksum of 6, by which a mistyped or leaked key is recognised."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_BODY_CHARACTERS))
    return f"{PREFIX}_{body}{_checksum(body)}"


def mistyped(secret: str) -> bool:
    """Whether `secret` looks like a generated key with a wrong checksum, which needs no look-up."""
    body, checksum = secret[len(PREFIX) + 1 : -6], secret[-6:]
    return secret.startswith(f"{PREFIX}_") and len(body) == _BODY_CHARACTERS and checksum != _checksum(body)


class Keys:
    """Creates, lists, rotates, revokes and verifies API keys."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._recent: dict[str, None] = {}  # hashes of secrets that were valid, oldest first

    def create(self, name: str, scopes: Collection[str] = ("jobs",)) -> tuple[ApiKey, str]:
        """Create a key. Returns it with its secret, which cannot be read again."""
        secret = make_secret()
        now = self._clock.now_ms()
        key = ApiKey(
            ids.new("key", now), name, "cli", secret[:_PREFIX_CHARACTERS], digest(secret), now, scopes=_joined(scopes)
        )
        with self._store.transaction() as tx:
            tx.put_api_key(key)
        return key, secret

    def adopt(self, secret: str | None) -> None:
        """Store X_API_KEY of the environment as a key. A changed value becomes the secret of the same key."""
        with self._store.transaction() as tx:
            keys = tx.api_keys()
            current = next((key for key in keys if key.source == FROM_ENVIRONMENT), None)
            wanted = self._wanted(current, secret, keys)
            if wanted is not None and wanted != current:
                tx.put_api_key(wanted)

    def _wanted(self, current: ApiKey | None, secret: str | None, keys: Collection[ApiKey]) -> ApiKey | None:
        """The environment's key as it should be stored."""
        now = self._clock.now_ms()
        created = {key.secret_sha256 for key in keys if key.source != FROM_ENVIRONMENT}
        if secret is None or digest(secret) in created:
            return _revoked(current, now) if current else None
        # No prefix is stored, because the operator may have chosen a short secret.
        wanted = ApiKey(
            ids.new("key", now), "X_API_KEY", FROM_ENVIRONMENT, "", digest(secret), now, scopes=_joined(SCOPES)
        )
        changes = {"secret_sha256": wanted.secret_sha256, "scopes": wanted.scopes, "revoked_at": None}
        return replace(current, **changes) if current else wanted  # type: ignore[arg-type]

    def revoke(self, key_id: str) -> ApiKey | None:
        """Refuse the key with all its secrets from now on. Returns None if there is no such key."""
        return self._change(key_id, lambda key, now: _revoked(key, now))

    def rotate(self, key_id: str, grace_ms: int) -> tuple[ApiKey, str] | None:
        """Give the key a new secret; the previous one, and no older one, stays valid for `grace_ms`.

        Returns the key with its secret, or None if there is no such key or it is revoked.
        """
        secret = make_secret()

        def change(key: ApiKey, now: int) -> ApiKey:
            if key.revoked_at is not None:
                return key
            return replace(
                key,
                prefix=secret[:_PREFIX_CHARACTERS],
                secret_sha256=digest(secret),
                previous_sha256=key.secret_sha256,
                previous_until=now + grace_ms,
            )

        key = self._change(key_id, change)
        return (key, secret) if key and key.revoked_at is None else None

    def rotate_webhook_secret(self, key_id: str) -> ApiKey | None:
        """Give the key's webhooks a new secret. Returns None if there is no such key."""
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

    def verify(self, secret: str | None) -> ApiKey | None:
        """Return the key that `secret` belongs to, if both are valid."""
        if not secret or len(secret) > MAX_SECRET_CHARACTERS or mistyped(secret):
            return None
        # Looked up by hash, because the time that a look-up takes then reveals nothing about the secret.
        sha256 = digest(secret)
        key = self._store.api_key_by_hash(sha256)
        valid = key is not None and _is_valid(key, sha256, self._clock.now_ms())
        self._remember(sha256, valid)
        return key if valid else None

    def recently_valid(self, secret: str | None) -> bool:
        """Whether `secret` was valid when this process last verified it; it may have been revoked since."""
        return bool(secret) and len(secret or "") <= MAX_SECRET_CHARACTERS and digest(secret or "") in self._recent

    def _remember(self, sha256: str, valid: bool) -> None:
        if valid == (sha256 in self._recent):
            return
        with self._lock:
            self._recent.pop(sha256, None)
            if valid:
                self._recent[sha256] = None
            if len(self._recent) > MAX_RECENT:
                del self._recent[next(iter(self._recent))]


def webhook_secrets(signer: Signer, key_id: str, key: ApiKey | None, now: int) -> list[str]:
    """The secrets (`whsec_…`) that sign the webhooks of a key's jobs, newest first. `key`: None if it is not stored.

    For a while after a change there is more than one, so that receivers can adopt the new one.
    """
    rotations = key.webhook_rotations if key else 0
    live = [rotations]
    if key and key.webhook_rotated_at is not None and now < key.webhook_rotated_at + WEBHOOK_SECRET_KEPT_MS:
        live.append(rotations - 1)
    derived = [digits for n in live for digits in signer.derive_all("webhook", f"{key_id}:{n}")]
    return [f"whsec_{base64.b64encode(bytes.fromhex(digits)).decode()}" for digits in derived]


def _is_valid(key: ApiKey, sha256: str, now: int) -> bool:
    """Whether `sha256` is the hash of a valid secret of the key."""
    current = hmac.compare_digest(sha256, key.secret_sha256)
    previous = hmac.compare_digest(sha256, key.previous_sha256 or "") and now < (key.previous_until or 0)
    return (current or previous) and key.revoked_at is None


def _joined(scopes: Collection[str]) -> str:
    """The scopes in a fixed order."""
    return ",".join(scope for scope in SCOPES if scope in scopes)


def may(key: ApiKey, scope: str) -> bool:
    """Whether the key has the scope; `admin` includes all."""
    return not {scope, "admin"}.isdisjoint(key.scopes.split(","))


def _revoked(key: ApiKey, now: int) -> ApiKey:
    return key if key.revoked_at is not None else replace(key, revoked_at=now)


def digest(secret: str) -> str:
    """The stored form of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
