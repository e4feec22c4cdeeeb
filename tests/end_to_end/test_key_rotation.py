"""SECRET_KEY is rotated while a job is in flight, at every provider: nothing is lost, rented twice or locked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from scripts.stack import Stack
from tests.emulators import runpod, vast
from tests.end_to_end.conftest import MakeClient, MakeStack, encoding, ended
from tests.servers import FileServer

pytestmark = pytest.mark.slow

OLD, NEW = "old-secret-key-0123456789-0123456789", "new-secret-key-0123456789-0123456789"


@pytest.fixture
def start(make_stack: MakeStack, sample_files: FileServer) -> Iterator[Callable[[str], tuple[Stack, Any]]]:
    """Start a stack with one provider; also returns the stand-in for its cloud, if it has one."""
    with ExitStack() as opened:

        def run(provider: str) -> tuple[Stack, Any]:
            stack = make_stack(PROVIDERS=provider, SECRET_KEY=OLD)
            env = {"FETCH_ALLOW_ORIGINS": f"{stack.url},{sample_files.origin}"}
            cloud: Any = None
            if provider == "runpod":
                cloud = opened.enter_context(runpod.Emulator(runpod.Config(env=env)))
            if provider == "vast":
                cloud = opened.enter_context(vast.Emulator(vast.Config(env=env, boot_s=1)))
            stack.environ = {**stack.environ, **(cloud.gateway_environ if cloud else {}), "PROVIDERS": provider}
            return opened.enter_context(stack), cloud

        yield run


@pytest.mark.parametrize("provider", ["local", "runpod", "vast"])
def test_a_job_in_flight_and_the_next_one_are_completed(
    start: Callable[[str], tuple[Stack, Any]], provider: str, sample_files: FileServer, client: MakeClient
) -> None:
    stack, cloud = start(provider)
    api = client(stack)
    job = encoding(api, sample_files)

    stack.stop("gateway")
    stack.environ = {**stack.environ, "SECRET_KEY": f"{NEW},{OLD}"}
    stack.start_gateway()
    stack.wait_ready()

    done = ended(api, job, 120)
    assert (done["status"], done["stats"]["tries"]) == ("completed", 1)
    api.download(done["video_url"], stack.data_dir / "made.mp4")
    after = api.submit("img2vid", {"url_image": sample_files.url("/photo.jpg"), "duration": 0.5})
    assert ended(api, after, 120)["status"] == "completed"
    if provider == "vast":
        assert cloud.bill()["created"] == 1, "the machine from before the rotation did both"
