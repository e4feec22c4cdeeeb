"""A provider is one package below `gateway/providers/`, which nothing else names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

REGISTRATION = """
from dataclasses import dataclass
from typing import ClassVar
from marshmallow import fields
from common.settings import setting
from gateway.domain.prices import Price
from gateway.providers.base import Registration

@dataclass(frozen=True)
class TinySettings:
    PREFIX: ClassVar[str] = "TINY_"
    key: str | None = setting(fields.String(), None, "Key of the tiny provider.")
    price: int = setting(fields.Integer(), 7, "Nano-dollars a second.")

class Tiny:
    name, queue_limit_s = "tiny", None
    def __init__(self, context): self.own = context.settings.of(TinySettings)
    def price(self, attempt, gpu): return Price(self.own.price, 0)

def check(own, settings):
    if own.price > settings.port:
        yield "TINY_PRICE: must not be more than PORT."

PROVIDER = Registration("tiny", TinySettings, Tiny, required=("key",), check=check)
"""

USE = """
from common.settings import SettingsError
from gateway import configuration, create_app
from scripts import docs

def mistakes(read, **environ):
    try:
        read(environ)
    except SettingsError as error:
        return str(error)

def checked(environ):
    configuration.check(configuration.read_settings(environ))

print(mistakes(checked, PROVIDERS="tiny,runpod", PUBLIC_URL="http://example.com", TINY_PRICE="9000", SECRET_KEY="short"))
print(mistakes(configuration.read_settings, TINY_PRICE="much", PORT="0"))
print(mistakes(checked, PROVIDERS="local", TINY_PRICE="9000"))
settings = configuration.read_settings(
    {"PROVIDERS": "tiny", "TINY_KEY": "k", "PUBLIC_URL": "http://example.com", "SECRET_KEY": "x" * 32}
)
print(create_app(settings).extensions["reelay"].providers["tiny"].price(None, None))
print("# Key of the tiny provider.\\n#TINY_KEY=\\n" in docs.env_example(), "| `TINY_PRICE` | provider tiny | `7` |" in docs.settings_table())
"""


@pytest.mark.slow
def test_a_package_that_is_dropped_in_brings_settings_checks_and_prices(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("docs", "samples"):  # which it serves
        (tmp_path / name).symlink_to(ROOT / name)
    package = tmp_path / "gateway/providers/tiny"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "registration.py").write_text(REGISTRATION)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    required, unreadable, unused, price, documented = done.stdout.splitlines()
    assert [part.partition(":")[0] for part in required.split(". ")] == [
        "TINY_KEY", "TINY_PRICE", "RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID", "SECRET_KEY",
    ]  # fmt: skip
    assert "PORT:" in unreadable and "TINY_PRICE:" in unreadable
    assert unused == "None", "only providers in PROVIDERS are checked"
    assert price.startswith("Price(nano_per_s=7,")
    assert documented == "True True"
