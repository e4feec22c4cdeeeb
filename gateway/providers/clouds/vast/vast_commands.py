"""`flask --app gateway vast …`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click
from flask import current_app

from common.clock import SystemClock
from gateway.db import rental_store
from gateway.db.command_group import OnDatabase
from gateway.db.migrations import migrate
from gateway.db.rental_store import Rentals
from gateway.domain.rentals import CHANGES, Rental, Stage, move
from gateway.providers.base import Unavailable
from gateway.providers.clouds.vast import PROVIDER, offers, rental_text
from gateway.providers.clouds.vast.client import Client, Row
from gateway.providers.rental import labels
from gateway.providers.rental.provisioner import free
from gateway.providers.runpod.endpoint.form import HIDDEN
from gateway.providers.runpod.endpoint.runpod_commands import settings_here
from gateway.settings import Settings
from gateway.wiring import services

Answer = TypeVar("Answer")

# A destroy that was answered well may have done nothing.
TRIES, PAUSE_S = 5, 3.0
LOOKS = 3
# `code` of a machine that was ended by hand.
BY_HAND = "operator"

vast = OnDatabase(
    "vast",
    help="Machines rented at Vast.ai. Needs VAST_API_KEY and DEPLOYMENT; where a gateway is set up, its database too.",
    hint="python -m gateway.providers.clouds.vast.reap needs none, and ends what this DEPLOYMENT has rented.",
)


@vast.command("offers")
def vast_offers() -> None:
    """Show what would be rented now, what it costs, and why cheaper machines would not. Rents nothing."""
    settings = _settings()
    with _told(settings):
        client = Client(settings.vast_api_base, settings.vast_api_key or "")
        credit = _patiently(client.credit)
        fitting = offers.usable(_patiently(lambda: client.search(offers.query(settings))), settings)
        cheapest = _patiently(lambda: client.search(offers.wide_query()))
    rows = _rows(settings)
    found = free(fitting, rows, SystemClock().now_ms()) if rows else fitting
    unfit = [offers.unfit(row, settings) for row in cheapest]
    click.echo(rental_text.offers_text(found, len(fitting) - len(found), unfit, settings))
    if told := list(rental_text.obstacles(credit, rows.fleet_state() if rows else None, settings)):
        click.echo("\n" + "\n".join(told))
    if not found:
        raise click.exceptions.Exit(1)


@vast.command("rentals")
def vast_instances() -> None:
    """Show what lives at Vast.ai beside what the gateway knows of it."""
    settings = _settings(deployment=True)
    with _told(settings):
        listed = _patiently(Client(settings.vast_api_base, settings.vast_api_key or "").instances)
    rows = _rows(settings)
    known = rows.living() if rows else None
    click.echo(rental_text.instances_text(listed, known, settings, SystemClock().now_ms()))


@vast.command("destroy")
@click.argument("rental", required=False)
@click.option("--all", "all_", is_flag=True, help="All of this DEPLOYMENT.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def vast_destroy(rental: str | None, all_: bool, yes: bool) -> None:
    """Destroy the machine with Vast.ai's id INSTANCE, or with the gateway's, and wait for the proof."""
    if (rental is None) is not all_:
        raise click.UsageError("Name a rental, or give --all.")
    settings = _settings(deployment=True)
    rows = _rows(settings)
    with _told(settings):
        client = Client(settings.vast_api_base, settings.vast_api_key or "")
        listed = _patiently(client.instances)
        chosen = (
            [row for row in listed if labels.ours(row, settings.deployment)]
            if all_
            else [_named(rental or "", listed, rows)]
        )
        for row in chosen:
            if not labels.ours(row, settings.deployment):
                raise click.ClickException(
                    f"{row['id']} has the label {row.get('label')!r}, which is not one of {settings.deployment}: "
                    "it is left alone."
                )
        if not chosen:
            click.echo("There is nothing to destroy.")
            return
        click.echo(
            rental_text.instances_text(chosen, rows.living() if rows else None, settings, SystemClock().now_ms())
        )
        if not yes:
            click.confirm(f"Destroy {rental_text.machines(len(chosen))}? Jobs there begin anew elsewhere", abort=True)
        left = [row["id"] for row in chosen if not _destroyed(client, row, rows)]
    if left:
        raise click.ClickException(f"Not gone yet: {', '.join(map(str, left))}. They are paid for until they are.")


def _settings(*, deployment: bool = False) -> Settings:
    settings = settings_here()
    if not settings.vast_api_key:
        raise click.ClickException("VAST_API_KEY is not set.")
    if deployment and not settings.deployment:
        raise click.ClickException("DEPLOYMENT is not set: without it nobody knows which machines are ours.")
    return settings


def _rows(settings: Settings) -> Rentals | None:
    """The records of the gateway; None where none is set up."""
    if "reelay" not in current_app.extensions:
        return None
    migrate(settings)
    return Rentals(services().store, PROVIDER)


def _named(name: str, listed: list[Row], rows: Rentals | None) -> Row:
    record = rows.get(name) if rows else None
    wanted = str(record.remote_id) if record else name
    for row in listed:
        if str(row["id"]) == wanted:
            return row
    raise click.ClickException(f"Vast.ai lists no rental {name}; `rentals` shows them all.")


def _destroyed(client: Client, row: Row, rows: Rentals | None) -> bool:
    """Whether it is proven to be gone. What is recorded comes first, so that no job goes there in the meantime."""
    record = next((one for one in rows.living() if one.remote_id == row["id"]), None) if rows else None
    if record:
        _record(record, Stage.DESTROYING)
    for _ in range(TRIES):
        try:
            shown = client.show(row["id"])
            if shown is not None and shown.get("label") != row["label"]:
                click.echo(f"{row['id']} has another label by now and is left alone.")
                return False
            if shown is None or client.destroy(row["id"]) or client.show(row["id"]) is None:
                click.echo(f"{row['id']} is destroyed.")
                if record:
                    _record(record, Stage.GONE)
                return True
        except Unavailable as error:
            click.echo(f"{row['id']}: {error}", err=True)
        time.sleep(PAUSE_S)
    return False


def _record(record: Rental, stage: Stage) -> None:
    """The pool of a gateway that runs may have changed it since; it does not mind this change."""
    here = services()
    with here.store.transaction() as tx:
        fresh = rental_store.one_locked(tx, record.id)
        if stage in CHANGES[fresh.stage]:
            why = {"code": BY_HAND, "reason": "it was destroyed by hand"} if stage is Stage.DESTROYING else {}
            rental_store.save(tx, move(fresh, stage, here.clock.now_ms(), **why))


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """A gateway that calls with the same key at the same moment makes Vast.ai refuse one of the two."""
    for _ in range(LOOKS - 1):
        try:
            return ask()
        except Unavailable:
            time.sleep(PAUSE_S)
    return ask()


@contextmanager
def _told(settings: Settings) -> Iterator[None]:
    """Errors as text, without the key."""
    try:
        yield
    except Unavailable as error:
        raise click.ClickException(str(error).replace(settings.vast_api_key or "", HIDDEN)) from error
