"""The documentation as Markdown: what is in it, and that every link leads somewhere on the gateway as in a checkout."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from flask.testing import FlaskClient

from ffmpeg_ops.operation import OPERATIONS
from gateway.web import texts
from tests.conftest import ROOT, SAMPLES

BASE = "http://127.0.0.1:8000"


def links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall("^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_overview_has_the_form_of_llmstxt_org(client: FlaskClient) -> None:
    """A title, a summary as a quotation, and sections of which each is a list of links."""
    text = client.get("/llms.txt").get_data(as_text=True)
    title, quotation, _ = text.split("\n\n", 2)
    assert title == "# Reelay"
    assert all(line.startswith("> ") for line in quotation.splitlines())
    sections = re.split("^## (.+)\n\n", text, flags=re.MULTILINE)[1:]
    assert sections[::2] == ["API", "Operations", "Samples", "Optional"]
    for body in sections[1::2]:
        assert all(re.fullmatch(r"- \[[^]]+\]\(https?://\S+\)(: .+)?", line) for line in body.strip().splitlines())
    assert {name for name in OPERATIONS if f"\n- [{name}](" in text} == set(OPERATIONS)
    assert len(text) < 8000, "an overview"


def test_every_link_leads_somewhere(client: FlaskClient) -> None:
    """Beginning with the overview, as a program does."""
    left, seen = [f"{BASE}/llms.txt"], dict[str, str]()
    while left:
        url = left.pop().partition("#")[0]
        if url in seen or not url.startswith(BASE):
            continue
        response = client.get(url.removeprefix(BASE), buffered=True)
        assert response.status_code == 200, url
        seen[url] = response.get_data(as_text=True) if response.mimetype == "text/markdown" else ""
        left += [urljoin(url, link) for link in links(seen[url])]
    assert {f"{BASE}/{path}" for path in texts.pages()} <= set(seen)
    assert {f"{BASE}/samples/{name}" for name in texts.SAMPLES} | {f"{BASE}/openapi.json"} <= set(seen)
    for url, text in seen.items():
        for link in links(text):
            target, _, anchor = urljoin(url, link).partition("#")
            assert not anchor or target not in seen or anchor in anchors(seen[target]), (url, link)


def test_links_that_lead_out_of_the_pages_become_text() -> None:
    found = texts.pages()
    assert "](../ops/nginx.conf)" in (ROOT / "docs/deploy.md").read_text()
    for path, text in found.items():
        assert [link for link in links(text) if link.startswith("..")] == [], path
    assert "(operate.md" in found["docs/deploy.md"] and "(#webhooks)" in found["docs/api.md"]


def test_all_samples_are_named_and_explained() -> None:
    files = {path.name for path in SAMPLES.iterdir()}
    assert files == {*texts.SAMPLES, "README.md"}
    table = (SAMPLES / "README.md").read_text()
    assert [name for name in texts.SAMPLES if f"| `{name}` |" not in table] == []
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 2_000_000
