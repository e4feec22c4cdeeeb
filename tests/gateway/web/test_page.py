"""The page at `/docs/` in a real browser: what people see, and that what they press works."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ffmpeg_ops.operation import OPERATIONS
from gateway.errors import Unauthorized, ValidationFailed
from gateway.web.texts import SAMPLES
from scripts.stack import Stack
from tests.browser import CHROMIUM, Page, browser
from tests.servers import eventually

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

# Of one operation that is open. It was 9,799 when each error was drawn with its body.
MAX_HEIGHT, MAX_HEIGHT_ON_A_PHONE = 3500, 7000
PHONE = 390
OPENED = "document.querySelectorAll('.opblock.is-open')"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("page")
    with Stack(folder, folder / "logs") as running:
        yield running


@pytest.fixture(scope="module", params=[1280, PHONE])
def page(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page with every operation open, on screens of two widths."""
    with browser() as opened:
        show(opened, stack, request.param)
        yield opened


def show(page: Page, stack: Stack, width: int) -> None:
    paths = requests.get(f"{stack.url}/openapi.json", timeout=60).json()["paths"]
    count = sum(method in {"get", "post", "put", "delete"} for item in paths.values() for method in item)
    page.open(f"{stack.url}/docs/", width=width)
    page.until(f"document.querySelectorAll('.opblock').length == {count}")
    page.run("for (const one of document.querySelectorAll('.opblock-summary-control')) one.click()")
    page.until(f"{OPENED}.length == {count}")
    page.until(f"[...{OPENED}].every((one) => one.querySelector('.responses-inner'))")


def write(page: Page, selector: str, text: str) -> None:
    """Write into a field as a person does, so that the page notices."""
    page.run(f"document.querySelector({json.dumps(selector)}).focus()")
    page.call("Input.insertText", text=text)


def authorize(page: Page, stack: Stack) -> None:
    page.run("document.querySelector('.btn.authorize').click()")
    page.until("document.querySelector('#api_key_value')")
    write(page, "#api_key_value", stack.api_key)
    page.run("document.querySelector('.dialog-ux .auth-btn-wrapper .authorize').click()")
    page.until("document.querySelector('.dialog-ux .btn-done')")
    page.run("document.querySelector('.dialog-ux .btn-done').click()")


def block(operation: str) -> str:
    return f"[id$='-{operation}']"


def test_each_operation_fits_and_none_is_wider_than_the_screen(page: Page, tmp_path: Path) -> None:
    page.screenshot(tmp_path / "page.png")
    width, limit = page.width, MAX_HEIGHT_ON_A_PHONE if page.width == PHONE else MAX_HEIGHT
    heights = page.run(f"Object.fromEntries([...{OPENED}].map((one) => [one.id, one.offsetHeight]))")
    assert {name: height for name, height in heights.items() if not 200 < height < limit} == {}
    assert page.run("document.documentElement.scrollWidth") <= width
    wide = f"[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > {width + 1})"
    assert page.run(f"{wide}.map((one) => one.tagName + '.' + one.className)") == []


def test_the_introduction_has_five_lines_and_nothing_is_of_the_worker_s(page: Page) -> None:
    lines = page.run("[...document.querySelectorAll('header li b')].map((one) => one.innerText)")
    assert lines == ["What it is.", "Key.", "First request.", "Wait.", "Files."]
    shown = page.run("[...document.querySelectorAll('.opblock-summary-path')].map((one) => one.innerText)")
    paths = {path.replace("\u200b", "") for path in shown}
    assert {f"/video/{name}" for name in OPERATIONS} <= paths
    assert [path for path in paths if "events" in path or "upload_id" in path] == []
    assert page.run("document.querySelectorAll('.opblock-put').length") == 0


def test_errors_are_one_line_of_links_and_fields_are_seen(page: Page) -> None:
    for name in OPERATIONS:
        rows = f'document.querySelectorAll("{block(name)} .responses-inner .response")'
        found = page.run(f"[...{rows}].map((one) => one.dataset.code)")
        assert [code for code in found if not code.startswith("2")] == ["Errors"], name
        links = page.run(f"[...[...{rows}].at(-1).querySelectorAll('a')].map((one) => one.getAttribute('href'))")
        assert {f"/errors/{ValidationFailed.code}", f"/errors/{Unauthorized.code}"} <= set(links)
        table = page.run(f'document.querySelector("{block(name)} .opblock-description").innerText')
        assert [field for field in OPERATIONS[name].params().fields if field not in table] == []
    assert page.run("document.querySelectorAll('.opblock-description details').length") > 3
    assert "more than 0 to 60" in page.run(f'document.querySelector("{block("img2vid")}").innerText')


@pytest.mark.parametrize("page", [1280], indirect=True)
def test_execute_makes_a_job_of_each_example_and_all_complete(page: Page, stack: Stack) -> None:
    authorize(page, stack)
    for name in OPERATIONS:
        body = page.run(f'document.querySelector("{block(name)} textarea").value')
        urls = re.findall(r'"(https?://[^"]*)"', body)
        assert urls, name
        assert [url for url in urls if url.removeprefix(f"{stack.url}/samples/") not in SAMPLES] == []
        page.run(f'document.querySelector("{block(name)} .execute").click()')
        status = f'document.querySelector("{block(name)} .live-responses-table tbody .response-col_status")?.innerText'
        page.until(status)
        assert page.run(status).split()[0] in {"202", "200"}, name
    eventually(lambda: not {"queued", "running"} & {job["status"] for job in jobs(stack)}, 180)
    assert {job["operation"]: job["status"] for job in jobs(stack)} == dict.fromkeys(OPERATIONS, "completed")


def test_nothing_is_loaded_from_elsewhere_and_the_policy_is_kept(page: Page, stack: Stack) -> None:
    """Last, after all that the other tests have pressed."""
    assert page.messages == [], "errors, or violations of the page's policy"
    loaded = {re.sub("^(data:|[a-z]+://[^/]*).*", r"\1", url, flags=re.DOTALL) for url in page.requests}
    assert loaded == {stack.url, "data:"}


def jobs(stack: Stack) -> list[dict[str, str]]:
    answer = requests.get(f"{stack.url}/jobs", headers={"X-API-Key": stack.api_key}, timeout=60)
    return answer.json()["jobs"]  # type: ignore[no-any-return]
