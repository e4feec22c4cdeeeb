"""Signatures and derived secrets, all from SECRET_KEY: signed URLs, tokens of workers, webhook secrets."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from itsdangerous import BadData, URLSafeSerializer


class Signer:
    """Signs with the first key and accepts all of them. A token of one `purpose` is not valid for another."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys

    def sign(self, purpose: str, value: Any) -> str:
        """Sign `value`, a JSON value, as URL-safe text from which `read` returns it."""
        return str(self._serializer(purpose).dumps(value))

    def read(self, purpose: str, token: str) -> Any:
        """The signed value, or None if `sign` did not make the token for this purpose."""
        try:
            return self._serializer(purpose).loads(token)
        except BadData:
            return None

    def derive(self, purpose: str, name: str) -> str:
        """Derive a secret for `name`, the same after every restart: 64 hexadecimal digits."""
        return self.derive_all(purpose, name)[0]

    def derive_all(self, purpose: str, name: str) -> list[str]:
        """Derive one secret from each key, newest first: a receiver may still have an older one."""
        value = f"{purpose}:{name}".encode()
        return [hmac.new(key.encode(), value, hashlib.sha256).hexdigest() for key in self._keys]

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        # itsdangerous expects the oldest key first and signs with the last.
        return URLSafeSerializer(
            list(reversed(self._keys)),
            salt=f"reelay.{purpose}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
