"""The label that a rented machine carries at Vast.ai: what tells our machines from everybody else's.

`reelay:<deployment>:<uuid of the rental>:<seconds since 1970 of its intent>`. Only a label that has this form to the
last character is ours. Standard library alone: whoever cleans up on another machine reads labels too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_LABEL = re.compile(
    r"reelay:(?P<deployment>[a-z0-9-]{1,32})"
    r":(?P<rental>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r":(?P<epoch>[0-9]{9,11})"
)


def label(deployment: str, rental: str, epoch_s: int) -> str:
    return f"reelay:{deployment}:{rental}:{epoch_s}"


def made_at(row: Mapping[str, object], deployment: str | None) -> int | None:
    """When the rental was meant to be, in seconds since 1970; None for one that is not this deployment's."""
    text = row.get("label")
    found = _LABEL.fullmatch(text) if isinstance(text, str) else None
    return int(found["epoch"]) if found and found["deployment"] == deployment else None


def ours(row: Mapping[str, object], deployment: str | None) -> bool:
    return made_at(row, deployment) is not None
