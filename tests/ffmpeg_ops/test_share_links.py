"""Links that people copy from a browser: direct ones in their place, hints where there are none."""

from __future__ import annotations

import pytest

from ffmpeg_ops import share_links
from tests.conftest import ROOT

SHARED = {
    "https://drive.google.com/file/d/s3cretId/view?usp=sharing": "anyone who has the link",
    "https://drive.usercontent.google.com/download?id=s3cretId": "POST /files",
    "https://me:s3cret@WWW.Dropbox.com/scl/fi/s3cret/a.mp4?rlkey=s3cret&dl=0#s3cret": "anyone with the link",
    "https://www.dropbox.com./s/s3cret/a.mp4?dl=0": "anyone with the link",
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


ID = "1aBc_D-3"
DRIVE = f"https://drive.usercontent.google.com/download?id={ID}&export=download&confirm=t"
LINKS = {
    f"https://drive.google.com/file/d/{ID}/view?usp=sharing": DRIVE,
    f"https://drive.google.com/file/u/0/d/{ID}/edit": DRIVE,
    f"http://drive.google.com/file/d/{ID}": DRIVE,
    f"https://drive.google.com/open?id={ID}&usp=drive_fs": DRIVE,
    f"https://DRIVE.google.com/uc?export=download&id={ID}": DRIVE,
    f"https://docs.google.com/uc?id={ID}": DRIVE,
    f"https://drive.google.com/file/d/{ID}/view?resourcekey=0-k%26y": DRIVE + "&resourcekey=0-k%26y",
    DRIVE: DRIVE,
    "https://www.dropbox.com/s/k3y/a%20b.mp4?dl=0": "https://www.dropbox.com/s/k3y/a%20b.mp4?dl=1",
    "https://dropbox.com/s/k3y/a.mp4": "https://dropbox.com/s/k3y/a.mp4?dl=1",
    "https://www.dropbox.com/scl/fi/k3y/a.mp4?rlkey=r%26k&st=&dl=0": (
        "https://www.dropbox.com/scl/fi/k3y/a.mp4?rlkey=r%26k&st=&dl=1"
    ),
    "https://www.dropbox.com/scl/fi/k3y/a.mp4?raw=1": "https://www.dropbox.com/scl/fi/k3y/a.mp4?dl=1",
}


@pytest.mark.parametrize(("shared", "direct"), LINKS.items())
def test_share_links_become_direct_ones_and_stay_those(shared: str, direct: str) -> None:
    assert share_links.direct(shared) == direct
    assert share_links.direct(direct) == direct


@pytest.mark.parametrize(
    "url",
    [
        "https://drive.google.com/drive/folders/1aBc",
        "https://drive.google.com/open",
        "https://drive.google.com/uc?export=download&id=",
        "https://docs.google.com/document/d/1aBc/edit",
        "https://www.dropbox.com/scl/fo/k3y/h?rlkey=r&dl=0",
        "https://www.dropbox.com/home/a.mp4",
        "https://drive.google.com.evil.example/file/d/1aBc/view",
        "https://evil.example/?u=drive.google.com/file/d/1aBc/view",
        "https://drive.google.com@evil.example/file/d/1aBc/view",
        "https://example.com/a.mp4?dl=0",
    ],
)
def test_other_links_stay_as_they_are(url: str) -> None:
    assert share_links.direct(url) == url
