"""HTTP calls to URLs that come from clients. All such calls go through this module.

It builds on requests-hardened, which resolves the host once, checks the address, connects to exactly that address, and
repeats this for every redirect. This module adds: every address that is not globally routable is refused, including
forms that the library accepts; proxies and .netrc of the environment are ignored; redirects are limited and their
bodies unread; a body that comes compressed is decompressed under the same limit; headers have a total time-out; a
download has a maximum size, a total deadline and a minimum speed. A download whose connection breaks is resumed once if
the server proves that the file is the same.
Origins allowed by name (a laptop's own gateway) skip the address check and nothing else.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests_hardened import Config, HTTPSession
from requests_hardened.ip_filter import InvalidIPAddress
from requests_hardened.ip_filter_adapter import IPFilterAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from common.content_coding import Damaged, Decoder
from common.deadlines import after

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 20.0
MAX_REDIRECTS = 5
CHUNK_BYTES = 64 * 1024
# Minimum speed of a body, measured in windows of PACE_WINDOW_S: small files and slow starts never fail it.
MIN_BYTES_PER_S = 10 * 1024
PACE_WINDOW_S = 30.0
USER_AGENT = "Reelay/1"

_STRONG_ETAG = re.compile(r'"[!#-~]+"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")

# Globally routable according to Python's ipaddress, yet never a public file server.
_DENIED = tuple(
    ipaddress.ip_network(net)
    for net in (
        "168.63.129.16/32",  # Azure's host agent
        "192.0.0.0/24",  # protocol assignments, which older Pythons call global
        "192.88.99.0/24",  # 6to4 relays
        "::/96",  # IPv4-compatible addresses
        "::ffff:0:0:0/96",  # IPv4-translated addresses
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2001::/23",  # Teredo and other protocol assignments
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "fec0::/10",  # site-local
    )
)


class ForbiddenUrl(Exception):
    """The URL, or a redirect of it, may not be called."""


class TooLarge(Exception):
    """The body is larger than the caller allows."""


class TooSlow(Exception):
    """The response did not end before the deadline."""


class Trickles(TooSlow):
    """The body arrives with less than MIN_BYTES_PER_S."""


@dataclass(frozen=True)
class Downloaded:
    """A 2xx response whose body was written to the caller's file."""

    #: Length of the body.
    size_bytes: int
    #: The Content-Type header as sent; empty if missing.
    content_type: str


class Writable(Protocol):
    """Where a download goes."""

    def write(self, chunk: bytes, /) -> object:
        """Take the next part of the body. What it raises ends the download."""


def is_public(address: str) -> bool:
    """Whether an IP address, in brackets or not, belongs to the public internet."""
    ip = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    return not any(ip.version == net.version and ip in net for net in _DENIED)


def names_inside_address(url: str, allow_origins: Collection[str] = ()) -> bool:
    """Whether the URL itself names a non-public address, as a number or as localhost; origins that are allowed do not.

    A host name may still resolve to one, which only a request finds out.
    """
    if any(f"{url.lower()}/".startswith(f"{origin.rstrip('/').lower()}/") for origin in allow_origins):
        return False
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        pass
    try:
        return not is_public(socket.inet_ntoa(socket.inet_aton(host)))  # other notations, such as 127.1
    except OSError:
        return False


class _HeadersInTime:
    """A connection whose headers must all arrive within the read time-out, which otherwise restarts at every byte."""

    def getresponse(self) -> Any:
        expired = threading.Event()
        sock, timeout = self.sock, self.timeout  # type: ignore[attr-defined]

        def cut() -> None:
            expired.set()
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket.shutdown would end the encryption first

        with after(timeout, cut):
            try:
                return super().getresponse()  # type: ignore[misc]
            finally:
                if expired.is_set():  # http.client takes truncated headers for complete ones
                    raise TimeoutError("the headers arrived too slowly")


class _HttpConnection(_HeadersInTime, HTTPConnection): ...


class HttpsConnection(_HeadersInTime, HTTPSConnection):
    """Base of connections with further checks of the certificate."""


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = HttpsConnection


class TimelyAdapter(HTTPAdapter):
    """Ends a call whose headers have not all arrived within the read time-out, and closes its connections when closed.

    urllib3 leaves idle connections open until nothing refers to their pool. A response does, and with it the traceback
    of an error that ended a download.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def close(self) -> None:
        pools = self.poolmanager.pools
        for pool in [pools[key] for key in pools.keys()]:  # noqa: SIM118  # it cannot be iterated
            pool.close()
        super().close()


class _PublicOnly(IPFilterAdapter, TimelyAdapter):  # type: ignore[misc]
    def build_connection_pool_key_attributes(self, request, verify, cert=None):  # type: ignore[no-untyped-def]
        host_params, pool_kwargs = super().build_connection_pool_key_attributes(request, verify, cert)
        if not is_public(host_params["host"]):
            raise InvalidIPAddress(host_params["host"])
        return host_params, pool_kwargs


class _Session(HTTPSession):  # type: ignore[misc]
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        # For a redirect, requests would read the whole body, decompressed, into memory, even if it does not follow.
        return None

    def next_url(self, response: requests.Response) -> str | None:
        """The URL that `response` redirects to. Raises ForbiddenUrl if it is malformed."""
        try:
            target = super().get_redirect_target(response)
            return None if target is None else urljoin(response.url, target)
        except ValueError as error:
            raise ForbiddenUrl("it redirects to a malformed URL") from error


def session(allow_origins: Collection[str] = ()) -> _Session:
    """A session for untrusted URLs that follows no redirects.

    `allow_origins`: `scheme://host[:port]` that may be non-public. Requests through the session raise
    `requests.RequestException`, of which `InvalidIPAddress` is a refused address.
    """
    config = Config(
        ip_filter_enable=True,
        ip_filter_allow_loopback_ips=False,
        never_redirect=True,
        default_timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        user_agent_override=USER_AGENT,
    )
    http = _Session(config)
    http.trust_env = False
    http.headers["Accept-Encoding"] = "identity"
    http.mount("http://", _PublicOnly(is_https_proto=False))  # type: ignore[call-arg]
    http.mount("https://", _PublicOnly(is_https_proto=True))  # type: ignore[call-arg]
    for origin in allow_origins:
        http.mount(f"{origin.rstrip('/').lower()}/", TimelyAdapter())
    return http


def download(
    url: str,
    into: Writable,
    *,
    max_bytes: int,
    deadline_s: float,
    allow_origins: Collection[str] = (),
    check: Callable[[], None] = lambda: None,
    expect: Callable[[int], None] = lambda size: None,
) -> Downloaded:
    """GET `url` and write its body, decompressed, to `into`: at most `max_bytes`, within `deadline_s` seconds in all.

    `check` is called before every chunk, `expect` with the size of the body where the server states it; an exception
    from either ends the download. Raises ForbiddenUrl, TooLarge, TooSlow or `requests.RequestException`: `HTTPError`
    (with its response) for a status other than 2xx, others when there was no response or the connection broke. After
    an exception the content of `into` is undefined.
    """
    body = _Body(into, max_bytes, time.monotonic() + deadline_s, check)
    try:
        with session(allow_origins) as http, _get(http, url, body.ends_at) as response:
            if not 200 <= response.status_code < 300:
                raise requests.HTTPError(f"status {response.status_code}", response=response)
            total = response.raw.length_remaining
            try:
                body.begin(total, expect, response.headers.get("Content-Encoding", ""))
                body.copy(response)
            except requests.ConnectionError:
                if not _resumed(http, response, body, total):
                    raise
            body.end()
            return Downloaded(body.written, response.headers.get("Content-Type", ""))
    except InvalidIPAddress as error:
        raise ForbiddenUrl("the address is not public") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        if time.monotonic() > body.ends_at:
            raise TooSlow from error
        raise


@dataclass(frozen=True)
class PostResponse:
    """A response whose body was not read."""

    #: HTTP status.
    status: int
    #: Its headers; names are case-insensitive.
    headers: Mapping[str, str]


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, allow_origins: Collection[str] = ()
) -> PostResponse:
    """POST `body` to `url` within `timeout_s` seconds, the look-up of the host included.

    The response's body is not read and redirects are returned, not followed. Raises ForbiddenUrl, TooSlow, or
    `requests.RequestException` when there was no response.
    """
    _check_form(url)
    # TCP and TLS may take half of the time each; the headers get what is left.
    limits = urllib3.Timeout(total=timeout_s, connect=timeout_s / 2)
    try:
        with (
            session(allow_origins) as http,
            http.post(url, data=body, headers=dict(headers), timeout=limits, stream=True) as response,
        ):
            return PostResponse(response.status_code, response.headers)
    except InvalidIPAddress as error:
        raise ForbiddenUrl("the address is not public") from error
    except requests.Timeout as error:
        raise TooSlow from error


def _get(http: _Session, url: str, ends_at: float) -> requests.Response:
    """The response after redirects, with its body unread."""
    for _ in range(MAX_REDIRECTS + 1):
        response = _request(http, url, ends_at)
        try:
            target = http.next_url(response)
        except ForbiddenUrl:
            response.close()
            raise
        if target is None:
            return response
        response.close()
        url = target
    raise ForbiddenUrl(f"more than {MAX_REDIRECTS} redirects")


def _request(http: _Session, url: str, ends_at: float, headers: Mapping[str, str] | None = None) -> requests.Response:
    _check_form(url)
    left = ends_at - time.monotonic()
    if left <= 0:
        raise TooSlow
    limits = (min(CONNECT_TIMEOUT_S, left), min(READ_TIMEOUT_S, left))
    response: requests.Response = http.get(url, headers=headers, stream=True, timeout=limits)
    return response


def _check_form(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ForbiddenUrl("the URL is malformed") from error
    if "\\" in parts.netloc:  # parsers disagree on where the host begins
        raise ForbiddenUrl("the URL is malformed")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ForbiddenUrl("only http and https are allowed")


class _Body:
    """A body in progress: `size` bytes have arrived, and `written` bytes been written to `into`."""

    def __init__(self, into: Writable, max_bytes: int, ends_at: float, check: Callable[[], None]) -> None:
        self.size, self.written, self.ends_at = 0, 0, ends_at
        self._into, self._max_bytes, self._check = into, max_bytes, check
        self._marked = 0  # `size` at the start of the window
        self._late: TooSlow | None = None
        self.decoder = Decoder("")

    def begin(self, total: int | None, expect: Callable[[int], None], coding: str) -> None:
        """Report the size if it is known. Raises TooLarge for a body that would be too large."""
        self.decoder = Decoder(coding)
        if total is not None:
            if total > self._max_bytes:
                raise TooLarge
            if not self.decoder.is_active:
                expect(total)

    def end(self) -> None:
        """Raise `requests.RequestException` if a compressed body ended early."""
        with _damage_as_response():
            self.decoder.end()

    def copy(self, response: requests.Response) -> None:
        """Append the body of `response`. Raises `requests.ConnectionError` when the connection breaks."""
        if self.size + (response.raw.length_remaining or 0) > self._max_bytes:
            raise TooLarge
        self._marked = self.size
        with after(self._window_s(), partial(self._check_pace, response.raw.shutdown)):
            while chunk := self._read(response):
                self.size += len(chunk)
                with _damage_as_response():
                    for piece in self.decoder.decoded(chunk):
                        self._write(piece)

    def _write(self, piece: bytes) -> None:
        self.written += len(piece)
        if self.written > self._max_bytes:
            raise TooLarge
        self._into.write(piece)

    def _read(self, response: requests.Response) -> bytes:
        self._check()
        try:
            chunk: bytes = response.raw.read1(CHUNK_BYTES, decode_content=False)  # returns as soon as it can
        except (urllib3.exceptions.HTTPError, ValueError) as error:  # as requests does in iter_content
            raise self._late or requests.ConnectionError("the connection broke during the download") from error
        if self._late:  # shutting the connection down looks like the end of the body
            raise self._late
        return chunk

    def _window_s(self) -> float:
        return max(0.0, min(self.ends_at - time.monotonic(), PACE_WINDOW_S))

    def _check_pace(self, shut: Callable[[], object]) -> float | None:
        """Shut the connection down if it is too slow. The reader cannot: an endless chunk header never ends a read."""
        if time.monotonic() >= self.ends_at:
            self._late = TooSlow()
        elif self.size - self._marked < MIN_BYTES_PER_S * PACE_WINDOW_S:
            self._late = Trickles()
        if self._late:
            shut()
            return None
        self._marked = self.size
        return self._window_s()


@contextmanager
def _damage_as_response() -> Iterator[None]:
    try:
        yield
    except Damaged as error:
        raise requests.exceptions.ContentDecodingError(str(error)) from error


def _resumed(http: _Session, broken: requests.Response, body: _Body, total: int | None) -> bool:
    """Download the remainder of a body whose connection broke. Returns whether the body is now complete.

    `total`: its size in bytes, if the server sent it. Only the same file from the same URL is accepted, no redirect.
    """
    etag = broken.headers.get("ETag", "")
    if broken.status_code != 200 or body.size == 0 or body.decoder.is_active or not _STRONG_ETAG.fullmatch(etag):
        return False
    range_headers = {"Range": f"bytes={body.size}-", "If-Range": etag}
    with _request(http, broken.url, body.ends_at, range_headers) as remainder:
        size = _whole_size(remainder, etag, body.size, total)
        if size is None:
            return False
        body.copy(remainder)
        return body.size == size


def _whole_size(remainder: requests.Response, etag: str, begin: int, total: int | None) -> int | None:
    """The total size if `remainder` holds exactly the bytes of the same file from `begin` to its end, else None."""
    content_range = _CONTENT_RANGE.fullmatch(remainder.headers.get("Content-Range", ""))
    parts = remainder.headers.get("Content-Type", "").lower().startswith("multipart/byteranges")
    if remainder.status_code != 206 or remainder.headers.get("ETag") != etag or content_range is None or parts:
        return None
    first, last, whole = content_range.groups()
    sizes = {size for size in (total, None if whole == "*" else int(whole)) if size is not None}
    size = int(last) + 1
    return size if int(first) == begin and sizes == {size} else None
