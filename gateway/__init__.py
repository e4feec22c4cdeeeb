"""The gateway: accepts jobs over HTTP, dispatches them to workers and returns URLs of the finished files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `python -m gateway.providers.clouds.vast.reap` runs without Flask
    from flask import Flask

    from gateway.settings import Settings


def create_app(settings: Settings | None = None) -> Flask:
    """Create the application; `settings` default to the environment. Starts no thread and does not migrate."""
    from flask import Flask

    from common.settings import SettingsError
    from gateway import cli
    from gateway.api import application
    from gateway.configuration import check, load
    from gateway.wiring import Services

    if settings is None:
        try:
            settings = load()
        except SettingsError as error:
            return cli.without_settings(error)
    check(settings)
    app = Flask(__name__, static_folder=None)
    app.extensions["reelay"] = Services.wire(settings)
    application.register(app, settings)
    cli.register(app)
    return app
