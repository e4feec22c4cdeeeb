"""What goes wrong on command; `tests.emulators.runpod.faults` tells how often."""

from __future__ import annotations

from dataclasses import dataclass

from tests.emulators.runpod import faults

__all__ = ["Fault", "Faults"]

CALLS = ("search", "create", "list", "show", "destroy", "self-destroy", "manage", "account")
ANY = ("*", *CALLS)
# No call: what lies in wait for an instance that is created now.
BOOT = "boot"

# fault → what it can happen to
KINDS = {
    "status": ANY,  # answers `status` and does nothing
    "rate_limited": ANY,  # 429, without Retry-After
    "auth_error": ANY,  # as if the key were wrong: 404
    "lost_request": ANY,  # hangs up and does nothing
    "lost_reply": ANY,  # does what it is asked and hangs up
    "slow": ANY,  # does what it is asked and answers after `seconds` of life
    "garbage": ANY,  # does what it is asked and answers 200 with `body`
    "unfiltered": ("search",),  # no filter is applied
    "no_offers": ("search",),
    "gone": ("create",),  # the offer is taken by somebody else; `status` 410, 404 or 400
    "insufficient_credit": ("create",),
    "spend_rate_limit": ("create",),
    "refused": ("create",),  # 200 with success=false
    "error_after": ("create",),  # creates, and answers `status`
    "contract_in_error": ("create",),  # creates, and answers `status` with its new_contract
    "stranger_in_error": ("create",),  # creates nothing, and answers `status` with the id of somebody else's instance
    "late_effect": ("create",),  # answers `status`, and creates after `seconds`
    "truncated": ("list",),  # the last row is missing; the count tells of it
    "wrong_count": ("list",),  # all rows, and one too many in the count
    "no_list": ("list",),  # `instances` is null
    "empty": ("list",),  # nothing at all, as if all was well
    "unsuccessful": ("list",),  # 200 with success=false and no rows
    "bad_token": ("list",),  # 400, for a further page only
    "no_ports": ("show",),
    "ignored": ("destroy", "self-destroy"),  # 200, and nothing happens
    "slow_boot": (BOOT,),  # `seconds` longer
    "never_runs": (BOOT,),  # loading for ever
    "pull_fails": (BOOT,),  # `word`, exited or unknown or offline, instead of running
    "ports_late": (BOOT,),  # `seconds` after running
    "black_hole": (BOOT,),  # from `seconds` after running on, nobody answers at the port, not even with a refusal
    "no_worker": (BOOT,),  # running, the port is mapped, connections are reset
    "stopped": (BOOT,),  # by the host, `seconds` after running
    "moved": (BOOT,),  # another port, `seconds` after running
    "dies": (BOOT,),  # the container exits `seconds` after running
    "vanishes": (BOOT,),  # the host takes it away `seconds` after running
    "restarted": (BOOT,),  # the container begins anew `seconds` after running
}


@dataclass
class Fault(faults.Fault):
    """`on="*"` is every call; `word` is the status of `pull_fails`."""

    KINDS = KINDS
    WILD = CALLS

    word: str = "exited"


class Faults(faults.FaultList[Fault]):
    """Those of this stand-in."""
