"""A job whose files never touch the gateway's disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from scripts.client import Client
from scripts.stack import Stack
from tests.end_to_end.conftest import MakeStack, ended
from tests.s3 import BUCKET, KEY, s3_server

pytestmark = pytest.mark.slow


def test_upload_and_output_lie_in_s3(
    make_stack: MakeStack, client: Callable[[Stack], Client], samples: Path, tmp_path: Path
) -> None:
    with s3_server() as origin:
        s3 = {"S3_BUCKET": BUCKET, "S3_ENDPOINT_URL": origin, "S3_ACCESS_KEY_ID": KEY, "S3_SECRET_ACCESS_KEY": KEY}
        with make_stack(STORAGE="s3", S3_PREFIX="reelay/", FETCH_ALLOW_ORIGINS=origin, **s3) as stack:
            api = client(stack)
            photo = api.upload(samples / "photo.jpg")
            assert photo.startswith(f"{origin}/{BUCKET}/reelay/uploads/key_")
            job = ended(api, api.submit("img2vid", {"url_image": photo, "duration": 0.5}))
            assert job["status"] == "completed", job
            assert job["video_url"].startswith(f"{origin}/{BUCKET}/reelay/outputs/{job['jobId']}/att_")
            api.download(job["video_url"], tmp_path / "video.mp4")
            video = (tmp_path / "video.mp4").read_bytes()
            assert (len(video), video[4:8]) == (job["stats"]["size_bytes"], b"ftyp")
            assert requests.get(f"{job['video_url']}0", timeout=10).status_code == 403
        assert not [path for path in (stack.data_dir / "files").rglob("*") if path.is_file()]
