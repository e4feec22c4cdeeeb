"""What the gateway hands out and recognises when it comes back: signed URLs and tokens, all from SECRET_KEY."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from itsdangerous import BadData, URLSafeSerializer


class Signer:
    """Signs with the first key, accepts any of them. A `purpose` keeps one kind of token from passing as another."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys

    def sign(self, purpose: str, value: Any) -> str:
        """`value`, a JSON value, as URL-safe text that `read` gives back."""
        return str(self._serializer(purpose).dumps(value))

    def read(self, purpose: str, token: str) -> Any:
        """The value, or None when the token was not made by us for this purpose."""
        try:
            return self._serializer(purpose).loads(token)
        except BadData:
            return None

    def derive(self, purpose: str, name: str) -> str:
        """A secret of its own for `name`, the same after every restart: 64 hexadecimal digits."""
        return self.derive_all(purpose, name)[0]

    def derive_all(self, purpose: str, name: str) -> list[str]:
        """The same by every key, newest first, for who must be understood by those who know an older one."""
        value = f"{purpose}:{name}".encode()
        return [hmac.new(key.encode(), value, hashlib.sha256).hexdigest() for key in self._keys]

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        # itsdangerous wants the oldest key first and signs with the last
        return URLSafeSerializer(
            list(reversed(self._keys)),
            salt=f"reelay.{purpose}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
