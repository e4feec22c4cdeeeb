"""Tokens from SECRET_KEY."""

from __future__ import annotations

import pytest

from gateway.signing import Signer

OLD, NEW, FOREIGN = "o" * 32, "n" * 32, "f" * 32


@pytest.mark.parametrize("value", [["GET", 1, 0], {"é": None}, "", 0, []])
def test_what_was_signed_is_read_back(value: object) -> None:
    signer = Signer((OLD,))
    assert signer.read("p", signer.sign("p", value)) == value


def test_a_token_is_safe_in_urls_and_headers() -> None:
    token = Signer((OLD,)).sign("p", ["ÿ" * 50, "?&=/"])
    assert all(letter.isalnum() or letter in "-_." for letter in token)


def test_a_purpose_keeps_tokens_apart() -> None:
    signer = Signer((OLD,))
    assert signer.read("q", signer.sign("p", 1)) is None


def test_a_foreign_key_signs_nothing_for_us() -> None:
    assert Signer((OLD,)).read("p", Signer((FOREIGN,)).sign("p", 1)) is None


def test_old_keys_are_accepted_and_the_newest_signs() -> None:
    both = Signer((NEW, OLD))
    assert both.read("p", Signer((OLD,)).sign("p", 1)) == 1
    assert Signer((NEW,)).read("p", both.sign("p", 1)) == 1
    assert Signer((OLD,)).read("p", both.sign("p", 1)) is None


def test_a_secret_can_be_derived_by_every_key_the_newest_first() -> None:
    both = Signer((NEW, OLD))
    assert both.derive_all("p", "a") == [both.derive("p", "a"), Signer((OLD,)).derive("p", "a")]


def test_derived_secrets_are_stable_and_apart() -> None:
    signer = Signer((NEW, OLD))
    made = {signer.derive(purpose, name) for purpose in "pq" for name in "ab"}
    assert len(made) == 4
    assert all(len(secret) == 64 and NEW not in secret for secret in made)
    assert signer.derive("p", "a") == Signer((NEW,)).derive("p", "a")
    assert signer.derive("p", "a") != Signer((OLD,)).derive("p", "a")
