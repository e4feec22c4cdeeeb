"""Which labels are ours: the rule that the fleet manager, the commands and the reaper go by."""

from __future__ import annotations

import pytest

from gateway.providers.rental import labels
from tests.gateway.providers.vast_scene import RENTAL

OURS = labels.label("test", RENTAL, 1_700_000_000)


def test_a_label_of_ours_says_when_it_was_made() -> None:
    assert f"reelay:test:{RENTAL}:1700000000" == OURS
    assert labels.made_at(OURS, "test") == 1_700_000_000


@pytest.mark.parametrize("text", [
    None, "", "reelay", "reelay:test", "reelay:test:", "reelay:test:notes", "reelay:test:no-uuid:1700000000",
    OURS.replace("test", "test2"), OURS.replace("test", "tes"), OURS.replace("reelay", "Reelay"), OURS.upper(),
    f"{OURS}:more", f"{OURS} ", f"{OURS}\n", f" {OURS}", f"my {OURS}", f"{OURS}x", f"reelay:test:{RENTAL}:soon",
    f"reelay:test:{RENTAL}:16", f"reelay:test:{RENTAL.upper()}:1700000000",
])  # fmt: skip
def test_a_similar_label_is_not_ours(text: str | None) -> None:
    assert not labels.ours(text, "test")
