"""Transactions that write, and group commit: writers that come while another one writes share the next commit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from gateway.db.engine import BUSY_S, WRITES
from gateway.db.transaction import Transaction

T = TypeVar("T")
# The database as a whole does not work, whatever it was asked.
_OUT_OF_ORDER = sa.exc.OperationalError, sa.exc.TimeoutError, sa.exc.DisconnectionError


@dataclass(eq=False)
class _Write:
    """One caller's share of a commit."""

    #: Called once in the transaction, with the items of all callers that want the same done; returns a result for each.
    do: Callable[[Transaction, list[Any]], Sequence[Any]]
    item: Any
    #: Whether this caller's thread is the one that writes.
    leads: bool = False
    #: Set when it has been done, or when its thread is to lead.
    woken: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class GroupCommit:
    """Safe to share between threads. On PostgreSQL, which takes many writers at once, each commits alone."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._write_lock = threading.Lock() if engine.dialect.name == "sqlite" else None
        # Those that wait to be written, and whether one of them is about to lead.
        self._arrived: deque[_Write] = deque()
        self._led, self._line = False, threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that may write; committed when the block ends well, undone when it raises."""
        with self._turn(), self._writing() as connection:
            yield Transaction(connection)

    def together(self, work: Callable[[Transaction], T]) -> T:
        """Return what `work` returns inside a transaction, once that is committed.

        When one of those that share a commit raises, all are undone and each is done again alone: `work` only reads
        and writes there.
        """
        result: T = self.share(_each, work)
        return result

    def share(self, do: Callable[[Transaction, list[Any]], Sequence[Any]], item: Any) -> Any:
        """As `together`, for many items of one kind that are cheaper to write in one statement."""
        mine = _Write(do, item)
        if self._write_lock is None:
            self._carry_out([mine])
        else:
            with self._line:
                self._arrived.append(mine)
                mine.leads, self._led = not self._led, True
            if not mine.leads:
                mine.woken.wait()
            if mine.leads:
                self._lead()
        if mine.error is not None:
            raise mine.error
        return mine.result

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            connection.info[WRITES] = True
            with connection.begin():
                yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite's own queue of writers is unfair; one lock in front of it is not. Raises sqlalchemy's TimeoutError."""
        if self._write_lock is None:
            yield
            return
        if not self._write_lock.acquire(timeout=BUSY_S):
            raise sa.exc.TimeoutError(f"another thread has been writing for {BUSY_S} s")
        try:
            yield
        finally:
            self._write_lock.release()

    def _lead(self) -> None:
        """Commit the batch, then hand leadership to the first waiter. The batch's own threads wait for no lock."""
        batch: list[_Write] = []
        try:
            with self._turn():
                batch = self._take_arrived()
                self._carry_out(batch)
        except BaseException as error:
            # A job whose client is told that it was not taken must not be written later.
            batch = batch or self._take_arrived()
            for write in batch:
                write.error = error
        finally:
            with self._line:
                heir = self._arrived[0] if self._arrived else None
                self._led = heir is not None
            for write in batch:
                write.woken.set()
            if heir is not None:
                heir.leads = True
                heir.woken.set()

    def _take_arrived(self) -> list[_Write]:
        with self._line:
            batch = list(self._arrived)
            self._arrived.clear()
            return batch

    def _carry_out(self, batch: list[_Write]) -> None:
        try:
            with self._writing() as connection:
                for do in dict.fromkeys(write.do for write in batch):
                    alike = [write for write in batch if write.do is do]
                    results = do(Transaction(connection), [write.item for write in alike])
                    for write, result in zip(alike, results, strict=True):
                        write.result = result
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, _OUT_OF_ORDER):
                for one in batch:  # only one of them is to blame
                    self._carry_out([one])
                return
            for write in batch:
                write.error = error


def _each(tx: Transaction, works: list[Callable[[Transaction], Any]]) -> list[Any]:
    return [work(tx) for work in works]
