"""`/docs/`, `/llms.txt` and `/samples/`: files that are packed with the gateway, the same for everyone."""

from __future__ import annotations

from pathlib import Path

import flask_swagger_ui
from flask import Blueprint, Response, render_template, request, send_file

from gateway.errors import NotFound
from gateway.settings import Settings
from gateway.storage import mime_of
from gateway.web import texts
from gateway.web.texts import SAMPLES

# How long clients and proxies may use a file without asking. A new version of the gateway is seen after that time.
MAX_AGE_S = 300
MARKDOWN = "text/markdown; charset=utf-8"

_SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
# What the page loads: our files, and those of Swagger UI that it needs.
_ASSETS = {
    **{name: Path(__file__).parent / "static" / name for name in ("docs.js", "docs.css")},
    **{name: _SWAGGER_UI / name for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")},
}


def page(settings: Settings) -> Blueprint:
    """The documentation page at `/docs/`, and what it loads."""
    here = Blueprint("docs", __name__, url_prefix="/docs", template_folder="templates")

    @here.get("/")
    def show() -> Response:
        return _cached(Response(render_template("docs.html", base=settings.client_base, samples=sorted(SAMPLES))))

    @here.get("/<path:name>")
    def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise NotFound
        return send_file(_ASSETS[name], conditional=True, max_age=MAX_AGE_S)

    return here


def files(settings: Settings) -> Blueprint:
    """The documentation as Markdown, and the samples."""
    here = Blueprint("web", __name__)
    pages, overview = texts.pages(), texts.llms_txt(settings.client_base)

    @here.get("/llms.txt")
    def llms() -> Response:
        return _cached(Response(overview, content_type=MARKDOWN))

    @here.get("/docs/<name>.md")
    def markdown(name: str) -> Response:
        return _markdown(f"docs/{name}.md")

    @here.get("/samples/README.md")
    def about_samples() -> Response:
        return _markdown("samples/README.md")

    @here.get("/samples/<name>")
    def sample(name: str) -> Response:
        if name not in SAMPLES:
            raise NotFound
        return send_file(texts.ROOT / "samples" / name, mimetype=mime_of(name), conditional=True, max_age=MAX_AGE_S)

    def _markdown(path: str) -> Response:
        if path not in pages:
            raise NotFound
        return _cached(Response(pages[path], content_type=MARKDOWN))

    return here


def _cached(response: Response) -> Response:
    response.cache_control.public = True
    response.cache_control.max_age = MAX_AGE_S
    response.add_etag()
    response.make_conditional(request)  # changes the response itself
    return response
