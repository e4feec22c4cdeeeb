"""Hints for links that people copy from a browser."""

from __future__ import annotations

import pytest

from handler import share_links
from tests.conftest import ROOT

SHARED = {
    "https://drive.google.com/file/d/s3cretId/view?usp=sharing": "uc?export=download&id=FILE_ID",
    "https://drive.usercontent.google.com/download?id=s3cretId": "confirm=t&id=FILE_ID",
    "https://me:s3cret@WWW.Dropbox.com/scl/fi/s3cret/a.mp4?rlkey=s3cret&dl=0#s3cret": "dl=1",
    "https://www.dropbox.com./s/s3cret/a.mp4?dl=0": "dl=1",
    "https://1drv.ms/v/s!s3cret": "download=1",
    "https://acme-my.sharepoint.com/:v:/g/personal/s3cret?e=s3cret": "download=1",
    "https://we.tl/t-s3cret": "WeTransfer has no direct links",
    "https://www.youtube.com/watch?v=s3cret": "YouTube",
    "https://vm.tiktok.com/s3cret/": "TikTok",
    "https://www.instagram.com/reel/s3cret/": "Instagram",
    "https://github.com/s3cret/s3cret/blob/main/a.mp4": "Raw",
}


@pytest.mark.parametrize(("url", "says"), SHARED.items())
def test_known_services_get_a_hint_that_repeats_nothing_of_the_url(url: str, says: str) -> None:
    message = share_links.explain(url)
    assert message.startswith(f"{share_links.NOT_A_FILE} ") and says in message
    assert "s3cret" not in message.lower()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/s3cret",
        "https://dropbox.com.evil.example/x",
        "https://notdropbox.com/x",
        "https://dropbox.com@evil.example/",
        "https://evil.example/dropbox.com",
        "https://dl.dropboxusercontent.com/x",
        "https://[2606:4700::1111]/x",
        "https://com/",
    ],
)
def test_other_hosts_get_no_hint(url: str) -> None:
    assert share_links.explain(url) == share_links.NOT_A_FILE


@pytest.mark.parametrize("hint", sorted(set(share_links._HINTS.values())))
def test_every_service_is_in_the_documentation(hint: str) -> None:
    docs = (ROOT / "docs" / "api.md").read_text()
    service = next(name for name in _services(docs) if name in hint)
    assert service
    assert all(url.rstrip(".;,") in docs for url in hint.split() if url.startswith("https://"))


def _services(docs: str) -> list[str]:
    rows = docs.partition("| Service | Direct link |")[2].partition("\n\n")[0]
    return [name for row in rows.splitlines()[2:] for name in row.split("|")[1].strip().split(", ")]
