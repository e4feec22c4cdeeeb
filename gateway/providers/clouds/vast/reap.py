"""Destroys rented machines that were left behind. Run it as a cron job on a machine other than the gateway's.

    VAST_API_KEY=… python -m gateway.providers.clouds.vast.reap --deployment NAME
    VAST_API_KEY=… python reap.py --deployment NAME        # this file alone, copied anywhere

It needs only requests, and no running gateway. It destroys the machines that have a label of the form
`reelay:NAME:<uuid>:<seconds since 1970>` and exceed the maximum age, or with --all every machine with such a label. It
never touches a machine with another label. It ignores incomplete listings, checks each machine again before destroying
it, and repeats the call until Vast.ai confirms that the machine is gone.

It prints nothing if there is nothing to do. Exit status: 0 if no machine is left that should be destroyed; 1 if one is
(with --dry-run: if one would be destroyed); 2 if Vast.ai cannot be reached or the arguments are wrong.
"""

from __future__ import annotations

import argparse
import email.utils
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import requests

# The pattern of rental/labels.py, repeated because this file imports no package of ours; a test compares the two. The
# gateway imports the functions below that interpret Vast.ai's responses.
LABEL = re.compile(
    r"reelay:(?P<deployment>[a-z0-9-]{1,32})"
    r":(?P<rental>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r":(?P<epoch>[0-9]{9,11})"
)
BASE = "https://console.vast.ai"
LIFETIME_S = 6 * 3600
# Time for the gateway, or the machine itself, to destroy the machine first.
GRACE_S = 900
MAX_DESTROYED = 10
# Pause between two calls: Vast.ai requires 3 s between destroy calls, and less between others.
PAUSE_S = 3.1
TRIES = 5
# Pause after an error, in PAUSE_S and multiplied by the number of tries so far.
BACKOFF_PAUSES = 3
TIMEOUT_S = 15
# Maximum duration of a run, shorter than cron's interval.
RUN_S = 1500
# Maximum difference between this machine's clock and Vast.ai's.
SKEW_S = 300
# More pages than our account can fill; a longer listing is rejected as endless.
PAGE, MAX_PAGES = 25, 40
GONE = ("no_such_instance", "not_found")

Row = Mapping[str, Any]
Result = TypeVar("Result")


class Unclear(Exception):
    """Vast.ai's response is inconclusive, or it refused the call. The text completes the sentence `Vast.ai …`."""


class LockedOut(Unclear):
    """The key is wrong, so retrying does not help."""


class TooLong(Exception):
    """The run has exceeded RUN_S."""


# ---- interpreting responses


def listing(page: Callable[[Mapping[str, object]], tuple[int, Row]]) -> list[Row]:
    """Return all instances; `page` returns status and body for a query. Raises Unclear for an incomplete listing."""
    found: dict[int, Row] = {}
    token = None
    for _ in range(MAX_PAGES):
        status, body = page({"limit": PAGE, **({"after_token": token} if token else {})})
        rows, token = body.get("instances"), body.get("next_token")
        if status != 200 or body.get("success") is False or not isinstance(rows, list):
            raise Unclear(f"does not list the machines: {described(status, body)}")
        if not all(isinstance(row, dict) and type(row.get("id")) is int for row in rows):
            raise Unclear("lists machines without ids")
        found.update((row["id"], row) for row in rows)
        if not token:
            if body.get("total_instances") != len(found):
                raise Unclear(f"lists {len(found)} machines of {body.get('total_instances')}")
            return list(found.values())
    raise Unclear("has a list of machines that does not end")


def shown(status: int, body: Row, instance_id: int) -> Row | None:
    """Return the instance that was asked for, or None when it certainly is gone. Raises Unclear."""
    row = body.get("instances", body)
    if gone(status, body) or (status == 200 and row is None):
        return None
    if status != 200 or not isinstance(row, dict) or row.get("id") != instance_id:
        raise Unclear(f"does not show {instance_id}: {described(status, body)}")
    return row


def gone(status: int, body: Row) -> bool:
    """Whether an error proves that there is no such instance. A wrong key gets a 404 too."""
    return status in {404, 410} and not locked_out(status, body) and any(word in GONE for word in words(body))


def locked_out(status: int, body: Row) -> bool:
    return status in {401, 403} or "auth_error" in words(body)


def words(body: Row) -> list[object]:
    """Return Vast.ai's error code and the words of its message, where some responses have the code instead."""
    return [body.get("error"), *str(body.get("msg") or body.get("detail") or "").split()]


def described(status: int, body: Row) -> str:
    return f"status {status} {str(body.get('msg') or body.get('detail') or body.get('error') or '')[:200]}".strip()


# ---- the run


class Vast:
    """One account. Calls are spaced by a pause, and retried where that may help."""

    def __init__(self, base: str, key: str, pause_s: float) -> None:
        self._base, self._pause_s = base.rstrip("/"), pause_s
        self._http = requests.Session()
        self._http.trust_env = False  # otherwise a .netrc could replace the key
        self._http.headers["Authorization"] = f"Bearer {key}"
        self._next_at = 0.0
        self.skew_s = 0.0

    def instances(self) -> list[Row]:
        """Return the complete listing. Raises Unclear."""
        return self._retry(lambda: listing(lambda query: self._call("GET", "/api/v1/instances/", query)))

    def show(self, instance_id: int) -> Row | None:
        """Return the instance, or None when it is gone. Raises Unclear."""
        path = f"/api/v0/instances/{instance_id}/"
        return self._retry(lambda: shown(*self._call("GET", path), instance_id))

    def destroy(self, instance_id: int) -> None:
        """Request its destruction; only `show` proves it. Raises Unclear."""

        def ask() -> None:
            status, body = self._call("DELETE", f"/api/v0/instances/{instance_id}/")
            if status != 200 and not gone(status, body):
                raise Unclear(f"does not destroy {instance_id}: {described(status, body)}")

        self._retry(ask)

    def back_off(self, tries: int) -> None:
        time.sleep(self._pause_s * BACKOFF_PAUSES * tries)

    def _retry(self, do: Callable[[], Result]) -> Result:
        for tries in range(1, TRIES):
            try:
                return do()
            except LockedOut:
                raise
            except Unclear:
                self.back_off(tries)
        return do()

    def _call(self, method: str, path: str, query: Mapping[str, Any] | None = None) -> tuple[int, Row]:
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        try:
            answer = self._http.request(
                method, self._base + path, params=query, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:
            raise Unclear(f"cannot be reached: {type(error).__name__}") from error
        finally:
            self._next_at = time.monotonic() + self._pause_s
        self._compare_clocks(answer.headers.get("Date"))
        try:
            body = answer.json()
        except ValueError:
            body = None
        body = body if isinstance(body, dict) else {}
        if locked_out(answer.status_code, body):
            raise LockedOut(f"refuses the key: {described(answer.status_code, body)}; check VAST_API_KEY")
        return answer.status_code, body

    def _compare_clocks(self, date: str | None) -> None:
        try:
            self.skew_s = time.time() - email.utils.parsedate_to_datetime(date or "").timestamp()
        except (TypeError, ValueError):
            self.skew_s = 0.0


def began(row: Row, deployment: str) -> float | None:
    """Return when the machine was created, in seconds since 1970; None if it is not this deployment's."""
    label = row.get("label")
    found = LABEL.fullmatch(label) if isinstance(label, str) else None
    if found is None or found["deployment"] != deployment:
        return None
    meant, started = float(found["epoch"]), row.get("start_date")
    # the gateway's clock may have been ahead
    return min(meant, float(started)) if isinstance(started, int | float) and started >= 1e9 else meant


class Reaper:
    """One run."""

    def __init__(self, vast: Vast, options: argparse.Namespace) -> None:
        self._vast, self._options = vast, options
        self._done: set[int] = set()
        self._left: set[int] = set()

    def run(self) -> bool:
        """Destroy the machines that are due; return whether all are gone. Raises Unclear."""
        for looks in range(TRIES):
            doomed = self._doomed(self._vast.instances())
            if self._options.dry_run:
                for row, age_s in doomed:
                    report(f"{named(row, age_s)} would be destroyed")
                return not doomed
            if not doomed and looks:  # one listing alone may lag
                return not self._left
            for row, age_s in doomed:
                self._end(row, age_s)
        report("new machines keep appearing: is a gateway running?")
        return False

    def _doomed(self, rows: list[Row]) -> list[tuple[Row, float]]:
        """Return the machines that are due and were not tried yet, with their ages in seconds, oldest first."""
        if not self._options.all and abs(self._vast.skew_s) > SKEW_S:
            raise Unclear(
                f"has a clock that differs from this machine's by {self._vast.skew_s:.0f} s; ages are not known"
            )
        now, tried = time.time(), self._done | self._left
        ours = [(row, now - at) for row in rows if (at := began(row, self._options.deployment)) is not None]
        untried = [one for one in ours if one[0]["id"] not in tried]
        due = [one for one in untried if self._options.all or one[1] > self._options.max_age]
        return sorted(due, key=lambda one: -one[1])

    def _end(self, row: Row, age_s: float) -> None:
        instance_id = row["id"]
        if len(self._done) + len(self._left) >= self._options.limit:
            report(f"{named(row, age_s)} is left: only {self._options.limit} are destroyed in a run (--limit)")
            self._left.add(instance_id)
            return
        try:
            ended = self._destroyed(row)
        except LockedOut:
            raise
        except Unclear as error:
            report(f"{named(row, age_s)} is left: Vast.ai {error}")
            self._left.add(instance_id)
            return
        (self._done if ended else self._left).add(instance_id)

    def _destroyed(self, row: Row) -> bool:
        """Whether it is proven to be gone."""
        instance_id, name = row["id"], f"{row['id']} {row['label']}"
        for tries in range(TRIES):
            shown = self._vast.show(instance_id)
            if shown is None:
                if tries:  # otherwise a lagging listing contained it
                    report(f"{name} is destroyed")
                return True
            if shown.get("label") != row["label"]:
                report(f"{name} is left: its label is {shown.get('label')!r} now")
                return False
            if tries:
                self._vast.back_off(1)
            self._vast.destroy(instance_id)
        if self._vast.show(instance_id) is None:
            report(f"{name} is destroyed")
            return True
        report(f"{name} is left: it is still there after {TRIES} destroys")
        return False


def named(row: Row, age_s: float) -> str:
    price = row.get("dph_total")
    cost = f", ${price:.3f} an hour" if isinstance(price, int | float) else ""
    return f"{row['id']} {row['label']} ({age_s / 3600:.1f} h{cost})"


def report(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    head, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="reap", description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lifetime_s = os.environ.get("VAST_MAX_LIFETIME") or str(LIFETIME_S)
    oldest = f"default: VAST_MAX_LIFETIME ({LIFETIME_S}) plus {GRACE_S}"
    parser.add_argument("--deployment", default=os.environ.get("DEPLOYMENT"), help="default: DEPLOYMENT")
    parser.add_argument("--max-age", type=float, metavar="SECONDS", help=f"destroy older ones; {oldest}")
    parser.add_argument("--all", action="store_true", help="destroy every machine of the deployment, even during a job")
    parser.add_argument("--dry-run", action="store_true", help="print what would be destroyed, and destroy nothing")
    parser.add_argument(
        "--limit", type=int, default=MAX_DESTROYED, metavar="N", help=f"destroy at most N ({MAX_DESTROYED})"
    )
    parser.add_argument("--pause", type=float, default=PAUSE_S, metavar="SECONDS", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not re.fullmatch(r"[a-z0-9-]{1,32}", options.deployment or ""):
        parser.error("--deployment or DEPLOYMENT must name the deployment, as the gateway's DEPLOYMENT does")
    if not os.environ.get("VAST_API_KEY"):
        parser.error("VAST_API_KEY is not set")
    try:
        options.max_age = options.max_age if options.max_age is not None else float(lifetime_s) + GRACE_S
    except ValueError:
        parser.error("VAST_MAX_LIFETIME is not a number")
    if not options.max_age >= GRACE_S:  # nor is NaN
        parser.error(f"--max-age: at least {GRACE_S}; --all destroys all")
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(RUN_S)
    vast = Vast(os.environ.get("VAST_API_BASE") or BASE, os.environ["VAST_API_KEY"], options.pause)
    try:
        return 0 if Reaper(vast, options).run() else 1
    except (Unclear, TooLong) as error:
        sys.stderr.write(f"Vast.ai {error}\n")
        return 2
    finally:
        signal.alarm(0)


def _too_long(*_: object) -> NoReturn:
    raise TooLong(f"took more than {RUN_S} s")


if __name__ == "__main__":
    sys.exit(main())
