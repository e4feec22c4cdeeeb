"""The worker's certificate, new at every start. `wire/identity.py` explains why the gateway trusts it."""

from __future__ import annotations

import datetime
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wire.identity import fingerprint_of


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, ready to serve."""

    #: TLS 1.3 with the certificate loaded
    context: ssl.SSLContext
    #: SHA-256 of the certificate in hexadecimal
    fingerprint: str


def make() -> Certificate:
    """Create a key and a self-signed certificate. The key is on disk, in a private folder, only while it is loaded."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(path)
    return Certificate(context, fingerprint_of(certificate.public_bytes(serialization.Encoding.DER)))


def _signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reelay-worker")])
    # The dates do not matter: the gateway checks the fingerprint, and the clock of a rented machine may be wrong.
    begins = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins.replace(year=2100))
        .sign(key, hashes.SHA256())
    )
