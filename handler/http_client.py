"""HTTP calls to the gateway and its storage, and what may be logged of their failures."""

from __future__ import annotations

import requests


def session() -> requests.Session:
    """A session that ignores the environment: no proxy sees tokens and signed URLs, no .netrc replaces them."""
    http = requests.Session()
    http.trust_env = False
    return http


def error_classes(error: BaseException) -> str:
    """The classes of `error` and its causes: `ConnectionError < MaxRetryError < … < ConnectionRefusedError`.

    Without their messages, which repeat the URL, and that may hold a password or a signature.
    """
    names = []
    cause: BaseException | None = error
    while cause is not None:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return " < ".join(names)
