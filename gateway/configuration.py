"""Reads and checks all settings, the gateway's and those of its providers, and reports all mistakes together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from common.settings import SettingsError, environment, read, variable
from gateway.providers.base import Registration
from gateway.providers.registry import PROVIDERS
from gateway.settings import Settings, mistakes, secrets_of


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """All settings, from `environ` or the environment and `.env`. Raises SettingsError naming every mistake."""
    environ = environment() if environ is None else environ
    classes: list[type[Any]] = [Settings, *(registration.settings for registration in PROVIDERS.values())]
    parts: list[Any] = []
    wrong: list[str] = []
    for cls in classes:
        try:
            parts.append(read(cls, environ))
        except SettingsError as error:
            wrong.append(str(error))
    if wrong:
        raise SettingsError(" ".join(dict.fromkeys(wrong)))
    settings: Settings = parts[0]
    return settings.with_parts(*parts[1:])


def load() -> Settings:
    """The environment's settings, checked, with a DATA_DIR that can be used. Raises SettingsError."""
    settings = read_settings()
    check(settings)
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        secrets_of(settings)
        settings.files_dir.mkdir(parents=True, exist_ok=True)
        for folder in (settings.data_dir, settings.files_dir):
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise SettingsError(f"DATA_DIR: {settings.data_dir} cannot be used: {error.strerror}.") from error
    return settings


def check(settings: Settings) -> None:
    """Check the settings together. Raises SettingsError with all mistakes."""
    if wrong := [*_mistakes_of_providers(settings), *mistakes(settings)]:
        raise SettingsError(" ".join(wrong))


def _mistakes_of_providers(settings: Settings) -> Iterator[str]:
    """Report mistakes in the settings of the providers in PROVIDERS; those of other providers do not matter."""
    if not settings.providers:
        yield "PROVIDERS: must be set, for example PROVIDERS=local."
    for name in settings.providers or ():
        if name in PROVIDERS:
            yield from _mistakes_of(PROVIDERS[name], settings)
        else:
            yield f"PROVIDERS: unknown provider {name!r}; known: {', '.join(PROVIDERS)}."


def _mistakes_of(registration: Registration[Any], settings: Settings) -> Iterator[str]:
    cls, own = registration.settings, settings.of(registration.settings)
    for name in registration.required:
        if not getattr(own, name):
            yield f"{variable(cls, name)}: must be set for the provider {registration.name}."
    # with S3 and without events, no worker calls the gateway
    never_called = settings.storage == "s3" and not settings.worker_events
    if registration.remote and not (settings.worker_url or settings.public_url or never_called):
        yield (
            f"PUBLIC_URL or WORKER_URL: must be set for the provider {registration.name}, whose workers run elsewhere."
        )
    yield from registration.check(own, settings)
