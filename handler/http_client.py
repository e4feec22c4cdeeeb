"""HTTP sessions for calls to the gateway and its storage, and errors in a form that may be logged."""

from __future__ import annotations

import requests

from common.safe_http import TimelyAdapter


def session() -> requests.Session:
    """A session that ignores the environment: no proxy sees tokens and signed URLs, no .netrc replaces them.

    Closing it closes its connections.
    """
    http = requests.Session()
    http.trust_env = False
    for scheme in ("http://", "https://"):
        http.mount(scheme, TimelyAdapter())
    return http


def error_classes(error: BaseException) -> str:
    """The classes of `error` and its causes: `ConnectionError < MaxRetryError < … < ConnectionRefusedError`.

    Messages are left out, because they contain the URL, which may contain a password or a signature.
    """
    names = []
    cause: BaseException | None = error
    while cause is not None:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return " < ".join(names)
