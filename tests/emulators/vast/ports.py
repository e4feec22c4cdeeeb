"""Port mappings of the hosts: ports that forward to another port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from typing import Any

CHUNK = 65536


class MappedPort:
    """One mapped port. Without a listening target, connections are accepted and reset."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.target: int | None = None
        self._pipes: set[asyncio.Task[Any]] = set()
        self._hole: list[socket.socket] = []
        self._server = ports.do(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def move(self) -> None:
        """Map the target to another port, and close the old one."""
        self.close()
        self._server = self._ports.do(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]

    def black_hole(self) -> None:
        """Make the port swallow connections, which are neither accepted nor refused."""
        self.close()
        hole = socket.socket()
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        hole.bind(("127.0.0.1", self.port))
        hole.listen(0)
        self._hole = [hole]
        for _ in range(3):  # fill the queue: the system drops further connections
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))
            self._hole.append(filler)

    def close(self) -> None:
        for one in self._hole:
            one.close()
        self._hole = []
        self._ports.do(self._close())

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._pipes):
            task.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pipes.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            if self.target is not None:
                back, there = await asyncio.open_connection("127.0.0.1", self.target)
                await asyncio.gather(_pipe(reader, there), _pipe(back, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pipes.discard(task)
            for one in filter(None, (writer, there)):
                if task.cancelling() or there is None:
                    one.transport.abort()
                else:
                    one.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


class Ports:
    """The thread that runs all mappings."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ports", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.do(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, task: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(10)

    async def _settle(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)
