"""A network namespace for tests of host names that change their address; `in_a_world` runs this file in it.

Public and private addresses all belong to this machine and lead to one server, which records by which of them it was
called. The C library asks a name server whose answers change.
"""

from __future__ import annotations

import fcntl
import io
import json
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PUBLIC, SECOND = "93.184.216.34", "93.184.216.35"
INSIDE = ("10.0.0.1", "169.254.169.254", "100.100.100.200", "192.168.0.1")
BODY = b"x" * 100_000
ETAG = '"v1"'
TTL_S = 0

# Name → the addresses of each answer in turn, the last one repeatedly. A leading number makes names unique.
ANSWERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "public": ((PUBLIC,),),
    "inside": (("127.0.0.1",),),
    **{f"flips-to-{address.replace('.', '-')}": ((PUBLIC,), (address,)) for address in ("127.0.0.1", *INSIDE)},
    "flips-later": ((PUBLIC,), (PUBLIC,), ("127.0.0.1",)),
    "flips-back": ((PUBLIC,), ("127.0.0.1",), (PUBLIC,), ("10.0.0.1",), (PUBLIC,)),
    "both": ((PUBLIC, "127.0.0.1"),),
    "both-turned": (("127.0.0.1", PUBLIC), (PUBLIC, "127.0.0.1")),
    "both-flip": ((PUBLIC, SECOND), ("127.0.0.1", "10.0.0.1")),
    "six": (("::ffff:127.0.0.1",), ("::1",)),
    "six-later": ((PUBLIC,), ("::1",)),
    "six-as-well": ((PUBLIC, "::1"), ("::1", PUBLIC)),
    "mapped": ((PUBLIC, "::ffff:10.0.0.1"),),
}


def in_a_world() -> dict[str, Any]:
    """The output of `main`. Raises LookupError if no such namespace can be created."""
    if shutil.which("unshare") is None or sys.platform != "linux":
        raise LookupError("no unshare here")
    with tempfile.NamedTemporaryFile("w") as conf:
        conf.write("nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")
        conf.flush()
        shell = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        world = ["unshare", "--map-root-user", "--mount", "--net", "sh", "-c", shell, conf.name]
        done = subprocess.run(
            [*world, sys.executable, "-m", "tests.common.rebinding"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    if done.returncode and "Traceback" not in done.stderr:
        raise LookupError(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def main() -> None:
    """Prints `{trap, looks, dialled, called, outcomes}`."""
    _set_addresses()
    names = Names()
    web = Web(("0.0.0.0", 80), Page)
    for server in (names, web):
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        trap = _trap(web)
    except OSError as error:
        sys.exit(f"names are not resolved by our server: {error}")
    names.asked.clear()
    web.called.clear()
    dialled: list[str] = []
    sys.addaudithook(lambda event, args: dialled.append(args[1][0]) if event == "socket.connect" else None)
    outcomes = _every_way()
    print(json.dumps({"trap": trap, "looks": names.asked, "dialled": Counter(dialled), "called": web.called, "outcomes": outcomes}))  # fmt: skip


def _set_addresses() -> None:
    set_address, set_flags, up = 0x8916, 0x8914, 0x41  # of linux/sockios.h and linux/if.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, set_flags, struct.pack("16sH14x", b"lo", up))
        for number, address in enumerate((PUBLIC, SECOND, *INSIDE)):
            of = (f"lo:{number}".encode(), socket.AF_INET, socket.inet_aton(address))
            fcntl.ioctl(control, set_address, struct.pack("16sH2x4s8x", *of))


def _trap(web: Web) -> list[str]:
    """The addresses that a client sees that checks a name and then calls it: the trap works."""
    import requests

    name = "0.flips-to-127-0-0-1.test"
    seen = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)[0][4][0]
    requests.get(f"http://{name}/file", timeout=5).close()
    return [str(seen), *web.called]


def _every_way() -> dict[str, str]:
    from common.safe_http import download, post

    def direct(host: str) -> None:
        download(f"http://{host}/file", io.BytesIO(), max_bytes=10**6, deadline_s=10)

    def twice(host: str) -> None:
        direct(host)
        direct(host)

    def redirected(host: str) -> None:
        download(f"http://public.test/to/{host}/file", io.BytesIO(), max_bytes=10**6, deadline_s=10)

    def to_itself(host: str) -> None:
        download(f"http://{host}/to/{host}/to/{host}/file", io.BytesIO(), max_bytes=10**6, deadline_s=10)

    def resumed(host: str) -> None:
        download(f"http://{host}/broken", io.BytesIO(), max_bytes=10**6, deadline_s=10)

    def posted(host: str) -> None:
        post(f"http://{host}/file", b"{}", {}, timeout_s=10)

    ways: tuple[Callable[[str], None], ...] = (direct, twice, redirected, to_itself, resumed, posted)
    outcomes = {}
    for number, way in enumerate(ways, 1):
        for name in ANSWERS:
            try:
                way(f"{number}.{name}.test")
                outcome = "fine"
            except Exception as error:
                outcome = type(error).__name__
            outcomes[f"{way.__name__} {name}"] = outcome
    return outcomes


class Names(socketserver.ThreadingUDPServer):
    """Answers for `<number>.<name of ANSWERS>.test`, separately for each address family."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 53), Asked)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()


class Asked(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        import dns.message
        import dns.rdatatype
        import dns.rrset

        data, sock = self.request
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        answer = dns.message.make_response(query)
        turns = ANSWERS.get(name.removesuffix(".test.").rpartition(".")[2], ())
        assert isinstance(self.server, Names)
        with self.server.lock:
            turn = self.server.asked[f"{name} {kind}"]
            self.server.asked[f"{name} {kind}"] += 1
        of_kind = [a for a in turns[min(turn, len(turns) - 1)] if (":" in a) == (kind == "AAAA")] if turns else []
        if of_kind and kind in {"A", "AAAA"}:
            answer.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", kind, *of_kind))
        sock.sendto(answer.to_wire(), self.client_address)


class Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.called: Counter[str] = Counter()


class Page(BaseHTTPRequestHandler):
    """`/to/<host>/<path>` redirects, `/file` is complete, `/broken` breaks off and can be resumed."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Web)
        self.server.called[str(self.connection.getsockname()[0])] += 1
        if self.path.startswith("/to/"):
            host, _, rest = self.path.removeprefix("/to/").partition("/")
            self._send(302, b"", Location=f"http://{host}/{rest}")
        elif self.path == "/broken" and "Range" not in self.headers:
            self._send(200, BODY[:50_000], ETag=ETAG)
        elif self.path == "/broken":
            self._send(206, BODY[50_000:], ETag=ETAG, **{"Content-Range": f"bytes 50000-99999/{len(BODY)}"})
        else:
            self._send(200, BODY)

    do_POST = do_GET

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        whole = {200: len(BODY), 302: 0}.get(status, len(body))
        self.send_header("Content-Length", str(whole))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


if __name__ == "__main__":
    main()
