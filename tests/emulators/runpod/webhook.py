"""The platform's own webhook of a job: no signature, and after two more tries nobody hears of it again."""

from __future__ import annotations

import threading
import time
from typing import Any

import requests

TRIES = 3
TIMEOUT_S = 10.0


def send(url: str, document: dict[str, Any], pause_s: float) -> None:
    """Begins to send; does not wait."""
    threading.Thread(target=_send, args=(url, document, pause_s), daemon=True).start()


def _send(url: str, document: dict[str, Any], pause_s: float) -> None:
    for left in reversed(range(TRIES)):
        try:
            if requests.post(url, json=document, timeout=TIMEOUT_S).ok:
                return
        except requests.RequestException:
            pass
        if left:
            time.sleep(pause_s)
