"""Wake-ups and notices between the two processes of a gateway."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.dispatch import link as link_module
from gateway.dispatch.link import Link


@contextmanager
def open_link() -> Iterator[Link]:
    """A link whose threads end with the block."""
    link = Link()
    yield link
    ends = link._serving, link._dispatching
    for end in ends:
        end.shutdown(socket.SHUT_RDWR)
    for thread in threading.enumerate():
        if thread.name in {"link", "link-wait"}:
            thread.join()
    for end in ends:
        end.close()


@pytest.fixture
def link() -> Iterator[Link]:
    with open_link() as link:
        yield link


def test_a_wake_up_arrives(link: Link) -> None:
    woken = threading.Event()
    link.dispatch(woken.set)
    link.wake()
    assert woken.wait(30)


def test_wake_ups_that_nobody_takes_are_one(link: Link) -> None:
    """The dispatcher's process may be down; no request waits for it."""
    for _ in range(100_000):
        link.wake()
    woken = queue.SimpleQueue[None]()
    link.dispatch(lambda: woken.put(None))
    woken.get(timeout=30)


def test_notices_arrive_in_order(link: Link) -> None:
    taken = queue.SimpleQueue[object]()
    link.dispatch(lambda: None)
    for number in range(250):
        link.notify("counted", "a", ["x"], number)
    link.notify("ended", "job_1")
    link.serve({"counted": lambda *facts: taken.put(facts), "ended": taken.put})
    assert [taken.get(timeout=30) for _ in range(250)] == [("a", ["x"], number) for number in range(250)]
    assert taken.get(timeout=30) == "job_1"


@pytest.mark.parametrize("left", [b'\n[["ended", "jo', b'd", "job_0"]]\n', b"\n\n"])
def test_what_a_killed_process_has_left_is_skipped(link: Link, left: bytes) -> None:
    """Either half of a line: the writer or the reader of the other was killed."""
    link._dispatching.sendall(left)
    taken = queue.SimpleQueue[object]()
    link.serve({"ended": taken.put})
    link.dispatch(lambda: None)
    link.notify("ended", "job_1")
    assert taken.get(timeout=30) == "job_1"


def test_notices_that_nobody_takes_are_bounded(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "UNSENT", 3)
    with open_link() as small:
        for number in range(10):
            small.notify("ended", str(number))
        assert small._unsent.qsize() == 3
