"""What providers report of an attempt in tests of the dispatcher."""

from __future__ import annotations

from gateway.providers.base import Phase, Remote
from tests.gateway.conftest import RESULT

WAITING = Remote(Phase.WAITING, reason="no GPU is free")
RUNNING = Remote(Phase.RUNNING, progress=0.5)
COMPLETED = Remote(Phase.COMPLETED, result=RESULT)
GONE = Remote(Phase.GONE)
