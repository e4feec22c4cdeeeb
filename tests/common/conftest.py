"""Servers for the tests of `common.safe_http`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.servers import FileServer, RawServer, file_server

StartRaw = Callable[..., RawServer]


@pytest.fixture(scope="module")
def module_server() -> Iterator[FileServer]:
    with file_server() as server:
        yield server


@pytest.fixture
def files(module_server: FileServer) -> FileServer:
    """One server for all tests of a module, because closing a server takes longer than most of them."""
    module_server.routes.clear()
    module_server.requests.clear()
    return module_server


@pytest.fixture
def raw() -> Iterator[StartRaw]:
    """Starts RawServers."""
    with ExitStack() as stack:
        yield lambda *responses, **more: stack.enter_context(closing(RawServer(*responses, **more)))
