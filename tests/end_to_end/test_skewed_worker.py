"""A worker whose clock is a day off, in both directions: its events, uploads and signed URLs work as ever."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripts.stack import Stack
from tests.conftest import ROOT
from tests.emulators import runpod, vast
from tests.end_to_end.conftest import MakeClient, MakeStack, ended
from tests.servers import FileServer

pytestmark = pytest.mark.slow

DAY_S = 86_400
SKEWED = str(Path(__file__).parent / "skewed")


@pytest.mark.parametrize("skew_s", [DAY_S, -DAY_S], ids=["ahead", "behind"])
@pytest.mark.parametrize("provider", ["local", "runpod", "vast"])
def test_a_worker_whose_clock_is_a_day_off_completes_its_jobs(
    make_stack: MakeStack,
    sample_files: FileServer,
    client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    skew_s: int,
) -> None:
    wrong = {"PYTHONPATH": f"{SKEWED}:{ROOT}", "SKEW_S": str(skew_s)}
    start = Stack._start

    def start_skewed(self: Stack, name: str, module: str, environ: Mapping[str, str]) -> None:
        start(self, name, module, {**environ, **wrong} if name == "worker" else environ)

    monkeypatch.setattr(Stack, "_start", start_skewed)
    stack = make_stack(PROVIDERS=provider)
    env = {"FETCH_ALLOW_ORIGINS": f"{stack.url},{sample_files.origin}", **wrong}
    cloud: Any = None
    with ExitStack() as opened:
        if provider == "runpod":
            cloud = opened.enter_context(runpod.Emulator(runpod.Config(env=env)))
        if provider == "vast":
            cloud = opened.enter_context(vast.Emulator(vast.Config(env=env, boot_s=1)))
        stack.environ = {**stack.environ, **(cloud.gateway_environ if cloud else {}), "PROVIDERS": provider}
        opened.enter_context(stack)
        api = client(stack)
        uploaded = api.upload(ROOT / "samples/photo.jpg")
        for _ in range(2):
            done = ended(api, api.submit("img2vid", {"url_image": uploaded, "duration": 0.5}), 120)
            assert (done["status"], done["stats"]["tries"]) == ("completed", 1), done
            assert done["createdAt"] <= done["startedAt"] <= done["finishedAt"]
            api.download(done["video_url"], stack.data_dir / "made.mp4")
        if provider == "vast":
            assert cloud.bill()["created"] == 1, "its dead-man switch does not take the day for silence"
        if provider == "local":
            logged = json.loads((stack.log_dir / "worker.log").read_text().splitlines()[-1])["timestamp"]
            assert (logged > done["finishedAt"]) == (skew_s > 0), "its clock is wrong indeed"
            assert logged[:10] != done["finishedAt"][:10]
