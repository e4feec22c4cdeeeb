"""Calls of a provider's API keep to their deadline."""

from __future__ import annotations

import pytest
import requests

from gateway.providers import http
from tests.servers import FileServer, Reply


@pytest.mark.parametrize("late", [Reply(pause_s=0.3), Reply(body=b"{}", pause_s=0.3), Reply(body=b"{}", trickle_s=0.2)])
def test_an_answer_that_comes_late_is_none(files: FileServer, late: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_S", 0.2)
    files.routes["/"] = late
    with pytest.raises(requests.ReadTimeout):
        http.Api(files.origin, {}, keep_alive=False).call("GET", "/")
