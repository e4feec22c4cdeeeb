"""Destroys rented machines that nobody else has destroyed: for a cron job on another machine than the gateway's.

    VAST_API_KEY=… python -m gateway.providers.clouds.vast.reap --deployment NAME
    VAST_API_KEY=… python reap.py --deployment NAME        # this file alone, copied anywhere

It needs nothing but requests, and of the gateway nothing at all, not even that it lives. It destroys machines whose
label has the form `reelay:NAME:<uuid>:<seconds since 1970>` and which are older than any may become, or with --all
every one with such a label; no other label is ever touched. It concludes nothing from a listing that is not whole,
looks at each machine again before it destroys it, and asks until Vast.ai itself says that the machine is gone.

It says nothing when there is nothing to do. Exit status: 0 nothing is left that should go; 1 something is (with
--dry-run: it would be destroyed); 2 Vast.ai could not be asked, or the call was wrong.
"""

from __future__ import annotations

import argparse
import email.utils
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import requests

# The rule of labels.py, which a test holds this to: nothing of ours is imported here.
LABEL = re.compile(
    r"reelay:(?P<deployment>[a-z0-9-]{1,32})"
    r":(?P<rental>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
    r":(?P<epoch>[0-9]{9,11})"
)
BASE = "https://console.vast.ai"
LIFETIME_S = 6 * 3600
# The gateway and the machine itself come first.
GRACE_S = 900
MOST = 10
# Between two calls: Vast.ai asks for 3 s between two destroys, and less between others.
PAUSE_S = 3.1
TRIES = 5
# How long an error is slept off, in pauses, times the number of the try. A 429 never says how long.
REST_PAUSES = 3
TIMEOUT_S = 15
# Cron begins the next run some time later.
RUN_S = 1500
# By so much this machine's clock and Vast.ai's may differ.
SKEW_S = 300
PAGE, MOST_PAGES = 25, 40
GONE = ("no_such_instance", "not_found")

Row = dict[str, Any]
Result = TypeVar("Result")


class InconclusiveListing(Exception):
    """Vast.ai does not tell what there is, or does not do what it is asked."""


class LockedOut(InconclusiveListing):
    """The key is wrong: asking again does not help."""


class TooLong(Exception):
    """The run has had its time."""


class Vast:
    """One account; every call waits its turn and is made again where that may help."""

    def __init__(self, base: str, key: str, pause_s: float) -> None:
        self._base, self._pause_s = base.rstrip("/"), pause_s
        self._http = requests.Session()
        self._http.trust_env = False  # no .netrc instead of the key
        self._http.headers["Authorization"] = f"Bearer {key}"
        self._next_at = 0.0
        self.skew_s = 0.0

    def instances(self) -> list[Row]:
        """The whole listing. Raises InconclusiveListing."""
        return self._again(self._pages)

    def show(self, instance_id: int) -> Row | None:
        """None when it is gone. Raises InconclusiveListing."""

        def look() -> Row | None:
            status, body = self._call("GET", f"/api/v0/instances/{instance_id}/")
            row = body.get("instances", body)
            if _gone(status, body) or (status == 200 and row is None):
                return None
            if status != 200 or not isinstance(row, dict) or row.get("id") != instance_id:
                raise InconclusiveListing(f"it does not show {instance_id}: {_said(status, body)}")
            return row

        return self._again(look)

    def destroy(self, instance_id: int) -> None:
        """Ask for it; only `show` proves it. Raises InconclusiveListing."""

        def ask() -> None:
            status, body = self._call("DELETE", f"/api/v0/instances/{instance_id}/")
            if status != 200 and not _gone(status, body):
                raise InconclusiveListing(f"it does not destroy {instance_id}: {_said(status, body)}")

        self._again(ask)

    def rest(self, tries: int) -> None:
        time.sleep(self._pause_s * REST_PAUSES * tries)

    def _pages(self) -> list[Row]:
        found: dict[int, Row] = {}
        token = None
        for _ in range(MOST_PAGES):
            query = {"limit": PAGE, **({"after_token": token} if token else {})}
            status, body = self._call("GET", "/api/v1/instances/", query)
            rows, token = body.get("instances"), body.get("next_token")
            if status != 200 or body.get("success") is False or not isinstance(rows, list):
                raise InconclusiveListing(f"it does not list the machines: {_said(status, body)}")
            if not all(isinstance(row, dict) and type(row.get("id")) is int for row in rows):
                raise InconclusiveListing("it lists machines that make no sense")
            found.update((row["id"], row) for row in rows)
            if not token:
                if body.get("total_instances") != len(found):
                    raise InconclusiveListing(f"it lists {len(found)} machines of {body.get('total_instances')}")
                return list(found.values())
        raise InconclusiveListing("its list of machines does not end")

    def _again(self, do: Callable[[], Result]) -> Result:
        for tries in range(1, TRIES):
            try:
                return do()
            except LockedOut:
                raise
            except InconclusiveListing:
                self.rest(tries)
        return do()

    def _call(self, method: str, path: str, query: Row | None = None) -> tuple[int, Row]:
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        try:
            answer = self._http.request(
                method, self._base + path, params=query, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:
            raise InconclusiveListing(f"it cannot be reached: {type(error).__name__}") from error
        finally:
            self._next_at = time.monotonic() + self._pause_s
        self._compare_clocks(answer.headers.get("Date"))
        try:
            body = answer.json()
        except ValueError:
            body = None
        body = body if isinstance(body, dict) else {}
        if answer.status_code in {401, 403} or "auth_error" in _words(body):
            raise LockedOut(f"it does not let us in: {_said(answer.status_code, body)}; look at VAST_API_KEY")
        return answer.status_code, body

    def _compare_clocks(self, date: str | None) -> None:
        try:
            self.skew_s = time.time() - email.utils.parsedate_to_datetime(date or "").timestamp()
        except (TypeError, ValueError):
            self.skew_s = 0.0


def _gone(status: int, body: Row) -> bool:
    """A 404 is read, not assumed: a wrong key gets one too."""
    return status in {404, 410} and any(word in GONE for word in _words(body))


def _words(body: Row) -> list[object]:
    """Vast.ai's word for an error, which some answers have at the head of their message only."""
    return [body.get("error"), *str(body.get("msg") or body.get("detail") or "").split()]


def _said(status: int, body: Row) -> str:
    return f"status {status} {str(body.get('msg') or body.get('detail') or body.get('error') or '')[:200]}".strip()


def began(row: Row, deployment: str) -> float | None:
    """Since when the machine is there, in seconds since 1970; None for one that is not this deployment's."""
    label = row.get("label")
    found = LABEL.fullmatch(label) if isinstance(label, str) else None
    if found is None or found["deployment"] != deployment:
        return None
    meant, started = float(found["epoch"]), row.get("start_date")
    # the gateway's clock may have been ahead
    return min(meant, float(started)) if isinstance(started, int | float) and started >= 1e9 else meant


class Reaper:
    """One run."""

    def __init__(self, vast: Vast, wish: argparse.Namespace) -> None:
        self._vast, self._wish = vast, wish
        self._done: set[int] = set()
        self._left: set[int] = set()

    def run(self) -> bool:
        """Whether all is gone that should be. Raises InconclusiveListing."""
        for looks in range(TRIES):
            doomed = self._doomed(self._vast.instances())
            if self._wish.dry_run:
                for row, age_s in doomed:
                    tell(f"{named(row, age_s)} would be destroyed")
                return not doomed
            if not doomed and looks:  # one listing alone may lag
                return not self._left
            for row, age_s in doomed:
                self._end(row, age_s)
        tell("new machines came as fast as they were destroyed: is a gateway running?")
        return False

    def _doomed(self, rows: list[Row]) -> list[tuple[Row, float]]:
        """Those that shall go and were not tried yet, with their ages in seconds, the oldest first."""
        if not self._wish.all and abs(self._vast.skew_s) > SKEW_S:
            raise InconclusiveListing(
                f"its clock and this machine's differ by {self._vast.skew_s:.0f} s; ages cannot be told"
            )
        now, tried = time.time(), self._done | self._left
        ours = [(row, now - at) for row in rows if (at := began(row, self._wish.deployment)) is not None]
        due = [one for one in ours if (self._wish.all or one[1] > self._wish.max_age) and one[0]["id"] not in tried]
        return sorted(due, key=lambda one: -one[1])

    def _end(self, row: Row, age_s: float) -> None:
        instance_id = row["id"]
        if len(self._done) + len(self._left) >= self._wish.most:
            tell(f"{named(row, age_s)} is left: only {self._wish.most} are destroyed in a run (--most)")
            self._left.add(instance_id)
            return
        try:
            ended = self._destroyed(row)
        except LockedOut:
            raise
        except InconclusiveListing as error:
            tell(f"{named(row, age_s)} is left: {error}")
            self._left.add(instance_id)
            return
        (self._done if ended else self._left).add(instance_id)

    def _destroyed(self, row: Row) -> bool:
        """Whether it is proven to be gone."""
        instance_id, name = row["id"], f"{row['id']} {row['label']}"
        for tries in range(TRIES):
            shown = self._vast.show(instance_id)
            if shown is None:
                if tries:  # else a listing that lags showed it
                    tell(f"{name} is destroyed")
                return True
            if shown.get("label") != row["label"]:
                tell(f"{name} is left: its label is {shown.get('label')!r} now")
                return False
            if tries:
                self._vast.rest(1)
            self._vast.destroy(instance_id)
        if self._vast.show(instance_id) is None:
            tell(f"{name} is destroyed")
            return True
        tell(f"{name} is left: it is still there after {TRIES} destroys")
        return False


def named(row: Row, age_s: float) -> str:
    price = row.get("dph_total")
    cost = f", ${price:.3f} an hour" if isinstance(price, int | float) else ""
    return f"{row['id']} {row['label']} ({age_s / 3600:.1f} h{cost})"


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    head, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="reap", description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lifetime_s = os.environ.get("VAST_MAX_LIFETIME") or str(LIFETIME_S)
    oldest = f"default: VAST_MAX_LIFETIME ({LIFETIME_S}) and {GRACE_S}"
    parser.add_argument("--deployment", default=os.environ.get("DEPLOYMENT"), help="default: DEPLOYMENT")
    parser.add_argument("--max-age", type=float, metavar="SECONDS", help=f"older ones go; {oldest}")
    parser.add_argument("--all", action="store_true", help="every machine of the deployment goes, whatever it does")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be destroyed, and destroy nothing")
    parser.add_argument("--most", type=int, default=MOST, metavar="N", help=f"destroy so many at most ({MOST})")
    parser.add_argument("--pause", type=float, default=PAUSE_S, metavar="SECONDS", help=argparse.SUPPRESS)
    wish = parser.parse_args(argv)
    if not re.fullmatch(r"[a-z0-9-]{1,32}", wish.deployment or ""):
        parser.error("--deployment or DEPLOYMENT must name the deployment, as the gateway's DEPLOYMENT does")
    if not os.environ.get("VAST_API_KEY"):
        parser.error("VAST_API_KEY is not set")
    try:
        wish.max_age = wish.max_age if wish.max_age is not None else float(lifetime_s) + GRACE_S
    except ValueError:
        parser.error("VAST_MAX_LIFETIME is no number")
    if not wish.max_age >= GRACE_S:  # no number neither
        parser.error(f"--max-age: {GRACE_S} at least; --all takes all")
    return wish


def main(argv: list[str] | None = None) -> int:
    wish = arguments(argv)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(RUN_S)
    vast = Vast(os.environ.get("VAST_API_BASE") or BASE, os.environ["VAST_API_KEY"], wish.pause)
    try:
        return 0 if Reaper(vast, wish).run() else 1
    except (InconclusiveListing, TooLong) as error:
        sys.stderr.write(f"Vast.ai was of no use: {error}\n")
        return 2
    finally:
        signal.alarm(0)


def _too_long(*_: object) -> NoReturn:
    raise TooLong(f"not finished after {RUN_S} s")


if __name__ == "__main__":
    sys.exit(main())
