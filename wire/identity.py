"""How a rented worker shows who it is before any secret travels.

It makes a certificate at its start and answers `GET /identity?nonce=…` with a proof over that certificate's
fingerprint, which only somebody who knows the session token can make. Whoever sits between the two shows a certificate
of his own, and has no proof for it.
"""

from __future__ import annotations

import hashlib
import hmac
import re

# What a nonce looks like; a worker proves nothing over anything else.
NONCE = re.compile(r"[0-9a-f]{16,64}")


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate's DER, in hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def proof(session_token: str, nonce: str, fingerprint: str) -> str:
    """HMAC-SHA256 in hexadecimal, by the session token."""
    message = f"reelay-worker-identity\n{nonce}\n{fingerprint}"
    return hmac.new(session_token.encode(), message.encode(), hashlib.sha256).hexdigest()
