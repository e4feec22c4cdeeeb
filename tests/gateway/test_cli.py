"""`flask --app gateway …`."""

from __future__ import annotations

import pytest
from click.testing import Result
from flask import Flask

from gateway.providers.worker_client import worker_secrets
from gateway.wiring import Services


def run(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=list(words))


def test_a_created_key_is_printed_alone_on_standard_output(app: Flask, services: Services) -> None:
    result = run(app, "keys", "create", "n8n")
    assert result.exit_code == 0
    key = services.keys.recognise(result.stdout.strip())
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
    assert services.keys.recognise(secret) is None


def test_revoking_an_unknown_key_says_what_to_do(app: Flask) -> None:
    result = run(app, "keys", "revoke", "key_x")
    assert result.exit_code == 1
    assert result.output == "Error: There is no key key_x; `keys list` shows them all.\n"


@pytest.mark.parametrize(("words", "missing"), [(("create",), "'NAME'"), (("revoke",), "'KEY_ID'")])
def test_a_forgotten_word_is_named(app: Flask, words: tuple[str, ...], missing: str) -> None:
    result = run(app, "keys", *words)
    assert result.exit_code == 2
    assert f"Missing argument {missing}" in result.output


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
