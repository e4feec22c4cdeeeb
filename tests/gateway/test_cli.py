"""The operator's commands: `flask --app gateway …`."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from click.testing import Result
from flask import Flask

from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.worker_client import credentials_of
from tests.gateway.conftest import Gateway


def run(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=list(words))


def test_keys_are_listed_with_their_spending_and_without_secrets(app: Flask, services: Gateway) -> None:
    record, secret = services.keys.create("n8n")
    other, _ = services.keys.create("old one")
    services.keys.revoke(other.id)
    with services.store.transaction() as tx:
        tx.spend(record.id, 1_500_000_000, services.clock.now_ms())
        tx.spend(other.id, 7_000_000_000, services.clock.now_ms() - 86_400_000)
    lines = run(app, "keys", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [record.id, other.id]
    assert "valid" in lines[0]
    assert "revoked 2023-11-14T22:13:20.000Z" in lines[1]
    assert ["$1.500000 today" in line for line in lines] == [True, False]
    assert secret not in "".join(lines)


def test_a_revoked_key_is_refused(app: Flask, services: Gateway) -> None:
    record, secret = services.keys.create("n8n")
    result = run(app, "keys", "revoke", record.id)
    assert (result.exit_code, result.output) == (0, f"{record.id} is revoked.\n")
    assert services.keys.verify(secret) is None
    result = run(app, "keys", "rotate", record.id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"The key {record.id} is revoked." in result.stderr


def test_a_created_key_is_printed_alone_and_has_its_scopes(app: Flask, services: Gateway) -> None:
    for words, scopes in (
        ((), "jobs"),
        (("--scope", "metrics"), "metrics"),
        (("--scope", "admin", "--scope", "jobs"), "jobs,admin"),
    ):
        result = run(app, "keys", "create", "n8n", *words)
        assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
        key = services.keys.verify(result.stdout.strip())
        assert key and (key.name, key.scopes, key.id in result.stderr) == ("n8n", scopes, True)
    result = run(app, "keys", "create", "n8n", "--scope", "root")
    assert result.exit_code == 2 and "'jobs', 'metrics', 'admin'" in result.output
    assert len(services.keys.list()) == 3


def test_a_rotated_key_has_two_secrets_until_the_grace_ends(app: Flask, services: Gateway) -> None:
    record, old = services.keys.create("n8n")
    result = run(app, "keys", "rotate", record.id, "--grace-hours", "0.5")
    new = result.stdout.strip()
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert "until 2023-11-14T22:43:20.000Z" in result.stderr
    listed = run(app, "keys", "list").stdout
    assert "valid, the previous secret until 2023-11-14T22:43:20.000Z" in listed
    assert old not in listed and new not in listed
    services.clock.advance(1_800_000)
    assert [bool(services.keys.verify(secret)) for secret in (old, new)] == [False, True]
    assert "before" not in run(app, "keys", "list").stdout


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_a_key_that_cannot_be_changed_says_why(app: Flask, services: Gateway, command: str) -> None:
    services.keys.adopt("a key of the operator's own")
    (own,) = services.keys.list()
    result = run(app, "keys", command, own.id)
    assert result.exit_code == 1 and "X_API_KEY" in result.output
    assert services.keys.list() == [own]
    result = run(app, "keys", command, "key_x")
    assert (result.exit_code, result.output) == (1, "Error: There is no key key_x; `keys list` shows them all.\n")


@pytest.mark.parametrize(
    ("words", "missing"), [(("create",), "'NAME'"), (("revoke",), "'KEY_ID'"), (("webhook-secret",), "'KEY_ID'")]
)
def test_a_missing_argument_is_named(app: Flask, words: tuple[str, ...], missing: str) -> None:
    result = run(app, "keys", *words)
    assert result.exit_code == 2
    assert f"Missing argument {missing}" in result.output


def test_the_webhook_secret_is_printed_alone_until_it_is_rotated(app: Flask, services: Gateway) -> None:
    record, _ = services.keys.create("n8n")
    first, again = (run(app, "keys", "webhook-secret", record.id) for _ in range(2))
    assert (first.exit_code, first.stdout, first.stderr) == (0, again.stdout, "")
    assert first.stdout.startswith("whsec_") and first.stdout.count("\n") == 1
    assert len(base64.b64decode(first.stdout.strip()[6:], validate=True)) == 32
    rotated = run(app, "keys", "webhook-secret", record.id, "--rotate")
    assert (rotated.exit_code, "24 hours" in rotated.stderr) == (0, True)
    assert rotated.stdout == run(app, "keys", "webhook-secret", record.id).stdout != first.stdout
    for more in ((), ("--rotate",)):
        unknown = run(app, "keys", "webhook-secret", "key_x", *more)
        assert (unknown.exit_code, "There is no key key_x" in unknown.output) == (1, True)


def test_the_worker_s_secrets_are_printed_as_environment_variables(app: Flask, services: Gateway) -> None:
    result = run(app, "worker-env")
    assert result.exit_code == 0, result.output
    assert dict(line.split("=") for line in result.stdout.split()) == credentials_of(services.signer)[0].environ


def test_the_commands_migrate_a_fresh_database(app: Flask, services: Gateway) -> None:
    services.store._engine.dispose()
    for path in services.settings.data_dir.glob("reelay.db*"):
        path.unlink()
    assert run(app, "keys", "create", "n8n").exit_code == 0
    assert len(services.keys.list()) == 1


@pytest.mark.parametrize(("command", "hint"), [("keys list", ""), ("vast destroy 5 --yes", " python -m gateway")])
def test_an_unusable_database_is_reported_in_one_line(app: Flask, services: Gateway, command: str, hint: str) -> None:
    settings = services.settings.with_parts(VastSettings(api_key="key", deployment="tests"))
    app.extensions["reelay"] = replace(services, settings=settings)
    database = services.settings.data_dir / "reelay.db"
    database.write_bytes(b"no database at all, " * 100)
    result = run(app, *command.split())
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: The database cannot be used: file is not a database.{hint}")
    assert result.stderr.count("\n") == 1
