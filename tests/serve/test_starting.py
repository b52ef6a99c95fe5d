"""What is said while services start: in this process, by one of their own, and of what does not start."""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError

from live_services import TOKEN
from raylens.errors import InputError, RaylensError, RunError
from raylens.net.ray_access import MODE, PATH
from raylens.net.ray_access import TOKEN as TOKEN_VARIABLE
from raylens.store.process import Process
from raylens.store.standing import Standing
from raylens_app.cli import detached
from raylens_app.cli.main import main
from raylens_app.cli.state import State
from raylens_serve.config_file import ServeFile
from raylens_serve.lifecycle import _ray
from raylens_serve.ray_environment import SERVE_VARIABLES, prepare_ray
from raylens_serve.settings import ServeSettings
from raylens_serve.starting import not_up, reason, told, what_starts

HEAD = "10.0.0.1:6379"
TRACE = """A replica failed to start with exception. Retrying 2 more time(s). Error:
Traceback (most recent call last):
  File "/x/hub.py", line 89, in hub_errors
OSError: no route

The above exception was the direct cause of the following exception:
  File "/x/load.py", line 1, in load
raylens.errors.HubUnreachableError: a/b is not cached here. hint: name a local folder.
"""


def part(status: str, message: str = "", **replicas: int) -> Any:
    """As Ray Serve's, whose enumerations are strings."""
    return SimpleNamespace(status=status, replica_states=replicas, message=message)


class TestLines:
    def test_what_is_started_and_what_of_it_takes_long(self) -> None:
        assert what_starts(ServeSettings()) == ["starting Ledger, Encoder, Gateway"]
        assert what_starts(ServeSettings.of({"explainer": {"model": "raylens/pico"}})) == [
            "starting Ledger, Encoder, Explainer, Gateway",
            "loading raylens/pico into the Explainer",
        ]

    def test_what_is_not_up_yet_and_how_it_stands(self) -> None:
        parts = {
            "Ledger": part("HEALTHY", RUNNING=1),
            "Encoder": part("UPDATING", RUNNING=1, STARTING=1),
            "Gateway": part("DEPLOY_FAILED", message="no\n  room"),
        }
        assert not_up(parts) == "Encoder (starting), Gateway (deploy failed: no room)"
        assert not_up({"Ledger": part("HEALTHY", RUNNING=1)}) == ""

    def test_of_a_traceback_the_sentence_is_said(self) -> None:
        assert reason(TRACE) == ("a/b is not cached here.", "name a local folder.")
        other = "Error: ray::x()\nTraceback (most recent call last):\n  File\nRuntimeError: CUDA error\n"
        assert reason(other) == ("RuntimeError: CUDA error", "")
        assert reason("Deployment 'Encoder' waits\nfor resources.") == ("Deployment 'Encoder' waits for resources.", "")

    def test_again_and_again_until_all_is_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said: list[str] = []
        twice = threading.Event()
        looks = iter([RuntimeError("no controller"), {}, {"raylens": [part("UPDATING", STARTING=1)]}])

        def status() -> Any:
            look = next(looks, {"raylens": [part("UPDATING", PENDING_MIGRATION=1)]})
            if isinstance(look, Exception):
                raise look
            found = {name: SimpleNamespace(deployments={"Encoder": parts[0]}) for name, parts in look.items()}
            return SimpleNamespace(applications=found)

        def say(line: str) -> None:
            said.append(line)
            if len(said) == 2:
                twice.set()

        monkeypatch.setattr("ray.serve.status", status)
        with told(say, "raylens", every_s=0.01):
            assert twice.wait(30)
        assert said[:2] == ["not up yet: Encoder (starting)", "not up yet: Encoder (pending migration)"]
        n_said = len(said)
        assert not [one for one in threading.enumerate() if one.name == "what is waited for"]
        assert len(said) == n_said


class TestDetached:
    """A stand-in for ``raylens serve up`` that does what a script says."""

    @pytest.fixture
    def start(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        real, words = detached._started, []

        def started(asked: list[str], log: Path) -> Any:
            words.append(asked)
            monkeypatch.setattr("raylens_app.cli.detached.sys", SimpleNamespace(executable=script_of(folder.parent)))
            return real(asked, log)

        def start(script: str, address: str | None = None) -> tuple[list[str], list[str]]:
            (folder.parent / "script.py").write_text(script)
            said: list[str] = []
            file = ServeFile(ServeSettings(workspace=str(folder)), "127.0.0.1", 8123, {})
            detached.start_detached(State(workspace=str(folder)), file, address, said.append)
            return said, words[-1]

        monkeypatch.setattr(detached, "_started", started)
        return start

    def test_its_progress_is_passed_on_but_not_what_is_said_here(self, start: Any, folder: Path) -> None:
        me = Process.current()
        script = f"""
import sys, time
from datetime import UTC, datetime
from raylens.store.process import Process
from raylens.store.standing import Standing, write_standing
from raylens.store.workspace import Workspace
print("starting Ray", file=sys.stderr, flush=True)
time.sleep(0.5)
print("loading a/b", file=sys.stderr, flush=True)
process = Process({me.host!r}, {me.machine!r}, {me.pid}, {me.started!r})
print("ready at http://127.0.0.1:8123; …", file=sys.stderr, flush=True)
standing = Standing(url="http://127.0.0.1:8123", process=process, address="10.0.0.1:6379", started_at=datetime.now(UTC))
write_standing(Workspace.open({str(folder)!r}).files, standing)
time.sleep(5)
"""
        said, words = start(script, HEAD)
        assert said == ["starting Ray\n", "loading a/b\n"]
        assert words[-2:] == ["--address", HEAD]  # the process must not start a Ray of its own

    @pytest.mark.parametrize(
        ("script", "kind", "says"),
        [
            ("raise SystemExit(3)", RunError, "ended with exit code 3 while it started; it said nothing."),
            ("import os; os.kill(os.getpid(), 9)", RunError, "was ended by SIGKILL while it started; it said nothing."),
            ("print('a'); print('b'); raise SystemExit(1)", RunError, "exit code 1 while it started; it last said: b"),
            ("print('error: no. hint: do.'); raise SystemExit(1)", RunError, "no."),
            ("print('error: no. hint: do.'); raise SystemExit(2)", InputError, "no."),
        ],
    )
    def test_a_failure_is_never_empty(self, start: Any, script: str, kind: type[RaylensError], says: str) -> None:
        with pytest.raises(kind) as failed:
            start(script)
        assert failed.value.message.endswith(says)
        assert failed.value.hint == "do." or failed.value.hint.endswith("serve.log.")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("address", [None, HEAD])
def test_programs_are_told_nothing_on_the_way(
    as_json: bool,
    address: str | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepared: list[str | None] = []
    standing = Standing(url="http://127.0.0.1:8000", process=None, address="a", started_at=datetime.now(UTC))

    def hold_up(_: object, where: str | None, ready: Any, say: Any) -> None:
        assert where == address
        say("starting Ray")
        ready(standing)

    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    monkeypatch.setattr("raylens_serve.ray_environment.prepare_ray", prepared.append)
    monkeypatch.setattr("raylens_serve.lifecycle.hold_up", hold_up)
    words = [*(["--json"] if as_json else []), *(["--address", address] if address else [])]
    assert main(["--workspace", str(folder), "serve", "up", *words]) == 0
    said = capsys.readouterr()
    assert prepared == [address]
    if as_json:
        assert json.loads(said.out) == {"url": standing.url, "up": True, "ray": "a"}
        assert said.err == "the services have ended\n"
    else:
        assert said.out == ""
        assert [line.split()[0] for line in said.err.splitlines()] == ["starting", "starting", "ready", "the"]


def test_a_cluster_that_wants_another_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylens.net.ray_access._refusal", lambda _: AuthenticationError("incorrect"))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setenv(PATH, "/none/at/all")
    said: list[str] = []
    with pytest.raises(InputError, match="wants a token, and there is none here"), _ray(HEAD, said.append):
        pass
    assert said == [f"connecting to the Ray cluster at {HEAD}"]


def test_a_token_is_made_for_a_ray_of_ones_own_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster has one, or wants none: a new one would be refused."""
    for name in (
        *SERVE_VARIABLES,
        "RAY_USAGE_STATS_ENABLED",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
        TOKEN_VARIABLE,
        PATH,
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(MODE)
    prepare_ray(HEAD)
    assert (MODE in os.environ, list(tmp_path.iterdir())) == (False, [])
    prepare_ray()
    assert os.environ[MODE] == "token"
    assert (tmp_path / ".ray" / "auth_token").read_text()


def script_of(folder: Path) -> str:
    """What runs ``script.py``, whatever it is told."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "script.py"}"\n')
    path.chmod(0o755)
    return str(path)
