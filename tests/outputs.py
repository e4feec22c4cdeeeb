"""The outputs of the operations that make one video."""

from __future__ import annotations

from gateway.domain.attempts import Attempt
from gateway.domain.outputs import Output


def video_key(attempt: Attempt) -> str:
    """Where the attempt stores its video."""
    return attempt.output_key("video", Output("mp4"))


def stored_video(attempt: Attempt, size_bytes: int = 5) -> dict[str, Output]:
    """The outputs of a job that this attempt has completed."""
    return {"video": Output("mp4", video_key(attempt), size_bytes)}
