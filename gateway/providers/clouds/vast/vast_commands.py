"""`flask --app gateway vast …`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
from gateway.providers.clouds.vast import offers, rental_text
from gateway.providers.clouds.vast.client import VastCloud
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.command_support import counted, settings_here, shown_errors
from gateway.providers.rental import labels
from gateway.providers.rental.cloud import Machine
from gateway.providers.rental.provisioner import free
from gateway.wiring import services

Answer = TypeVar("Answer")

# An accepted destroy call may have had no effect.
TRIES, PAUSE_S = 5, 3.0
LOOKS = 3
# `code` of a machine that was ended by hand.
BY_HAND = "operator"

vast = OnDatabase(
    "vast",
    help="Machines rented at Vast.ai. Needs VAST_API_KEY and DEPLOYMENT; where a gateway is set up, its database too.",
    hint="python -m gateway.providers.clouds.vast.reap needs none, and destroys what this DEPLOYMENT has rented.",
)


@vast.command("offers")
def vast_offers() -> None:
    """Show what would be rented now, what it costs, and why cheaper machines would not. Rents nothing."""
    settings = _settings()
    cloud = VastCloud(settings)
    with shown_errors(Unavailable, [settings.api_key]):
        credit = _retried(cloud.credit)
        fitting = _retried(cloud.search)
        cheapest = _retried(lambda: cloud.offer_rows(offers.wide_query()))
    rows = _rows()
    found = free(fitting, rows, SystemClock().now_ms()) if rows else fitting
    unfit = [offers.unfit(row, settings) for row in cheapest]
    click.echo(rental_text.offers_text(found, len(fitting) - len(found), unfit, settings))
    if obstacles := list(rental_text.obstacles(credit, rows.fleet_state() if rows else None, settings)):
        click.echo("\n" + "\n".join(obstacles))
    if not found:
        raise click.exceptions.Exit(1)


@vast.command("rentals")
def vast_rentals() -> None:
    """Show the machines at Vast.ai next to the gateway's records of them."""
    settings = _settings(deployment=True)
    with shown_errors(Unavailable, [settings.api_key]):
        listed = _retried(VastCloud(settings).list)
    _show(listed, _rows(), settings)


@vast.command("destroy")
@click.argument("rental", required=False)
@click.option("--all", "all_", is_flag=True, help="All of this DEPLOYMENT.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def vast_destroy(rental: str | None, all_: bool, yes: bool) -> None:
    """Destroy the machine RENTAL, by Vast.ai's id or the gateway's, and wait for the proof."""
    if (rental is None) is not all_:
        raise click.UsageError("Name a rental, or give --all.")
    settings = _settings(deployment=True)
    rows, cloud = _rows(), VastCloud(settings)
    with shown_errors(Unavailable, [settings.api_key]):
        listed = _retried(cloud.list)
        if all_:
            chosen = [machine for machine in listed if labels.ours(machine.label, settings.deployment)]
        else:
            chosen = [_named(rental or "", listed, rows, settings)]
        if not chosen:
            click.echo("There is nothing to destroy.")
            return
        _show(chosen, rows, settings)
        if not yes:
            click.confirm(f"Destroy {counted(len(chosen), 'machine')}? Their jobs start again elsewhere", abort=True)
        left = [machine.id for machine in chosen if not _destroyed(cloud, machine, rows)]
    if left:
        raise click.ClickException(f"Not gone yet: {', '.join(map(str, left))}. They are billed until they are gone.")


def _settings(*, deployment: bool = False) -> VastSettings:
    settings = settings_here().of(VastSettings)
    if not settings.api_key:
        raise click.ClickException("VAST_API_KEY is not set.")
    if deployment and not settings.deployment:
        raise click.ClickException("DEPLOYMENT is not set: without it our machines cannot be identified.")
    return settings


def _rows() -> Rentals | None:
    """The records of the gateway; None where none is set up."""
    if "reelay" not in current_app.extensions:
        return None
    migrate(services().settings)
    return Rentals(services().store, VastCloud.name)


def _show(machines: Sequence[Machine], rows: Rentals | None, settings: VastSettings) -> None:
    known = rows.living() if rows else None
    click.echo(rental_text.rentals_text(machines, known, settings, SystemClock().now_ms()))


def _named(name: str, listed: Sequence[Machine], rows: Rentals | None, settings: VastSettings) -> Machine:
    record = rows.get(name) if rows else None
    wanted = str(record.remote_id) if record else name
    found = next((machine for machine in listed if str(machine.id) == wanted), None)
    if found is None:
        raise click.ClickException(f"Vast.ai lists no rental {name}; `rentals` shows them all.")
    if not labels.ours(found.label, settings.deployment):
        raise click.ClickException(
            f"{found.id} has the label {found.label!r}, which is not one of {settings.deployment}: it is left alone."
        )
    return found


def _destroyed(cloud: VastCloud, machine: Machine, rows: Rentals | None) -> bool:
    """Destroy the machine, after its record, so that it gets no jobs; return whether it is proven to be gone."""
    record = next((one for one in rows.living() if one.remote_id == machine.id), None) if rows else None
    if record:
        _record(record, Stage.DESTROYING)
    for _ in range(TRIES):
        try:
            shown = cloud.get(machine.id)
            if shown is not None and shown.label != machine.label:
                click.echo(f"{machine.id} has another label now and is left alone.")
                return False
            if shown is None or cloud.destroy(machine.id) or cloud.get(machine.id) is None:
                click.echo(f"{machine.id} is destroyed.")
                if record:
                    _record(record, Stage.GONE)
                return True
        except Unavailable as error:
            click.echo(f"{machine.id}: {error}", err=True)
        time.sleep(PAUSE_S)
    return False


def _record(record: Rental, stage: Stage) -> None:
    """Change the record's stage, if its present stage allows it: a running gateway may have changed it meanwhile."""
    here = services()
    with here.store.transaction() as tx:
        fresh = rental_store.one_locked(tx, record.id)
        if stage in CHANGES[fresh.stage]:
            why = {"code": BY_HAND, "reason": "it was destroyed by hand"} if stage is Stage.DESTROYING else {}
            rental_store.save(tx, move(fresh, stage, here.clock.now_ms(), **why))


def _retried(ask: Callable[[], Answer]) -> Answer:
    """Retry a call: Vast.ai refuses one of two simultaneous calls with the same key, such as a gateway's."""
    for _ in range(LOOKS - 1):
        try:
            return ask()
        except Unavailable:
            time.sleep(PAUSE_S)
    return ask()
