"""The licences of the packages in the images allow redistribution."""

from __future__ import annotations

import pytest

from scripts import licences
from scripts.licences import COPYLEFT, Package, refusals


def test_every_package_of_the_images_has_a_known_licence() -> None:
    found = licences.packages()
    assert refusals(found) == []
    assert len(found) > 80 and {"flask", "runpod", "numpy"} <= {package.name for package in found}


def test_the_page_is_fresh() -> None:
    """Compared for the packages of this Python version only."""
    page = licences.PAGE.read_text()
    for line in licences.page().splitlines():
        assert line in page.splitlines(), "run `make docs`"


def test_every_exception_is_for_a_package_that_is_used() -> None:
    assert set(COPYLEFT) <= {package.name for package in licences.packages()}


@pytest.mark.parametrize(
    "licence",
    ["GPL-3.0-only", "AGPL-3.0", "LGPL-2.1-or-later", "MPL-2.0", "GNU General Public License v2", "MIT AND GPL-2.0",
     "unknown", "Proprietary", "BUSL-1.1"],
)  # fmt: skip
def test_a_demanding_or_unknown_licence_is_refused(licence: str) -> None:
    assert refusals([Package("new", ("gateway",), licence)]) == [f"new: {licence}"]


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0 OR BSD-3-Clause", "BSD License", "ISC"])
def test_a_licence_that_requires_attribution_only_is_accepted(licence: str) -> None:
    assert refusals([Package("new", ("gateway",), licence)]) == []
