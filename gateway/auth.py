"""Who may call: clients' API keys. Only their SHA-256 is kept."""

from __future__ import annotations

import base64
import hashlib
import secrets
import zlib
from collections.abc import Collection
from dataclasses import replace

from gateway import ids
from gateway.signing import Signer
from gateway.store import ApiKey, Store
from wire.clock import Clock

PREFIX = "rl"
FROM_ENVIRONMENT = "environment"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHOWN = 8
_BODY = 40
# How long webhooks are signed with the secret before the newest as well.
WEBHOOK_SECRET_KEPT_MS = 24 * 3600 * 1000


def make_secret() -> str:
    """`rl_` + 40 random characters + 6 of a checksum, by which a mistyped or leaked key is recognised."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_BODY))
    return f"{PREFIX}_{body}{_checksum(body)}"


def _mistyped(secret: str) -> bool:
    """Whether it looks like a key of our making with a wrong checksum: no look-up is needed. Others may be anything."""
    body, checksum = secret[len(PREFIX) + 1 : -6], secret[-6:]
    return secret.startswith(f"{PREFIX}_") and len(body) == _BODY and checksum != _checksum(body)


class Keys:
    """Creates, lists, revokes and recognises API keys."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def create(self, name: str) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once."""
        secret = make_secret()
        now = self._clock.now_ms()
        key = ApiKey(ids.new("key", now), name, "cli", secret[:_SHOWN], _digest(secret), now)
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
        if secret is None or _digest(secret) in created:
            return _revoked(current, now) if current else None
        # No part of it is shown: of a secret of the operator's own making any part may be too much.
        wanted = ApiKey(ids.new("key", now), "X_API_KEY", FROM_ENVIRONMENT, "", _digest(secret), now)
        return replace(current, secret_sha256=wanted.secret_sha256, revoked_at=None) if current else wanted

    def revoke(self, key_id: str) -> ApiKey | None:
        """Refuse the key from now on; None when there is no such key."""
        with self._store.transaction() as tx:
            key = next((key for key in tx.api_keys() if key.id == key_id), None)
            if key is None:
                return None
            revoked = _revoked(key, self._clock.now_ms())
            tx.put_api_key(revoked)
        return revoked

    def rotate_webhook_secret(self, key_id: str) -> ApiKey | None:
        """Give the key's webhooks a new secret; None when there is no such key."""
        with self._store.transaction() as tx:
            key = next((key for key in tx.api_keys() if key.id == key_id), None)
            if key is None:
                return None
            rotations, now = key.webhook_rotations + 1, self._clock.now_ms()
            rotated = replace(key, webhook_rotations=rotations, webhook_rotated_at=now)
            tx.put_api_key(rotated)
        return rotated

    def list(self) -> list[ApiKey]:
        return self._store.api_keys()

    def recognise(self, secret: str | None) -> ApiKey | None:
        """The key that `secret` belongs to, if it is valid."""
        if not secret or len(secret) > 512 or _mistyped(secret):
            return None
        # The look-up is by hash: what its timing could tell of the table is of no use without the secret.
        key = self._store.api_key_by_hash(_digest(secret))
        return key if key and key.revoked_at is None else None


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


def _revoked(key: ApiKey, now: int) -> ApiKey:
    return key if key.revoked_at is not None else replace(key, revoked_at=now)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
