"""What `vast offers`, `rentals` and `destroy` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gateway.domain.rentals import FleetState, Rental, Stage
from gateway.providers.clouds.vast.client import Row
from gateway.providers.clouds.vast.offers import Offer
from gateway.providers.rental import labels
from gateway.providers.runpod.endpoint.form import table
from gateway.settings import Settings

SHOWN = 10
# Of what a machine that is rented for one job alone is paid for, beside its idle time.
BOOT_S, JOB_S = 120, 10


def offers_text(found: Sequence[Offer], avoided: int, unfit: Sequence[str | None], settings: Settings) -> str:
    """The best offers; `unfit`: of the cheapest machines at Vast.ai, why each would not be rented."""
    parts = []
    if found:
        rows = [(str(o.id), o.gpu, _price(o.price_nano / 1e9), str(o.machine_id)) for o in found[:SHOWN]]
        first, alone_s = found[0], BOOT_S + JOB_S + settings.vast_idle_timeout
        parts.append(table(("Offer", "GPU", "Dollars an hour", "Machine"), rows))
        parts.append(
            f"The first would be rented now (VAST_OFFER_ORDER={settings.vast_offer_order}, {len(found)} fit). "
            f"For a job of {JOB_S} s that comes alone, with a boot of {BOOT_S} s and "
            f"{settings.vast_idle_timeout} s idle, that is "
            f"${first.price_nano / 1e9 / 3600 * alone_s:.4f}."
        )
    else:
        parts.append("Nothing fits: nothing would be rented now.")
    if avoided:
        parts.append(f"{machines(avoided)} that would fit are rented, or failed within the last hour.")
    if reasons := Counter(filter(None, unfit)):
        lines = [(str(count), reason) for reason, count in reasons.most_common()]
        text = f"Of the {len(unfit)} cheapest machines {sum(reasons.values())} do not fit, for the first of these"
        parts.append(f"{text} reasons:\n{table(('', ''), lines).lstrip()}")
    return "\n\n".join(parts)


def obstacles(credit: float, pool: FleetState | None, settings: Settings) -> Iterator[str]:
    """Why nothing would be rented although something fits."""
    if credit < settings.vast_min_credit:
        least = f"${settings.vast_min_credit:.2f}"
        yield f"! The account has ${credit:.2f}; nothing is rented below VAST_MIN_CREDIT ({least})."
    if pool and pool.trouble:
        yield f"! The gateway rented nothing when it last tried: {pool.trouble}."


def instances_text(listed: Sequence[Row], known: Sequence[Rental] | None, settings: Settings, now: int) -> str:
    """All that is listed, ours first, and the records of which nothing is listed; `known` is None without records."""
    records = {record.remote_id: record for record in known or ()}
    rows, cost = [], 0.0
    for row in sorted(listed, key=lambda row: (not labels.ours(row, settings.deployment), row["id"])):
        ours = labels.ours(row, settings.deployment)
        record = records.pop(row["id"], None)
        cost += _number(row.get("dph_total")) * ours
        rows.append(
            (
                str(row["id"]),
                str(row.get("actual_status") or "—"),
                record.stage.value if record else "?" if known is None else "none",
                _age(row, now),
                _price(_number(row.get("dph_total"))),
                "ours" if ours else "somebody else's",
                str(row.get("label") or "—"),
            )
        )
    for record in known or ():
        if record.remote_id is None or record.remote_id in records:
            age, price = _hours(now - record.created_at), _price(record.nano_per_s * 3600 / 1e9)
            rows.append(
                (str(record.remote_id or "—"), "not listed", record.stage.value, age, price, "ours", record.label)
            )
    if not rows:
        return "Nothing is rented."
    count = sum(row[5] == "ours" and row[1] != "not listed" for row in rows)
    head = ("Rental", "At Vast.ai", "Record", "Age", "Dollars an hour", "Whose", "Label")
    parts = [table(head, rows), f"{machines(count)} of {settings.deployment}: ${cost:.3f} an hour."]
    if told := list(_hints(rows)):
        parts.append("\n".join(told))
    return "\n\n".join(parts)


def machines(count: int) -> str:
    return f"{count} machine" if count == 1 else f"{count} machines"


def _hints(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    ours = [row for row in rows if row[5] == "ours"]
    if any(row[2] == "none" for row in ours):
        yield "! A machine of ours has no record: a gateway that runs destroys it soon, `destroy` does it now."
    if any(row[1] in {"stopped", "exited", "offline"} for row in ours):
        yield "! What is stopped costs on for its disk, until it is destroyed."
    if any(row[1] == "not listed" and row[2] == Stage.AMBIGUOUS for row in ours):
        yield "! Nobody knows whether an ambiguous one exists: the gateway looks for its label."


def _age(row: Row, now: int) -> str:
    started = _number(row.get("start_date"))
    return _hours(now - started * 1000) if started else "—"


def _hours(ms: float) -> str:
    minutes = max(0, int(ms // 60_000))
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _price(dollars: float) -> str:
    return f"{dollars:.3f}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
