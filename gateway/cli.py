"""The operator's commands: `flask --app gateway …`."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import AppGroup, with_appcontext

from common.clock import to_rfc3339
from common.settings import SettingsError
from gateway.access.keys import FROM_ENVIRONMENT, SCOPES, webhook_secrets
from gateway.db.command_group import OnDatabase
from gateway.db.migrations import migrate
from gateway.db.records import ApiKey
from gateway.domain.prices import usd
from gateway.providers.clouds.vast.vast_commands import vast
from gateway.providers.runpod.endpoint.runpod_commands import runpod
from gateway.providers.worker_client import credentials_of
from gateway.upkeep import backup
from gateway.wiring import services

keys = OnDatabase("keys", help="Clients' API keys.")


def register(app: Flask) -> None:
    app.cli.add_command(keys)
    app.cli.add_command(backup.command)
    app.cli.add_command(runpod)
    app.cli.add_command(vast)
    app.cli.add_command(worker_env)


def without_settings(error: SettingsError) -> Flask:
    """An application for `flask --app gateway` without valid settings: only `runpod` and `vast` work.

    Raises click.ClickException for other commands and for `flask run`.
    """
    failure = click.ClickException(f"Wrong settings: {error}")
    context = click.get_current_context(silent=True)
    if context is None or context.parent is not None:  # `flask run` and similar, which run any application
        raise failure from error
    app = Flask(__name__, static_folder=None)
    app.cli = _OnlyProviders(failure)
    return app


class _OnlyProviders(AppGroup):
    def __init__(self, failure: click.ClickException) -> None:
        super().__init__(commands=[runpod, vast])
        self._failure = failure

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if command := super().get_command(ctx, cmd_name):
            return command
        raise self._failure


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=("jobs",),
    show_default=True,
    help="What it may do: create and follow jobs, read /metrics, or everything. May be given more than once.",
)
def create(name: str, scopes: tuple[str, ...]) -> None:
    """Create a key for the client NAME and print it. It cannot be shown again."""
    migrate(services().settings)
    key, secret = services().keys.create(name, scopes)
    click.echo(f"{key.id}  {name} ({key.scopes})", err=True)
    click.echo(secret)


@keys.command("list")
def list_keys() -> None:
    """List all keys with their scopes and what their jobs have cost today (UTC)."""
    here = services()
    migrate(here.settings)
    now = here.clock.now_ms()
    spent = here.store.spent_by_key(now)
    for key in here.keys.list():
        shown = f"{key.prefix}…" if key.prefix else "(hidden)"
        columns = (
            f"{key.id}  {shown:<9}",
            to_rfc3339(key.created_at),
            _validity(key, now),
            key.scopes,
            f"${usd(spent.get(key.id, 0)):.6f} today",
            f"{key.name} ({key.source})",
        )
        click.echo("  ".join(columns))


def _validity(key: ApiKey, now: int) -> str:
    if key.revoked_at is not None:
        return f"revoked {to_rfc3339(key.revoked_at)}"
    if key.previous_until is not None and now < key.previous_until:
        return f"valid, the previous secret until {to_rfc3339(key.previous_until)}"
    return "valid"


@keys.command("revoke")
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Refuse the key KEY_ID from now on."""
    _check_changeable(key_id)
    services().keys.revoke(key_id)
    click.echo(f"{key_id} is revoked.")


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace-hours",
    type=click.FloatRange(0, 24 * 365),
    default=24.0,
    show_default=True,
    help="How long the previous secret stays valid; use 0 if it may have leaked.",
)
def rotate(key_id: str, grace_hours: float) -> None:
    """Give the key KEY_ID a new secret and print it. It cannot be shown again; the key keeps its jobs and files."""
    _check_changeable(key_id)
    rotated = services().keys.rotate(key_id, round(grace_hours * 3_600_000))
    if rotated is None:
        raise click.ClickException(f"The key {key_id} is revoked.")
    key, secret = rotated
    click.echo(f"The previous secret is valid until {to_rfc3339(key.previous_until or 0)}.", err=True)
    click.echo(secret)


def _check_changeable(key_id: str) -> None:
    """Raise click.ClickException unless the key exists and is managed here."""
    migrate(services().settings)
    key = services().store.api_key(key_id)
    if key is None:
        raise click.ClickException(f"There is no key {key_id}; `keys list` shows them all.")
    if key.source == FROM_ENVIRONMENT:
        raise click.ClickException("This key comes from X_API_KEY: change or unset that and restart the gateway.")


@keys.command("webhook-secret")
@click.argument("key_id")
@click.option("--rotate", is_flag=True, help="Create a new one first; the previous one signs too for 24 hours.")
def webhook_secret(key_id: str, rotate: bool) -> None:
    """Print the secret that signs the webhooks of the key KEY_ID."""
    here = services()
    migrate(here.settings)
    key = here.keys.rotate_webhook_secret(key_id) if rotate else here.store.api_key(key_id)
    if key is None:
        raise click.ClickException(f"There is no key {key_id}; `keys list` shows them all.")
    if rotate:
        click.echo("The previous secret signs too for 24 hours.", err=True)
    click.echo(webhook_secrets(here.signer, key.id, key, here.clock.now_ms())[0])


@click.command("worker-env")
@with_appcontext
def worker_env() -> None:
    """Print the secrets that the local worker needs, as environment variables."""
    for name, value in credentials_of(services().signer)[0].environ.items():
        click.echo(f"{name}={value}")
