"""Connects the two processes of a gateway: the one that serves HTTP, and the dispatcher's.

Either may be restarted at any time: the link is made before they are forked, and no promise depends on it. A job is
also found without a wake-up, and its end without a notice.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

# Maximum number of unsent notices, and of those that are sent at once.
UNSENT, AT_ONCE = 10_000, 100
_RECEIVE_BYTES = 4096


class Link:
    """Wake-ups for the dispatcher, and notices for the serving process: a kind, and facts that JSON can express."""

    def __init__(self) -> None:
        self._serving, self._dispatching = socket.socketpair()
        self._unsent: queue.Queue[tuple[Any, ...]] = queue.Queue(UNSENT)

    def wake(self) -> None:
        """Wake the dispatcher. Never waits. In the serving process."""
        with suppress(BlockingIOError):  # it has not even taken earlier ones
            self._serving.send(b"\n", socket.MSG_DONTWAIT)

    def serve(self, take: Mapping[str, Callable[..., object]]) -> None:
        """From now on, call the function for its kind with the facts of each notice. In the serving process."""
        threading.Thread(target=self._take, args=(take,), name="link", daemon=True).start()

    def dispatch(self, woken: Callable[[], object]) -> None:
        """From now on, send the notices, and call `woken` after every wake-up. In the dispatcher's process."""
        threading.Thread(target=self._send, name="link-send", daemon=True).start()
        threading.Thread(target=self._wait, args=(woken,), name="link-wait", daemon=True).start()

    def notify(self, kind: str, *facts: Any) -> None:
        """Send a notice soon; it is lost if the serving process does not take any. In the dispatcher's process."""
        with suppress(queue.Full):
            self._unsent.put_nowait((kind, *facts))

    def _wait(self, woken: Callable[[], object]) -> None:
        while self._dispatching.recv(_RECEIVE_BYTES):  # many wake-ups at once
            woken()

    def _send(self) -> None:
        while True:
            notices = [self._unsent.get()]
            with suppress(queue.Empty):
                while len(notices) < AT_ONCE:
                    notices.append(self._unsent.get_nowait())
            # On lines of their own: either process may have been killed in the middle of the line before.
            self._dispatching.sendall(b"\n" + json.dumps(notices).encode() + b"\n")

    def _take(self, take: Mapping[str, Callable[..., object]]) -> None:
        with self._serving.makefile("rb") as lines:
            for line in lines:
                with suppress(ValueError):  # part of a line
                    for kind, *facts in json.loads(line):
                        take[kind](*facts)
