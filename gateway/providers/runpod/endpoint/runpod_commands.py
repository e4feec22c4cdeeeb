"""`flask --app gateway runpod …`."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import AppGroup

from gateway.providers.command_support import settings_here, shown_errors
from gateway.providers.runpod.endpoint import plan_text
from gateway.providers.runpod.endpoint.failures import EndpointError
from gateway.providers.runpod.endpoint.management import Management
from gateway.providers.runpod.endpoint.plan import apply, look
from gateway.providers.runpod.endpoint.wanted import is_secret, load, name_in
from gateway.providers.runpod.settings import RunPodSettings

runpod = AppGroup(
    "runpod",
    help="The RunPod endpoint as code: runpod.toml says what is wanted. Needs RUNPOD_API_KEY and no other setting.",
)

_FILE = click.option(
    "--file", default="runpod.toml", show_default=True, type=click.Path(path_type=Path), help="What is wanted."
)
_IMAGE = click.option("--image", help="Image of the worker, account/name:tag, instead of the one in the file.")


@runpod.command("plan")
@_FILE
@_IMAGE
@click.option("--check", is_flag=True, help="Exit with 1 when `apply` would change something.")
def runpod_plan(file: Path, image: str | None, check: bool) -> None:
    """Show what is wanted, what is there, and what it costs. Changes nothing."""
    settings = settings_here().of(RunPodSettings)
    with shown_errors(EndpointError, [settings.api_key]):
        wanted = load(file, image)
        plan = look(Management(settings), wanted, settings.endpoint_id)
    click.echo(f"{plan_text.plan_text(plan)}\n\n{plan_text.costs_text(plan, settings.gpu_prices)}")
    if check and (plan.present is None or plan.changes):
        raise click.exceptions.Exit(1)


@runpod.command("apply")
@_FILE
@_IMAGE
def runpod_apply(file: Path, image: str | None) -> None:
    """Create the endpoint, or change what differs. Doing it again changes nothing."""
    settings = settings_here().of(RunPodSettings)
    with shown_errors(EndpointError, [settings.api_key]):
        wanted = load(file, image)
        secrets = [value for name, value in wanted.body["env"].items() if is_secret(name, value)]
        with shown_errors(EndpointError, [settings.api_key, *secrets]):
            management = Management(settings)
            before = look(management, wanted, settings.endpoint_id)
            click.echo(f"{plan_text.plan_text(before)}\n")
            after = apply(management, before)
    click.echo(plan_text.applied_text(before, after))
    if after.changes:
        raise click.ClickException(plan_text.kept_text(after))


@runpod.command("status")
@_FILE
def runpod_status(file: Path) -> None:
    """Show workers and queue of RUNPOD_ENDPOINT_ID, or of the endpoint that the file names."""
    settings = settings_here().of(RunPodSettings)
    with shown_errors(EndpointError, [settings.api_key]):
        name = "" if settings.endpoint_id else name_in(file)
        management = Management(settings)
        endpoint = management.find(name, settings.endpoint_id)
        if endpoint is None:
            raise EndpointError(f"There is no endpoint {name!r}; `apply` creates it.")
        key = str(endpoint["id"])
        text = plan_text.status_text(endpoint, management.workers(key), management.health(key))
    click.echo(text)
