"""Sends webhooks that are due, each on a thread of its own; the dispatcher's loop calls `tick`.

Like the dispatcher it takes a lease, sends outside transactions, and writes only while the lease holds. After a crash
the lease expires and the webhook is sent again with the same id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import requests
import structlog
from sqlalchemy.exc import SQLAlchemyError

from common import safe_http
from common.clock import Clock
from gateway.access.keys import webhook_secrets
from gateway.db.store import Store
from gateway.db.transaction import StaleLease
from gateway.dispatch.notifier import ChangeNotifier
from gateway.domain import ids, webhooks
from gateway.domain.jobs import Job
from gateway.domain.webhooks import Outcome, Webhook, WebhookState
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.upkeep.metrics import Metrics
from gateway.webhooks import message

log = structlog.get_logger(__name__)

# Webhooks sent at once: in total, of one key, and to one host. A slow host delays only the webhooks to it, and many of
# them only those of their key.
POOL = 16
PER_KEY = 12
PER_HOST = 2
TRY_S = 15.0
LEASE_MS = 60_000
STOP_S = 3.0


class Sender:
    """Sends due webhooks. `describe` returns the document of a job."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        describe: Callable[[Job], Mapping[str, Any]],
        signer: Signer,
        clock: Clock,
        notifier: ChangeNotifier,
        metrics: Metrics,
    ) -> None:
        self._settings, self._store, self._describe = settings, store, describe
        self._signer, self._clock, self._notifier, self._metrics = signer, clock, notifier, metrics
        self._lock = threading.Lock()
        self._keys, self._hosts = Counter[str](), Counter[str]()  # how many are being sent
        self._threads: set[threading.Thread] = set()

    def tick(self) -> int:
        """Start due webhooks within the limits, without waiting for them. Returns their number."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        started = 0
        while chosen := self._choose():
            now = self._clock.now_ms()
            token = ids.ulid(now)
            with self._store.transaction() as tx:
                leased = tx.lease_webhooks(chosen, token, now, now + LEASE_MS)
            for webhook in leased:
                self._start(webhook, token)
            started += len(leased)
        return started

    def settle(self) -> None:
        """Wait for webhooks in progress."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Wait up to STOP_S for webhooks in progress; those that are cut off are sent again after the next start."""
        ends_at = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))

    def _choose(self) -> list[str]:
        """Due webhooks within the limits of the pool, their keys and their hosts."""
        with self._lock:
            keys, hosts = Counter(self._keys), Counter(self._hosts)
        free = POOL - keys.total()
        if free <= 0:
            return []
        full_keys, full_hosts = _at_least(keys, PER_KEY), _at_least(hosts, PER_HOST)
        found = self._store.due_webhooks(self._clock.now_ms(), free, not_keys=full_keys, not_hosts=full_hosts)
        chosen = []
        for job_id, key_id, host in found:
            if keys[key_id] < PER_KEY and hosts[host] < PER_HOST:
                keys[key_id] += 1
                hosts[host] += 1
                chosen.append(job_id)
        return chosen

    def _start(self, webhook: Webhook, token: str) -> None:
        with self._lock:
            self._keys[webhook.key_id] += 1
            self._hosts[webhook.host] += 1
        # Not an executor: its threads delay the end of the process.
        thread = threading.Thread(target=self._run, args=(webhook, token), name="webhook", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self, webhook: Webhook, token: str) -> None:
        with structlog.contextvars.bound_contextvars(job_id=webhook.job_id, webhook_id=webhook.id):
            try:
                self._send(webhook, token)
            except StaleLease:
                log.info("webhook.lease_lost")
            except Exception:
                # The lease expires and the webhook is sent again.
                log.exception("webhook.try_aborted")
            finally:
                with self._lock:
                    self._keys -= Counter({webhook.key_id: 1})
                    self._hosts -= Counter({webhook.host: 1})
                self._notifier.notify()

    def _send(self, webhook: Webhook, token: str) -> None:
        job = self._store.job(webhook.job_id)
        if job is None:
            return
        outcome = _outcome(lambda: self._post(webhook, job))
        webhook = webhooks.tried(webhook, outcome, self._clock.now_ms())
        with self._store.transaction() as tx:
            tx.save_webhook(webhook, lease_token=token)
        self._metrics.webhook_tried(webhook)
        _log(job, webhook)

    def _post(self, webhook: Webhook, job: Job) -> safe_http.PostResponse:
        body = message.body(job, self._describe(job))
        now = self._clock.now_ms()
        secrets = webhook_secrets(self._signer, job.key_id, self._store.api_key(job.key_id), now)
        headers = message.headers(webhook.id, secrets, body, now)
        allowed = self._settings.webhook_allow_origins
        return safe_http.post(job.webhook_url or "", body, headers, timeout_s=TRY_S, allow_origins=allowed)


def _at_least(counts: Counter[str], limit: int) -> list[str]:
    return [name for name, count in counts.items() if count >= limit]


def _outcome(post: Callable[[], safe_http.PostResponse]) -> Outcome:
    """Call `post` and describe the outcome for the client, without any text of the receiver."""
    try:
        response = post()
    except safe_http.ForbiddenUrl:
        return Outcome(error="the address is not public")
    except safe_http.TooSlow:
        return Outcome(error=f"no response within {TRY_S:g} s")
    except requests.exceptions.SSLError:
        return Outcome(error="no encrypted connection")
    except requests.ConnectionError:
        return Outcome(error="no connection, or it broke")
    except requests.RequestException as error:
        # An invalid URL. The error's text may contain it with its password.
        log.warning("webhook.try_failed", reason=type(error).__name__)
        return Outcome(error="it could not be sent")
    except SQLAlchemyError:
        raise  # our own database: this is not a try
    except Exception:
        # Caused by an unusual URL or response. It counts as a try, so that the tries end.
        log.warning("webhook.try_failed", exc_info=True)
        return Outcome(error="it could not be sent")
    return Outcome(response.status, retry_after=response.headers.get("Retry-After"))


def _log(job: Job, webhook: Webhook) -> None:
    log.log(
        logging.INFO if webhook.state is WebhookState.SUCCEEDED else logging.WARNING,
        "webhook.tried",
        request_id=job.request_id,
        state=str(webhook.state),
        host=webhook.host,
        status_code=webhook.last_status_code,
        reason=webhook.last_error,
        tries=webhook.tries,
        next_at=webhook.next_at,
    )
