"""A token for Ray goes where one is wanted, and what Ray says of tokens becomes one sentence."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from raylens.errors import InputError
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


class AuthenticationError(Exception):
    """As Ray's."""


class Cluster:
    """Refuses whoever does not send its token, as Ray's does: what is sent is told by the mode alone."""

    def __init__(self, token: str | None) -> None:
        self.token = token
        self.asked: list[str | None] = []

    def refusal(self, _: str) -> Exception | None:
        self.asked.append(os.environ.get(MODE))
        sent = os.environ.get(TOKEN) if os.environ.get(MODE) == "token" else None
        return None if self.token in (None, sent) else AuthenticationError("missing or incorrect")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster("t")
    monkeypatch.setattr("raylens.net.ray_access._refusal", found.refusal)
    monkeypatch.setattr("raylens.net.ray_access._send_token", lambda: monkeypatch.setenv(MODE, "token"))
    return found


class TestBringing:
    def test_it_is_sent_to_a_cluster_that_wants_it(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(TOKEN, "t")
        bring_token(HEAD)
        assert os.environ[MODE] == "token"
        assert cluster.asked == [None, "token"]

    def test_and_to_no_other_whose_workers_could_not_answer(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster.token = None
        monkeypatch.setenv(TOKEN, "t")
        bring_token(HEAD)
        assert MODE not in os.environ

    def test_what_the_mode_says_counts(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(TOKEN, "t")
        monkeypatch.setenv(MODE, "disabled")
        with pytest.raises(InputError, match="RAY_AUTH_MODE is disabled"):
            bring_token(HEAD)
        monkeypatch.setenv(MODE, "token")
        bring_token(HEAD)
        assert cluster.asked == ["disabled", "token"]

    def test_there_is_none_or_another_one(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match="there is none here"):
            bring_token(HEAD)
        assert MODE not in os.environ
        monkeypatch.setenv(TOKEN, "another")
        with pytest.raises(InputError, match="does not take the token of RAY_AUTH_TOKEN"):
            bring_token(HEAD)

    def test_ray_is_never_asked_to_send_what_is_not_there(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its core ends the process then."""
        monkeypatch.setenv(MODE, "token")
        with pytest.raises(InputError, match="there is none here"):
            bring_token(HEAD)
        assert cluster.asked == []

    def test_a_server_for_clients_cannot_be_asked(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        bring_token("ray://head:10001")
        assert MODE not in os.environ
        monkeypatch.setenv(TOKEN, "t")
        bring_token("ray://head:10001")
        assert (os.environ[MODE], cluster.asked) == ("token", [])


def test_where_nobody_listens_ray_itself_says_so() -> None:
    began = time.monotonic()
    bring_token("127.0.0.1:9")
    assert time.monotonic() - began < 20  # Ray would wait for forty


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
        ({TOKEN: "t"}, f"none is sent: {MODE} is not set.", f"set {MODE}=token."),
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
