"""HTTPS to a server that is identified by its certificate alone."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from urllib3 import HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError
from urllib3.util.ssl_ import create_urllib3_context

from common.safe_http import HttpsConnection, TimelyAdapter


class WrongCertificate(NewConnectionError):
    """The server presented another certificate than the pinned one. Nothing was sent."""


class _PinnedConnection(HttpsConnection):
    """Raises NewConnectionError for any failure during the handshake, because nothing has been sent then."""

    def connect(self) -> None:
        try:
            super().connect()
        except ConnectTimeoutError:
            raise
        except SSLError as error:  # of the fingerprint; the handshake raises OSError
            raise WrongCertificate(self, str(error)) from error
        except (OSError, HTTPError) as error:
            raise NewConnectionError(self, f"the handshake failed: {error}") from error


class _PinnedPool(HTTPSConnectionPool):
    ConnectionCls = _PinnedConnection


class PinnedAdapter(TimelyAdapter):
    """Connects only to a server whose certificate has this SHA-256 fingerprint, in hexadecimal."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__(pool_connections=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        # otherwise urllib3 loads the system's CA certificates for every connection, which takes 30 ms or more
        context = create_urllib3_context(cert_reqs=ssl.CERT_NONE)
        super().init_poolmanager(*args, assert_fingerprint=self._fingerprint, ssl_context=context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": _PinnedPool}


def presented_certificate(host: str, port: int, timeout_s: float) -> bytes:
    """Return the certificate that a server presents, in DER. Nothing is sent to it. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), timeout_s) as plain, context.wrap_socket(plain) as secure:
        certificate = secure.getpeercert(binary_form=True)
    if not certificate:
        raise ssl.SSLError("the server presents no certificate")
    return certificate
