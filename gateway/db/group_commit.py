"""Transactions that write, and group commit: writers that arrive during a write share the next commit."""

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
# Failures of the database as a whole, not of one statement.
_DATABASE_FAILED = sa.exc.OperationalError, sa.exc.TimeoutError, sa.exc.DisconnectionError


@dataclass(eq=False)
class _Write:
    """One caller's share of a commit."""

    #: Called once per transaction with the items of all callers that passed it; returns one result per item.
    do: Callable[[Transaction, list[Any]], Sequence[Any]]
    item: Any
    #: Whether this caller's thread writes the batch.
    leads: bool = False
    #: Set when the write is done, or when its thread must lead.
    woken: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class GroupCommit:
    """Runs writing transactions. On PostgreSQL, which has concurrent writers, each commits alone. Thread-safe."""

    def __init__(self, engine: sa.Engine, make_room: Callable[[Exception], bool] = lambda _: False) -> None:
        # Called with an error of the database; returns whether the disk was full and has some room now.
        self._engine, self._make_room = engine, make_room
        self._write_lock = threading.Lock() if engine.dialect.name == "sqlite" else None
        # Waiting writes, and whether one thread leads or is about to.
        self._arrived: deque[_Write] = deque()
        self._led, self._line = False, threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction that may write. Committed at the end of the block, rolled back if the block raises."""
        try:
            with self._turn(), self._writing() as connection:
                yield Transaction(connection)
        except sa.exc.DBAPIError as error:
            self._make_room(error)  # the caller cannot be run again, but will try again
            raise

    def together(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction shared with other callers, and return its result after the commit.

        If one of them raises, the transaction is rolled back and each is run again on its own. If the disk is full, all
        are run again with the space that is kept for this. So `work` may have no effects outside its transaction.
        """
        result: T = self.share(_each, work)
        return result

    def share(self, do: Callable[[Transaction, list[Any]], Sequence[Any]], item: Any) -> Any:
        """Like `together`, for items of one kind that are cheaper to write in one statement."""
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
        """Queue this process's writers here: SQLite's own queue is unfair. Raises sqlalchemy's TimeoutError."""
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
        """Commit the batch, then hand leadership to the first waiter."""
        batch: list[_Write] = []
        try:
            with self._turn():
                batch = self._take_arrived()
                self._carry_out(batch)
        except BaseException as error:
            # All of them fail: a job that its client was told is refused must not be written later.
            batch = batch or self._take_arrived()
            for write in batch:
                write.error = error
        finally:
            with self._line:
                successor = self._arrived[0] if self._arrived else None
                self._led = successor is not None
            for write in batch:
                write.woken.set()
            if successor is not None:
                successor.leads = True
                successor.woken.set()

    def _take_arrived(self) -> list[_Write]:
        with self._line:
            batch = list(self._arrived)
            self._arrived.clear()
            return batch

    def _carry_out(self, batch: list[_Write], *, again: bool = True) -> None:
        try:
            with self._writing() as connection:
                for do in dict.fromkeys(write.do for write in batch):
                    alike = [write for write in batch if write.do is do]
                    results = do(Transaction(connection), [write.item for write in alike])
                    for write, result in zip(alike, results, strict=True):
                        write.result = result
        except Exception as error:
            if again and self._make_room(error):
                # New jobs must not take the space that is kept for ending others.
                alike = [write for write in batch if write.do is _each]
                if alike:
                    self._carry_out(alike, again=False)
                for write in batch:
                    write.error = write.error if write.do is _each else error
                return
            if len(batch) > 1 and not isinstance(error, _DATABASE_FAILED):
                for one in batch:  # only one of them caused the error
                    self._carry_out([one])
                return
            for write in batch:
                write.error = error


def _each(tx: Transaction, works: list[Callable[[Transaction], Any]]) -> list[Any]:
    return [work(tx) for work in works]
