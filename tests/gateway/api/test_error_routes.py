"""`GET /errors/<code>`: every code is explained, for everybody."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.conftest import ROOT
from tests.gateway.api.conftest import CAPTION, assert_problem
from wire.errors import CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_has_its_meaning_and_a_remedy(client: FlaskClient, code: str) -> None:
    response = client.get(f"/errors/{code}")
    assert response.status_code == 200
    document = response.get_json()
    assert document["code"] == code
    for text in (document["title"], document["remedy"]):
        assert len(text) > 10 and text.endswith(".") and "\n" not in text
    assert document["title"] != document["remedy"]


def test_the_type_of_a_problem_leads_to_its_explanation(api: FlaskClient, client: FlaskClient) -> None:
    for problem in (api.get("/nothing"), api.post("/video/caption", json={}), client.get("/jobs")):
        shown = problem.get_json()
        explained = client.get(shown["type"]).get_json()
        assert (explained["title"], explained["status"]) == (shown["title"], problem.status_code)
    assert "status" not in client.get("/errors/job_timeout").get_json()
    assert api.post("/video/caption", json=CAPTION).status_code == 202


@pytest.mark.parametrize("code", ["nothing", "Not_Found", "x" * 3000, "%00", "../jobs"])
def test_an_unknown_code_is_not_found(api: FlaskClient, code: str) -> None:
    assert_problem(api.get(f"/errors/{code}"), 404, "not_found")


def test_the_documentation_has_the_same_remedies() -> None:
    page = (ROOT / "docs/api.md").read_text()
    assert [code for code in ("validation_failed", "asset_forbidden") if CODES[code].remedy not in page] == []
