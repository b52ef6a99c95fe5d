"""A Neuronpedia that hangs, fails, limits or talks nonsense gives no label, a clear word, and no long wait."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from fake_llm import Answer
from neuronpedia import SOURCE, HandClock, Remote, explanation, page
from raylens.errors import DiskFullError
from raylens.labels.client import LabelClient
from raylens.labels.label_store import LabelStore
from raylens.labels.patience import ENOUGH
from raylens.labels.remote import wait_of
from raylens.labels.settings import LabelSettings
from raylens.store.label_cache import LabelFolder
from raylens.store.workspace import Workspace

GOOD = page(1, explanation("one"))


class Heard:
    """A client with its warnings, on a clock that tests move."""

    def __init__(self, workspace: Workspace, settings: LabelSettings, clock: HandClock) -> None:
        self.said: list[str] = []
        self.client = LabelClient(LabelStore(workspace.files), settings, clock=clock, say=self.said.append)


@pytest.fixture
def heard(request: pytest.FixtureRequest, workspace: Workspace, remote: Remote, clock: HandClock):
    """Patient with a busy machine, but for tests of what never answers."""
    timeout_s = getattr(request, "param", 30.0)
    found = Heard(workspace, remote.settings(timeout_s=timeout_s, max_concurrency=1), clock)
    with found.client:
        yield found


def kept(workspace: Workspace) -> set[str]:
    with LabelStore(workspace.files) as store:
        return {one.status for one in store.look(SOURCE, range(200)).values()} - {"unknown"}


@pytest.mark.parametrize(
    ("heard", "answer", "said"),
    [
        (0.2, Answer(hang=True), "did not answer within 0.2 s"),
        (0.2, Answer(raw=json.dumps(GOOD).encode(), drip_s=0.02), "did not answer within 0.2 s"),
        (30.0, Answer(status=500, raw=b"oops"), "failed (500)"),
        (30.0, Answer(status=503, raw=b"{}"), "failed (503)"),
        (30.0, Answer(drop=True), "broke off"),
        (30.0, Answer(raw=json.dumps(GOOD).encode(), cut=20), "broke off"),
    ],
    ids=["hang", "drip", "500", "503", "drop", "cut"],
    indirect=["heard"],
)
def test_what_does_not_answer_is_asked_again_after_a_minute(
    heard: Heard, remote: Remote, clock: HandClock, workspace: Workspace, answer: Answer, said: str
) -> None:
    """A 404 is kept for good, a time-out for a minute."""
    remote.pages = {1: answer}
    one = heard.client.label(SOURCE, 1)
    assert (one.status, one.explanations) == ("unknown", ())
    assert heard.client.label(SOURCE, 1).why == one.why
    clock.time += 59
    heard.client.label(SOURCE, 1)
    assert remote.indices == [1], "not asked for again within a minute"
    [warning] = heard.said
    assert f"{remote.settings().base_url} {said}" in warning
    heard.client.store.flush()
    assert kept(workspace) == set(), "nothing of it is written"
    clock.time += 2
    heard.client.label(SOURCE, 1)
    assert remote.indices == [1, 1]
    with LabelClient(LabelStore(workspace.files), remote.settings(timeout_s=30.0)) as another:
        remote.pages = {1: GOOD}
        assert another.label(SOURCE, 1).explanations[0].description == "one"


def test_a_server_that_is_down_is_left_alone(workspace: Workspace, remote: Remote, clock: HandClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = LabelSettings(base_url=f"http://127.0.0.1:{port}", mode="remote_fallback", max_concurrency=1)
    heard = Heard(workspace, settings, clock)
    with heard.client as client:
        found = client.labels(SOURCE, range(100))
        assert {one.status for one in found.values()} == {"unknown"}
        assert client.n_asked == ENOUGH, "not a hundred times three seconds"
        assert len(heard.said) == 1
        assert "cannot be reached" in heard.said[0]
        clock.time += 61
        client.labels(SOURCE, [5])
        assert client.n_asked == ENOUGH + 1
    assert kept(workspace) == set()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(raw=b"<html>welcome</html>"), "is no JSON"),
        (Answer(raw=b""), "is no JSON"),
        (Answer(raw=b'{"a": '), "is no JSON"),
        (Answer(raw=b"[" * 100_000), "is no JSON"),
        (Answer(raw=b"\xff\xfe\x00"), "is no JSON"),
        (Answer(raw=b"null"), "no JSON object"),
        (Answer(raw=b'"a description"'), "no JSON object"),
        (Answer(raw=json.dumps(page(2, explanation("of another"))).encode()), "another feature"),
        (Answer(raw=json.dumps(GOOD | {"explanations": "text"}).encode()), "no list of explanations"),
        (Answer(raw=json.dumps(GOOD | {"explanations": [{"description": {}}]}).encode()), "no objects"),
        (Answer(status=404, raw=b"<html>nothing here</html>"), "is no JSON"),
        (Answer(status=404, raw=b'{"detail": "Not Found"}'), "none of Neuronpedia's"),
        (Answer(status=418, raw=b"{}"), "none of Neuronpedia's"),
        (Answer(status=204, raw=b""), "is no JSON"),
    ],
)
def test_nonsense_gives_a_warning_and_no_label(
    heard: Heard, remote: Remote, workspace: Workspace, answer: Answer, said: str
) -> None:
    remote.pages = {1: answer}
    one = heard.client.label(SOURCE, 1)
    assert (one.status, one.best) == ("unknown", None)
    [warning] = heard.said
    assert said in warning
    assert "no label was taken" in warning
    heard.client.label(SOURCE, 1)
    assert len(remote.asked) == 1
    heard.client.store.flush()
    assert kept(workspace) == set()


def test_a_limit_that_ends_soon_is_waited_for(heard: Heard, remote: Remote, clock: HandClock) -> None:
    limited = Answer(status=429, raw=b"{}", headers={"Retry-After": "7"})
    remote.server.script.extend([limited, limited])
    remote.pages = {1: GOOD}
    assert heard.client.label(SOURCE, 1).status == "ok"
    assert clock.slept == [7, 7]
    assert heard.said == []
    assert heard.client.stopped is None


@pytest.mark.parametrize(
    "limit",
    [
        Answer(status=429, raw=b"{}", headers={"Retry-After": "3600"}),
        Answer(status=429, raw=json.dumps({"error": "no", "requestWindow": "60 m", "limitPerWindow": 100}).encode()),
        Answer(status=429, raw=b"no word of how long"),
        Answer(status=403, raw=b'{"error": "key"}'),
        Answer(status=301, raw=b"", headers={"Location": "http://127.0.0.1:1/elsewhere"}),
    ],
    ids=["header", "window", "unsaid", "key", "redirect"],
)
def test_a_limit_that_outlasts_the_run_ends_the_asking(
    heard: Heard, remote: Remote, clock: HandClock, workspace: Workspace, limit: Answer
) -> None:
    remote.pages = {0: page(0, explanation("before"))}
    remote.otherwise = limit
    found = heard.client.labels(SOURCE, range(50))
    assert found[0].status == "ok", "what was fetched before stays"
    assert {one.status for index, one in found.items() if index} == {"unknown"}
    assert remote.indices == [0, 1]
    assert clock.slept == []
    assert heard.client.stopped is not None
    assert "asks for no more labels" in heard.said[0]
    clock.time += 10_000
    heard.client.label(SOURCE, 9)
    assert remote.indices == [0, 1]
    assert heard.client.label(SOURCE, 0).status == "ok", "what is known is still looked up"


def test_waiting_ends_too(heard: Heard, remote: Remote, clock: HandClock) -> None:
    remote.otherwise = Answer(status=429, raw=b"{}", headers={"Retry-After": "0.5"})
    assert heard.client.label(SOURCE, 1).status == "unknown"
    assert clock.slept == [0.5] * heard.client.settings.max_waits
    assert heard.client.stopped is not None


def test_answers_that_were_on_their_way_when_a_pause_began_are_not_pauses_of_their_own(
    workspace: Workspace, remote: Remote, clock: HandClock
) -> None:
    heard = Heard(workspace, remote.settings(max_concurrency=8), clock)
    limited = Answer(status=429, raw=b"{}", headers={"Retry-After": "5"}, delay_s=0.05)
    remote.server.script.extend([limited] * 8)
    with heard.client as client:
        found = client.labels(SOURCE, range(8))
    assert {one.status for one in found.values()} == {"missing"}
    assert heard.said == []


@pytest.mark.parametrize(
    ("header", "body", "seconds"),
    [
        ("12", b"", 12),
        ("0.5", b"", 0.5),
        (format_datetime(datetime.fromtimestamp(1_000_030, UTC), usegmt=True), b"", 30),
        (format_datetime(datetime.fromtimestamp(999_000, UTC), usegmt=True), b"", 0),
        ("soon", b'{"requestWindow": "10 s"}', 10),
        (None, b'{"requestWindow": "60 m"}', 3600),
        (None, b'{"requestWindow": "1 hour"}', 3600),
        (None, b'{"requestWindow": "500ms"}', 0.5),
        (None, b'{"requestWindow": 30}', 30),
        (None, b'{"requestWindow": -1}', None),
        (None, b'{"requestWindow": true}', None),
        (None, b'{"requestWindow": "soon"}', None),
        (None, b"[]", None),
        (None, b"nonsense", None),
        ("-5", b"", None),
    ],
)
def test_how_long_a_limit_asks_to_wait(header: str | None, body: bytes, seconds: float | None) -> None:
    assert wait_of(header, body, 1_000_000.0) == seconds


def test_a_full_disk_is_said_as_what_it_is(
    workspace: Workspace, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.pages = {index: page(index) for index in range(4)}
    store = LabelStore(workspace.files, commit_rows=1)

    def full(*_: object, **__: object) -> None:
        raise DiskFullError("the disk is full.", hint="free some space.")

    monkeypatch.setattr(LabelFolder, "write", full)
    with LabelClient(store, remote.settings()) as client:
        with pytest.raises(DiskFullError):
            client.labels(SOURCE, range(4))
        monkeypatch.undo()
        assert client.label(SOURCE, 0).status == "ok", "and goes on where there is room again"
    assert kept(workspace) == {"ok"}
