"""What `vast offers`, `rentals` and `destroy` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gateway.domain.rentals import FleetState, Rental, Stage
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.command_support import counted, table
from gateway.providers.rental import labels
from gateway.providers.rental.cloud import Machine, Offer
from gateway.providers.rental.comparison import BOOT_S, JOB_S, JOBS, rental_nano

SHOWN = 10


def offers_text(found: Sequence[Offer], avoided: int, unfit: Sequence[str | None], settings: VastSettings) -> str:
    """The best offers, and the reasons (`unfit`) why the cheapest machines at Vast.ai would not be rented."""
    parts = []
    if found:
        head = ("Offer", "GPU", "Dollars an hour", "a GB in", "a GB out", f"{JOBS} jobs", "Machine")
        parts.append(table(head, [_offer_row(offer, settings) for offer in found[:SHOWN]]))
        alone = rental_nano(found[0], settings, jobs=1) / 1e9
        parts.append(
            f"The first would be rented now (VAST_OFFER_ORDER={settings.offer_order}, {len(found)} fit). "
            f"A single job of {JOB_S} s, with a boot of {BOOT_S} s, {settings.idle_timeout} s idle and its traffic "
            f"({settings.image_gb:g} GB for the image), costs ${alone:.4f}."
        )
    else:
        parts.append("Nothing fits: nothing would be rented now.")
    if avoided:
        parts.append(f"{counted(avoided, 'machine')} that would fit are rented, or failed within the last hour.")
    if reasons := Counter(filter(None, unfit)):
        lines = [(str(count), reason) for reason, count in reasons.most_common()]
        text = f"{sum(reasons.values())} of the {len(unfit)} cheapest machines do not fit; the first reason for each"
        parts.append(f"{text}:\n{table(('', ''), lines).lstrip()}")
    return "\n\n".join(parts)


def _offer_row(offer: Offer, settings: VastSettings) -> tuple[str, ...]:
    prices = (offer.price_nano, offer.traffic.down, offer.traffic.up, rental_nano(offer, settings))
    return str(offer.id), offer.gpu, *(_price(nano / 1e9) for nano in prices), str(offer.machine_id)


def obstacles(credit: float, fleet: FleetState | None, settings: VastSettings) -> Iterator[str]:
    """Why nothing would be rented although something fits."""
    if credit < settings.min_credit:
        minimum = f"${settings.min_credit:.2f}"
        yield f"! The account has ${credit:.2f}; nothing is rented below VAST_MIN_CREDIT ({minimum})."
    if fleet and fleet.trouble:
        yield f"! The gateway rented nothing when it last tried: {fleet.trouble}."


def rentals_text(listed: Sequence[Machine], known: Sequence[Rental] | None, settings: VastSettings, now: int) -> str:
    """All listed machines, ours first, and the records without a machine; `known` is None without a database."""
    records = {record.remote_id: record for record in known or ()}
    rows, cost = [], 0.0
    for machine in sorted(listed, key=lambda m: (not labels.ours(m.label, settings.deployment), m.id)):
        ours = labels.ours(machine.label, settings.deployment)
        record = records.pop(machine.id, None)
        cost += (machine.price or 0) * ours
        rows.append(
            (
                str(machine.id),
                machine.word,
                record.stage.value if record else "?" if known is None else "none",
                _hours(now - machine.started_at * 1000) if machine.started_at else "—",
                _price(machine.price or 0),
                "ours" if ours else "another's",
                machine.label or "—",
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
    parts = [table(head, rows), f"{counted(count, 'machine')} of {settings.deployment}: ${cost:.3f} an hour."]
    if hints := list(_hints(rows)):
        parts.append("\n".join(hints))
    return "\n\n".join(parts)


def _hints(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    ours = [row for row in rows if row[5] == "ours"]
    if any(row[2] == "none" for row in ours):
        yield "! A machine of ours has no record: a running gateway destroys it soon, `destroy` does it now."
    if any(row[1] in {"stopped", "exited", "offline"} for row in ours):
        yield "! A stopped machine is billed for its disk until it is destroyed."
    if any(row[1] == "not listed" and row[2] == Stage.AMBIGUOUS for row in ours):
        yield "! An ambiguous machine may or may not exist: the gateway looks for its label."


def _hours(ms: float) -> str:
    minutes = max(0, int(ms // 60_000))
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _price(dollars: float) -> str:
    return f"{dollars:.3f}"
