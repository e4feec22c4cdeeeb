"""`flask --app gateway …`."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from click.testing import Result
from flask import Flask

from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.worker_client import worker_secrets
from gateway.wiring import Services
from tests.gateway.conftest import FixedClock


def run(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=list(words))


def test_a_created_key_is_printed_alone_on_standard_output(app: Flask, services: Services) -> None:
    result = run(app, "keys", "create", "n8n")
    assert result.exit_code == 0
    key = services.keys.verify(result.stdout.strip())
    assert key and key.name == "n8n"
    assert key.id in result.stderr
    assert result.stdout.count("\n") == 1


def test_keys_are_listed_without_their_secrets(app: Flask, services: Services) -> None:
    record, secret = services.keys.create("n8n")
    other, _ = services.keys.create("old one")
    services.keys.revoke(other.id)
    lines = run(app, "keys", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [record.id, other.id]
    assert "valid" in lines[0]
    assert "revoked 2023-11-14T22:13:20.000Z" in lines[1]
    assert secret not in "".join(lines)


def test_a_revoked_key_is_refused(app: Flask, services: Services) -> None:
    record, secret = services.keys.create("n8n")
    result = run(app, "keys", "revoke", record.id)
    assert (result.exit_code, result.output) == (0, f"{record.id} is revoked.\n")
    assert services.keys.verify(secret) is None


def test_a_key_is_made_with_the_scopes_that_were_named(app: Flask, services: Services) -> None:
    for words, scopes in (
        ((), "jobs"),
        (("--scope", "metrics"), "metrics"),
        (("--scope", "admin", "--scope", "jobs"), "jobs,admin"),
    ):
        key = services.keys.verify(run(app, "keys", "create", "n8n", *words).stdout.strip())
        assert key and key.scopes == scopes
    result = run(app, "keys", "create", "n8n", "--scope", "root")
    assert result.exit_code == 2 and "'jobs', 'metrics', 'admin'" in result.output
    assert len(services.keys.list()) == 3


def test_a_rotated_key_has_two_secrets_for_a_while(app: Flask, services: Services, clock: FixedClock) -> None:
    record, old = services.keys.create("n8n")
    result = run(app, "keys", "rotate", record.id, "--grace-hours", "0.5")
    new = result.stdout.strip()
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert "until 2023-11-14T22:43:20.000Z" in result.stderr
    listed = run(app, "keys", "list").stdout
    assert "valid, the previous secret until 2023-11-14T22:43:20.000Z" in listed
    assert old not in listed and new not in listed
    clock.advance(1_800_000)
    assert [bool(services.keys.verify(secret)) for secret in (old, new)] == [False, True]
    assert "before" not in run(app, "keys", "list").stdout


def test_the_list_tells_what_keys_have_spent_today(app: Flask, services: Services, clock: FixedClock) -> None:
    first, second = (services.keys.create(name)[0] for name in ("n8n", "other"))
    with services.store.transaction() as tx:
        tx.spend(first.id, 1_500_000_000, clock.now_ms())
        tx.spend(second.id, 7_000_000_000, clock.now_ms() - 86_400_000)
    assert ["$1.500000 today" in line for line in run(app, "keys", "list").stdout.splitlines()] == [True, False]


@pytest.mark.parametrize("command", ["revoke", "rotate"])
def test_what_cannot_be_changed_says_why(app: Flask, services: Services, command: str) -> None:
    services.keys.adopt("a key of the operator's own")
    (own,) = services.keys.list()
    result = run(app, "keys", command, own.id)
    assert result.exit_code == 1 and "X_API_KEY" in result.output
    assert services.keys.list() == [own]
    result = run(app, "keys", command, "key_x")
    assert (result.exit_code, result.output) == (1, "Error: There is no key key_x; `keys list` shows them all.\n")


def test_a_revoked_key_gets_no_new_secret(app: Flask, services: Services) -> None:
    record, _ = services.keys.create("n8n")
    services.keys.revoke(record.id)
    result = run(app, "keys", "rotate", record.id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"The key {record.id} is revoked." in result.stderr


def test_revoking_an_unknown_key_says_what_to_do(app: Flask) -> None:
    result = run(app, "keys", "revoke", "key_x")
    assert result.exit_code == 1
    assert result.output == "Error: There is no key key_x; `keys list` shows them all.\n"


@pytest.mark.parametrize(
    ("words", "missing"), [(("create",), "'NAME'"), (("revoke",), "'KEY_ID'"), (("webhook-secret",), "'KEY_ID'")]
)
def test_a_forgotten_word_is_named(app: Flask, words: tuple[str, ...], missing: str) -> None:
    result = run(app, "keys", *words)
    assert result.exit_code == 2
    assert f"Missing argument {missing}" in result.output


def test_the_secret_of_webhooks_is_printed_alone_and_stays(app: Flask, services: Services) -> None:
    record, _ = services.keys.create("n8n")
    first, again = (run(app, "keys", "webhook-secret", record.id) for _ in range(2))
    assert (first.exit_code, first.stdout, first.stderr) == (0, again.stdout, "")
    assert first.stdout.startswith("whsec_") and first.stdout.count("\n") == 1
    assert len(base64.b64decode(first.stdout.strip()[6:], validate=True)) == 32


def test_a_new_secret_of_webhooks_says_how_long_the_old_one_lives(app: Flask, services: Services) -> None:
    record, _ = services.keys.create("n8n")
    old = run(app, "keys", "webhook-secret", record.id).stdout
    result = run(app, "keys", "webhook-secret", record.id, "--rotate")
    assert result.exit_code == 0
    assert result.stdout == run(app, "keys", "webhook-secret", record.id).stdout != old
    assert "24 hours" in result.stderr


@pytest.mark.parametrize("more", [(), ("--rotate",)])
def test_an_unknown_key_has_no_secret(app: Flask, more: tuple[str, ...]) -> None:
    result = run(app, "keys", "webhook-secret", "key_x", *more)
    assert (result.exit_code, result.output) == (1, "Error: There is no key key_x; `keys list` shows them all.\n")


def test_the_workers_secrets_are_lines_of_an_environment(app: Flask, services: Services) -> None:
    result = run(app, "worker-env")
    assert result.exit_code == 0, result.output
    assert dict(line.split("=") for line in result.stdout.split()) == worker_secrets(services.signer)


def test_the_commands_migrate_a_fresh_database(app: Flask, services: Services) -> None:
    services.store._engine.dispose()
    for path in services.settings.data_dir.glob("reelay.db*"):
        path.unlink()
    assert run(app, "keys", "create", "n8n").exit_code == 0
    assert len(services.keys.list()) == 1


@pytest.mark.parametrize(("command", "hint"), [("keys list", ""), ("vast destroy 5 --yes", " python -m gateway")])
def test_a_database_that_cannot_be_used_is_told_in_a_line(
    app: Flask, services: Services, command: str, hint: str
) -> None:
    settings = services.settings.having(VastSettings(api_key="key", deployment="tests"))
    app.extensions["reelay"] = replace(services, settings=settings)
    database = services.settings.data_dir / "reelay.db"
    database.write_bytes(b"no database at all, " * 100)
    result = run(app, *command.split())
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: The database cannot be used: file is not a database.{hint}")
    assert result.stderr.count("\n") == 1
