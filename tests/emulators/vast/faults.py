"""Faults that a test injects; `tests.emulators.runpod.faults` defines how often."""

from __future__ import annotations

from dataclasses import dataclass

from tests.emulators.runpod import faults

__all__ = ["Fault", "Faults"]

CALLS = ("search", "create", "list", "show", "destroy", "self-destroy", "manage", "account")
ANY = ("*", *CALLS)
# Not a call: a fault of the next instance that is created.
BOOT = "boot"

# fault → where it can happen
KINDS = {
    "status": ANY,  # returns `status` without any effect
    "rate_limited": ANY,  # 429, with Retry-After if there are `seconds`
    "auth_error": ANY,  # as for a wrong key: 404
    "lost_request": ANY,  # closes the connection without any effect
    "lost_reply": ANY,  # does its work, then closes the connection
    "slow": ANY,  # does its work, then returns after `seconds` of real time
    "garbage": ANY,  # does its work, then returns 200 with `body`
    "no_offers": ("search",),
    "gone": ("create",),  # another client has taken the offer; `status` 410, 404 or 400
    "insufficient_credit": ("create",),
    "refused": ("create",),  # 200 with success=false
    "error_after": ("create",),  # creates, and returns `status`
    "contract_in_error": ("create",),  # creates, and returns `status` with its new_contract
    "foreign_in_error": ("create",),  # creates nothing, and returns `status` with the id of an instance of another user
    "late_effect": ("create",),  # returns `status`, and creates after `seconds`
    "truncated": ("list",),  # the last row is missing, but counted
    "wrong_count": ("list",),  # all rows, but the count is one too high
    "no_list": ("list",),  # `instances` is null
    "empty": ("list",),  # nothing at all, without any error
    "unsuccessful": ("list",),  # 200 with success=false and no rows
    "bad_token": ("list",),  # 400, for later pages only
    "ignored": ("destroy", "self-destroy"),  # 200 without any effect
    "slow_boot": (BOOT,),  # `seconds` longer
    "never_runs": (BOOT,),  # stays at `loading`
    "pull_fails": (BOOT,),  # `word`, exited or unknown or offline, instead of running
    "ports_late": (BOOT,),  # `seconds` after running
    "black_hole": (BOOT,),  # `seconds` after running the port stops responding, even with a refusal
    "no_worker": (BOOT,),  # running, the port is mapped, connections are reset
    "stopped": (BOOT,),  # by the host, `seconds` after running
    "moved": (BOOT,),  # to another port, `seconds` after running
    "dies": (BOOT,),  # the container exits `seconds` after running
    "vanishes": (BOOT,),  # the host removes it `seconds` after running
    "restarted": (BOOT,),  # the container restarts `seconds` after running
}


@dataclass
class Fault(faults.Fault):
    """`on="*"` is every call; `word` is the status of `pull_fails`."""

    KINDS = KINDS
    WILD = CALLS

    word: str = "exited"


class Faults(faults.FaultList[Fault]):
    """The faults of this stand-in."""
