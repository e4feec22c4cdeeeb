"""Links copied from a browser, which open a web page: made direct where that is possible, explained where it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit, urlunsplit

NOT_A_FILE = "the URL returned a web page, not a file."

_DRIVE = (
    "Google Drive sends a file only if it is shared with anyone who has the link, not to people who must log in, and"
    " not a whole folder: change who may see it, or upload the file with POST /files and use the URL that it returns."
)
_DROPBOX = "Dropbox sends a file only if anyone with the link may see it, and not a whole folder."
_ONEDRIVE = "A direct link to a file on OneDrive or SharePoint that anyone may see has download=1 in its query."
_NONE = "{} has no direct links: download the file and host it where it is served unchanged."
# Hints by host, for its subdomains too.
_HINTS = {
    **dict.fromkeys(("drive.google.com", "docs.google.com", "drive.usercontent.google.com"), _DRIVE),
    "dropbox.com": _DROPBOX,
    **dict.fromkeys(("onedrive.live.com", "1drv.ms", "sharepoint.com"), _ONEDRIVE),
    "github.com": "A direct link to a file on GitHub is the one behind its Raw button.",
    **dict.fromkeys(("wetransfer.com", "we.tl"), _NONE.format("WeTransfer")),
    **dict.fromkeys(("photos.google.com", "photos.app.goo.gl"), _NONE.format("Google Photos")),
    "icloud.com": _NONE.format("iCloud"),
    **dict.fromkeys(("youtube.com", "youtu.be"), _NONE.format("YouTube")),
    "vimeo.com": _NONE.format("Vimeo"),
    "tiktok.com": _NONE.format("TikTok"),
    "instagram.com": _NONE.format("Instagram"),
    **dict.fromkeys(("facebook.com", "fb.watch"), _NONE.format("Facebook")),
    **dict.fromkeys(("x.com", "twitter.com"), _NONE.format("X")),
}


_DRIVE_FILE = re.compile(r"/file/(?:u/\d+/)?d/([\w-]+)")


def direct(url: str) -> str:
    """The direct link to the file that a share link of Google Drive or Dropbox shows. Other URLs stay as they are."""
    parts = urlsplit(url)
    match (parts.hostname or "").removeprefix("www."):
        case "drive.google.com" | "docs.google.com" | "drive.usercontent.google.com":
            return _direct_from_drive(url)
        case "dropbox.com" if re.match(r"/(s|scl/fi)/", parts.path):
            query = [(name, value) for name, value in parse_qsl(parts.query, True) if name not in {"dl", "raw"}]
            return urlunsplit(parts._replace(query=urlencode([*query, ("dl", "1")])))
    return url


def _direct_from_drive(url: str) -> str:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    in_path = _DRIVE_FILE.match(parts.path)
    if in_path is None and parts.path not in {"/open", "/uc", "/download"}:
        return url
    file_id = in_path[1] if in_path else query.get("id", [""])[0]
    key = "".join(f"&resourcekey={quote(key)}" for key in query.get("resourcekey", [])[:1])
    if not file_id:
        return url
    # `confirm`: without it a page asks about files that are too large to be scanned.
    return f"https://drive.usercontent.google.com/download?id={quote(file_id)}&export=download&confirm=t{key}"


def explain(url: str) -> str:
    """The error message for a URL that returned a page, with a hint for known services. Contains no part of the URL."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    hint = next((_HINTS[name] for name in _with_parents(host) if name in _HINTS), None)
    return f"{NOT_A_FILE} {hint}" if hint else NOT_A_FILE


def _with_parents(host: str) -> Iterator[str]:
    """`www.dropbox.com`, `dropbox.com`, `com`."""
    while host:
        yield host
        host = host.partition(".")[2]
