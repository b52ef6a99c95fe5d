"""A token for Ray is brought before Ray is imported, and what it says of tokens becomes one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raylens.net.ray_access import MODE, PATH, TOKEN, bring_token, no_connection, token_place

HEAD = "10.0.0.1:6379"


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MODE, TOKEN, PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def kept(path: Path, token: str = "t") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(token)
    return str(path)


def test_it_is_looked_for_as_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_place() is None
    at_home = kept(tmp_path / ".ray" / "auth_token")
    assert token_place() == at_home
    monkeypatch.setenv(PATH, str(tmp_path / "none"))
    assert token_place() is None  # what is named and not there is not made up for by another
    named = kept(tmp_path / "named")
    monkeypatch.setenv(PATH, named)
    assert token_place() == named
    monkeypatch.setenv(TOKEN, "t")
    assert token_place() == TOKEN
    monkeypatch.setenv(TOKEN, "")
    kept(tmp_path / "named", "\n")
    assert token_place() is None


def test_it_is_sent_to_a_cluster_alone_and_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    bring_token(HEAD)
    assert MODE not in os.environ  # Ray would refuse to connect at all
    monkeypatch.setenv(TOKEN, "t")
    bring_token(None)
    assert MODE not in os.environ
    monkeypatch.setenv(MODE, "disabled")
    bring_token(HEAD)
    assert os.environ[MODE] == "disabled"
    monkeypatch.delenv(MODE)
    bring_token(HEAD)
    assert os.environ[MODE] == "token"


class AuthenticationError(Exception):
    """As Ray's."""


def unauthenticated() -> Exception:
    """As ``ray.init`` raises it: the class stands in the text of a cause."""
    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    error.__cause__ = RuntimeError("Failed to connect to GCS. Last\nray.exceptions.AuthenticationError: RPC error: …")
    return error


@pytest.mark.parametrize("error", [unauthenticated(), AuthenticationError("no authentication token was found")])
@pytest.mark.parametrize(
    ("set_to", "says", "remedy"),
    [
        ({}, "wants a token, and there is none here.", "copy ~/.ray/auth_token from its head node"),
        ({PATH: "/none/at/all"}, f"none here ({PATH} names /none/at/all, which holds none).", f"set {TOKEN} or {PATH}"),
        ({TOKEN: "t", MODE: "disabled"}, f"none is sent: {MODE} is disabled.", f"unset {MODE}."),
        ({TOKEN: "t"}, f"none is sent: {MODE} is not set.", f"set {MODE}=token before Python starts"),
        ({TOKEN: "t", MODE: "token"}, f"does not take the token of {TOKEN}.", "ray get-auth-token"),
    ],
)
def test_why_a_cluster_that_wants_a_token_refuses(
    error: Exception, set_to: dict[str, str], says: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    said = no_connection(HEAD, error)
    assert said.exit_code == 2
    assert said.message.startswith(f"the Ray cluster at {HEAD!r} ")
    assert said.message.endswith(says)
    assert remedy in said.hint


def test_one_that_does_not_answer_is_no_matter_of_tokens() -> None:
    said = no_connection(HEAD, ConnectionError("Failed to connect\nand more"))
    assert said.message == f"no Ray cluster answers at {HEAD!r} (Failed to connect)."
    assert "token" not in said.hint
    assert "token" in no_connection("ray://head:10001", ConnectionError("ray client connection timeout")).hint
