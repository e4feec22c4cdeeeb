"""Explains links copied from a browser, which open a web page instead of the file it shows."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

NOT_A_FILE = "the URL returned a web page, not a file."

_DRIVE = (
    "A direct link to a file on Google Drive is https://drive.google.com/uc?export=download&id=FILE_ID, for files that"
    " anyone with the link may see; over 100 MB it is"
    " https://drive.usercontent.google.com/download?export=download&confirm=t&id=FILE_ID."
)
_ONEDRIVE = "A direct link to a file on OneDrive or SharePoint that anyone may see has download=1 in its query."
_NONE = "{} has no direct links: download the file and host it where it is served unchanged."
# Hints by host, for its subdomains too.
_HINTS = {
    **dict.fromkeys(("drive.google.com", "docs.google.com", "drive.usercontent.google.com"), _DRIVE),
    "dropbox.com": "A direct link to a file on Dropbox has dl=1 where the copied one has dl=0.",
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
