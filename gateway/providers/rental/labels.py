"""The label of a rented machine, which distinguishes our machines from all others on the account.

`reelay:<deployment>:<uuid of the rental>:<seconds since 1970 of its intent>`. Only a label that matches this form
exactly is ours.
"""

from __future__ import annotations

import re

_LABEL = re.compile(
    r"reelay:(?P<deployment>[a-z0-9-]{1,32})"
    r":(?P<rental>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r":(?P<epoch>[0-9]{9,11})"
)


def label(deployment: str, rental: str, epoch_s: int) -> str:
    return f"reelay:{deployment}:{rental}:{epoch_s}"


def made_at(label: str | None, deployment: str | None) -> int | None:
    """Return when the rental was recorded, in seconds since 1970; None for a label that is not this deployment's."""
    found = _LABEL.fullmatch(label) if label is not None else None
    return int(found["epoch"]) if found and found["deployment"] == deployment else None


def ours(label: str | None, deployment: str | None) -> bool:
    return made_at(label, deployment) is not None
