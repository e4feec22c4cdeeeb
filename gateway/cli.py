"""`flask --app gateway …`: what an operator does by hand."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import AppGroup, with_appcontext

from gateway import backup
from gateway.auth import FROM_ENVIRONMENT, webhook_secrets
from gateway.endpoint.commands import runpod
from gateway.migrations import migrate
from gateway.providers.vast.commands import vast
from gateway.providers.worker_client import worker_secrets
from gateway.wiring import services
from wire.clock import to_rfc3339
from wire.settings import SettingsError

keys = AppGroup("keys", help="Clients' API keys.")


def register(app: Flask) -> None:
    app.cli.add_command(keys)
    app.cli.add_command(backup.command)
    app.cli.add_command(runpod)
    app.cli.add_command(vast)
    app.cli.add_command(worker_env)


def without_settings(error: SettingsError) -> Flask:
    """What `flask --app gateway` gets where no gateway is set up: `runpod` and `vast` work, the rest tells."""
    told = click.ClickException(f"Wrong settings: {error}")
    asked = click.get_current_context(silent=True)
    if asked is None or asked.parent is not None:  # `flask run` and its like, which take any application
        raise told from error
    app = Flask(__name__, static_folder=None)
    app.cli = _OnlyProviders(told)
    return app


class _OnlyProviders(AppGroup):
    def __init__(self, otherwise: click.ClickException) -> None:
        super().__init__(commands=[runpod, vast])
        self._otherwise = otherwise

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if command := super().get_command(ctx, cmd_name):
            return command
        raise self._otherwise


@keys.command("create")
@click.argument("name")
def create(name: str) -> None:
    """Make a key for the client NAME and print it. It is shown this once."""
    migrate(services().settings)
    key, secret = services().keys.create(name)
    click.echo(f"{key.id}  {name}", err=True)
    click.echo(secret)


@keys.command("list")
def show() -> None:
    """List all keys."""
    migrate(services().settings)
    for key in services().keys.list():
        state = f"revoked {to_rfc3339(key.revoked_at)}" if key.revoked_at else "valid"
        shown = f"{key.prefix}…" if key.prefix else "(hidden)"
        click.echo(f"{key.id}  {shown:<9}  {to_rfc3339(key.created_at)}  {state}  {key.name} ({key.source})")


@keys.command("revoke")
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Refuse the key with the id KEY_ID from now on."""
    migrate(services().settings)
    key = next((key for key in services().keys.list() if key.id == key_id), None)
    if key is not None and key.source == FROM_ENVIRONMENT:
        raise click.ClickException("This key comes from X_API_KEY: change or unset it there, and restart the gateway.")
    if services().keys.revoke(key_id) is None:
        raise click.ClickException(f"There is no key {key_id}; `keys list` shows them all.")
    click.echo(f"{key_id} is revoked.")


@keys.command("webhook-secret")
@click.argument("key_id")
@click.option("--rotate", is_flag=True, help="Make a new one first; the one before signs too for 24 hours.")
def webhook_secret(key_id: str, rotate: bool) -> None:
    """Print the secret that signs the webhooks of the key KEY_ID."""
    here = services()
    migrate(here.settings)
    key = here.keys.rotate_webhook_secret(key_id) if rotate else here.store.api_key(key_id)
    if key is None:
        raise click.ClickException(f"There is no key {key_id}; `keys list` shows them all.")
    if rotate:
        click.echo("The secret before this one signs too for 24 hours.", err=True)
    click.echo(webhook_secrets(here.signer, key.id, key, here.clock.now_ms())[0])


@click.command("worker-env")
@with_appcontext
def worker_env() -> None:
    """Print the secrets that the local worker needs, as lines for its environment."""
    for name, value in worker_secrets(services().signer).items():
        click.echo(f"{name}={value}")
