"""Vast.ai's API: the calls that this gateway needs, none of them made again on its own accord.

What is answered is read with distrust: a 404 may mean a wrong key, a 200 may hold a refusal, a refusal may hold the id
of an instance that now exists, and a listing counts only when it is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import requests
import structlog

from gateway.providers.base import Unavailable
from gateway.providers.http import Answer, Api
from gateway.providers.throttling import RateLimited, RateLimiter

log = structlog.get_logger(__name__)

PAGE = 25
# More pages than an account of ours can fill: a listing that does not end is none.
MOST_PAGES = 40
_GONE = ("no_such_instance", "not_found")
# Least seconds between the beginnings of two calls of a kind: what is published (4.5, 2, 1, 3) and a little more, since
# one call is longer on its way than the next. Searches are counted by the minute.
SPACING_S = {"create": 4.8, "show": 2.3, "list": 1.3, "destroy": 3.3, "account": 2.0}
SEARCHES_A_MINUTE = 10
# How long a call waits for its turn, and how long its kind rests after a 429, which never says how long.
TURN_S = 10.0
REST_S = 10.0
SEARCH_REST_S = 300.0  # searches have a quota per day

Row = Mapping[str, Any]


class InconclusiveListing(Unavailable):
    """Nothing may be concluded from what Vast.ai told, or did not tell."""


class NotCreated(Exception):
    """The create call did not answer with an instance: there may be one. `code`: Vast.ai's word, where it has one.

    `instance_id`: that of an instance that exists although the call failed.
    """

    def __init__(self, code: str, reason: str, instance_id: int | None = None) -> None:
        super().__init__(reason)
        self.code, self.instance_id = code, instance_id


class Client:
    """One account. Safe to share between threads; all of them share the least time between two calls of a kind."""

    def __init__(self, base_url: str, api_key: str) -> None:
        # A kept connection that was closed at the other end would leave the create call in doubt.
        self._api = Api(base_url, {"Authorization": f"Bearer {api_key}"}, keep_alive=False)
        self._budgets = {kind: RateLimiter(1, spacing_s, 1) for kind, spacing_s in SPACING_S.items()}
        self._budgets["search"] = RateLimiter(SEARCHES_A_MINUTE, 60, 1)

    def credit(self) -> float:
        """Dollars left on the account. Raises Unavailable."""
        answer = self._ask("account", "GET", "/api/v0/users/current/")
        told = answer.body.get("credit", answer.body.get("balance"))
        if answer.status != 200 or isinstance(told, bool) or not isinstance(told, int | float):
            _refuse(answer)
        return float(told)

    def search(self, filters: Mapping[str, Any]) -> list[Row]:
        """Offers, as Vast.ai filters them. Raises Unavailable."""
        answer = self._ask("search", "POST", "/api/v0/bundles/", filters)
        offers = answer.body.get("offers")
        if answer.status != 200 or not isinstance(offers, list):
            _refuse(answer)
        return [offer for offer in offers if isinstance(offer, Mapping)]

    def await_create(self) -> None:
        """Wait until a create call may be made. Raises Unavailable."""
        self._turn("create")

    def create(self, offer_id: int, request: Mapping[str, Any]) -> int:
        """Rent the offer; answers the instance's id. Sent once, after `await_create`. Raises NotCreated."""
        try:
            answer = self._api.call("PUT", f"/api/v0/asks/{offer_id}/", request)
        except requests.RequestException as error:
            raise NotCreated("no_answer", f"the answer was lost: {type(error).__name__}") from error
        self._rest_after(answer, "create")
        told = answer.body.get("new_contract")
        instance_id = told if type(told) is int and told > 0 else None
        if answer.status == 200 and answer.body.get("success") is True and instance_id is not None:
            return instance_id
        raise NotCreated(_word(answer), f"status {answer.status}: {_said(answer)}", instance_id)

    def instances(self) -> list[Row]:
        """All instances of the account. Raises InconclusiveListing unless the listing is whole."""
        found: dict[int, Row] = {}
        token: str | None = None
        for _ in range(MOST_PAGES):
            query = {"limit": PAGE, **({"after_token": token} if token else {})}
            answer = self._look("list", f"/api/v1/instances/?{urlencode(query)}")
            rows, total = answer.body.get("instances"), answer.body.get("total_instances")
            if answer.status != 200 or answer.body.get("success") is False or not isinstance(rows, list):
                raise InconclusiveListing(
                    f"Vast.ai does not list the instances: status {answer.status}: {_said(answer)}"
                )
            if not all(isinstance(row, Mapping) and type(row.get("id")) is int for row in rows):
                raise InconclusiveListing("Vast.ai lists instances that make no sense")
            found |= {row["id"]: row for row in rows}
            token = answer.body.get("next_token")
            if not token:
                if total != len(found):
                    raise InconclusiveListing(f"Vast.ai lists {len(found)} instances of {total}")
                return list(found.values())
        raise InconclusiveListing("Vast.ai's list of instances does not end")

    def show(self, instance_id: int) -> Row | None:
        """The instance; None when it certainly is gone. Raises InconclusiveListing."""
        answer = self._look("show", f"/api/v0/instances/{instance_id}/")
        if _gone(answer):
            return None
        row = answer.body.get("instances", answer)
        if answer.status == 200 and row is None:
            return None
        if answer.status != 200 or not isinstance(row, Mapping) or row.get("id") != instance_id:
            raise InconclusiveListing(f"Vast.ai does not show the instance: status {answer.status}: {_said(answer)}")
        return row

    def destroy(self, instance_id: int) -> bool:
        """Ask for its end. Whether it is proven to be gone: a 200 proves nothing. Raises Unavailable."""
        answer = self._ask("destroy", "DELETE", f"/api/v0/instances/{quote(str(instance_id))}/")
        if not _gone(answer) and (answer.status != 200 or answer.body.get("success") is False):
            _refuse(answer)
        return _gone(answer)

    def _look(self, kind: str, path: str) -> Answer:
        try:
            return self._ask(kind, "GET", path)
        except Unavailable as error:
            raise InconclusiveListing(str(error)) from error

    def _ask(self, kind: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        self._turn(kind)
        try:
            answer = self._api.call(method, path, body)
        except requests.RequestException as error:
            raise Unavailable(f"Vast.ai cannot be reached: {type(error).__name__}") from error
        self._rest_after(answer, kind)
        return answer

    def _turn(self, kind: str) -> None:
        """Calls of a kind begin so far apart as Vast.ai asks for; how long one takes does not matter."""
        try:
            with self._budgets[kind].call(TURN_S):
                pass
        except RateLimited as error:
            raise Unavailable("Vast.ai takes no more calls at the moment", error.retry_in_s) from error

    def _rest_after(self, answer: Answer, kind: str) -> None:
        if answer.status == 429:
            rest_s = SEARCH_REST_S if kind == "search" else REST_S
            log.warning("vast.too_many_calls", kind=kind, rest_s=rest_s)
            self._budgets[kind].close(rest_s)


def _gone(answer: Answer) -> bool:
    """A 404 is read, not assumed: a wrong key gets one too."""
    return answer.status in {404, 410} and _word(answer) in _GONE


def _word(answer: Answer) -> str:
    """Vast.ai's word for an error. Some hide it at the head of the message: `error 404/3603: no_such_ask …`."""
    word, message = answer.body.get("error"), str(answer.body.get("msg") or answer.body.get("detail") or "")
    for known in ("auth_error", *_GONE, "no_such_ask", "insufficient_credit", "spend_rate_limit"):
        if word == known or known in message.split():
            return known
    return word if isinstance(word, str) and word else f"status_{answer.status}"


def _said(answer: Answer) -> str:
    return f"{answer.body.get('msg') or answer.body.get('detail') or answer.body.get('error') or ''!s:.200}"


def _refuse(answer: Answer) -> NoReturn:
    word = _word(answer)
    if word == "auth_error" or answer.status in {401, 403}:
        raise Unavailable("Vast.ai does not let this gateway in: look at VAST_API_KEY")
    raise Unavailable(f"Vast.ai answered with status {answer.status}: {_said(answer)}".rstrip(": "))
