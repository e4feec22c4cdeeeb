"""How a rented worker proves its identity before any secret is sent.

It creates a certificate when it starts, and responds to `GET /identity?nonce=…` with a proof over the certificate's
fingerprint that can only be computed with the session token. A man in the middle cannot compute it for his certificate.
"""

from __future__ import annotations

import hashlib
import hmac
import re

# The form of a nonce; a worker computes no proof for anything else.
NONCE = re.compile(r"[0-9a-f]{16,64}")


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate's DER, in hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def proof(session_token: str, nonce: str, fingerprint: str) -> str:
    """The proof: HMAC-SHA256 with the session token as key, in hexadecimal."""
    message = f"reelay-worker-identity\n{nonce}\n{fingerprint}"
    return hmac.new(session_token.encode(), message.encode(), hashlib.sha256).hexdigest()
