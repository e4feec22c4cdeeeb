"""The documentation as Markdown: the pages of `docs/`, and `/llms.txt`, an overview in the form of llmstxt.org."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from posixpath import normpath

from ffmpeg_ops.operation import OPERATIONS

#: The folder with `docs/` and `samples/`, in a checkout and in the image alike.
ROOT = Path(__file__).parents[2]
#: File in `samples/` → what it is.
SAMPLES: Mapping[str, str] = {
    "photo.jpg": "a photograph of a raccoon, 1024x768",
    "video.mp4": "an animated rabbit, 5.28 s, 1280x720, 25 fps, with sound",
    "narration.mp3": "an English voice that describes the video, 5.26 s",
    "music.mp3": "quiet music, 8 s",
    "captions.en.srt": "English captions for the video",
    "legendas.pt.srt": "the same in Brazilian Portuguese",
}
# For clients; the other pages are for operators and contributors.
_FOR_CLIENTS = ("docs/api.md", "docs/compose.md")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_OVERVIEW = """\
# Reelay

> HTTP API that makes short videos with FFmpeg: send the URLs of media, get the URL of the finished file. Jobs run on
> workers with GPUs that exist only while there is work.

- The base URL is {base}. Every request needs an API key, as the header `X-API-Key` or as `Authorization: Bearer`.
- `POST /video/<operation>` with JSON returns a job. With the header `Prefer: wait=60` the response is held until the
  job has ended, for 60 s at most; otherwise poll the job's `statusUrl`, or give a `webhook_url`.
- Files are given as public URLs. Send a local file as the body of `POST /files`, and use the URL that it returns.
- `?validate=true` checks a request without making a job. `?strict=true` makes a job that failed an error.
- Errors are JSON with a `code`; `{base}/errors/<code>` says what it means and what to do.

## API

- [HTTP API]({base}/docs/api.md): every operation, field, limit and error
- [Films]({base}/docs/compose.md): how `compose` makes a film out of scenes
- [OpenAPI document]({base}/openapi.json): the same for programs
- [Page to try the API]({base}/docs/): for people, in a browser

## Operations

{operations}

## Samples

{samples}
- [Sources and licences]({base}/samples/README.md)

## Optional

{others}
"""


def pages() -> dict[str, str]:
    """Path → text of every page that is served. Links to files that are not served become plain text."""
    paths = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "samples" / "README.md"]
    found = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {path: _LINK.sub(partial(_link, path, found), text) for path, text in found.items()}


def _link(path: str, served: Mapping[str, str], link: re.Match[str]) -> str:
    leads = "://" in link[2] or normpath(PurePosixPath(path).parent / link[2]) in served
    return link[0] if leads else link[1]


def llms_txt(base: str) -> str:
    """The overview, with absolute URLs below `base`."""
    operations = [f"- [{op.name}]({base}/docs/api.md#{op.name.lower()}): {op.summary}" for op in OPERATIONS.values()]
    samples = [f"- [{name}]({base}/samples/{name}): {text}" for name, text in SAMPLES.items()]
    others = [
        f"- [{text.splitlines()[0].removeprefix('# ')}]({base}/{path})"
        for path, text in pages().items()
        if path.startswith("docs/") and path not in _FOR_CLIENTS
    ]
    lists = {"operations": operations, "samples": samples, "others": others}
    return _OVERVIEW.format(base=base, **{name: "\n".join(lines) for name, lines in lists.items()})
