"""Look-ups: memory, the workspace, then a server, over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
import traceback
from pathlib import Path

import pytest

from fake_llm import Answer, FakeLlm
from neuronpedia import SOURCE, HandClock, Remote, explanation, page
from raylens.errors import InputError
from raylens.labels import warming
from raylens.labels.client import LabelClient
from raylens.labels.explanations import read_explanation
from raylens.labels.label_store import LabelStore
from raylens.labels.settings import ApiKey, LabelSettings
from raylens.labels.warming import warm
from raylens.store.workspace import Workspace

SECRET = "np-secret-0123456789abcdef"


def client_of(workspace: Workspace, remote: Remote, clock: HandClock | None = None, **settings: object) -> LabelClient:
    return LabelClient(LabelStore(workspace.files), remote.settings(**settings), clock=clock, say=lambda text: None)


def test_cache_only_never_asks_anybody(workspace: Workspace, remote: Remote) -> None:  # A2.12
    remote.pages = {1: page(1, explanation("one")), 2: page(2, explanation("two"))}
    with client_of(workspace, remote) as client:
        assert client.label(SOURCE, 1).status == "ok"
    assert remote.indices == [1]
    with client_of(workspace, remote, mode="cache_only") as frozen:
        found = frozen.labels(SOURCE, [2, 1, 3])
        assert [one.status for one in found.values()] == ["ok", "unknown", "unknown"]
        assert found[1].explanations[0].description == "one"
        assert "cache_only" in found[2].why
        assert frozen.page(SOURCE, 2) is None
        assert frozen.page(SOURCE, 1) is not None
        assert frozen.n_asked == 0
    assert remote.indices == [1]
    assert LabelSettings().mode == "cache_only", "nobody is asked unless somebody says so"


def test_remote_fallback_asks_once_and_keeps_what_it_is_told(workspace: Workspace, remote: Remote) -> None:  # A2.12
    remote.pages = {1: page(1, explanation("one")), 2: page(2)}
    with client_of(workspace, remote) as client:
        for _ in range(3):
            found = client.labels(SOURCE, [1, 2, 404])
            assert {index: one.status for index, one in found.items()} == {1: "ok", 2: "ok", 404: "missing"}
            assert found[1].best is not None
            assert found[2].best is None
        assert sorted(remote.indices) == [1, 2, 404]
    with client_of(workspace, remote) as another:
        assert another.label(SOURCE, 404).status == "missing", "a 404 is kept for good"
        assert another.label(SOURCE, 1).explanations[0].description == "one"
        found = another.page(SOURCE, 1)
        assert found is not None
        assert found["maxActApprox"] == 12.5
    assert sorted(remote.indices) == [1, 2, 404]


def test_model_source_and_index_are_all_that_is_sent(
    workspace: Workspace, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(workspace, remote) as client:
        client.label(SOURCE, 7)
    assert remote.asked == ["/api/feature/gemma-2-2b/20-gemmascope-res-16k/7"]
    assert "x-api-key" not in remote.headers
    assert set(remote.headers) <= {"host", "accept", "accept-encoding", "connection", "user-agent"}
    monkeypatch.setenv("NEURONPEDIA_API_KEY", SECRET)
    with client_of(workspace, remote) as client:
        client.label(SOURCE, 8)
    assert remote.headers["x-api-key"] == SECRET


def test_where_only_explanations_are_known_a_page_is_asked_for_at_need(workspace: Workspace, remote: Remote) -> None:
    remote.pages = {1: page(1, explanation("from the server"))}
    said = read_explanation(explanation("imported"))
    assert said is not None
    with LabelStore(workspace.files) as store:
        store.put_explanation(SOURCE, 1, said, "export")
        store.put_explanation(SOURCE, 2, said, "export")
    with client_of(workspace, remote) as client:
        assert client.label(SOURCE, 1).explanations == (said,)
        assert remote.asked == [], "a label is all that was wanted"
        found = client.page(SOURCE, 1)
        assert found is not None
        assert {it["description"] for it in found["explanations"]} == {"imported", "from the server"}
        assert client.label(SOURCE, 2).status == "ok"
        for _ in range(2):  # not there, and not asked for again
            bare = client.page(SOURCE, 2)
            assert bare is not None
            assert bare["explanations"][0]["description"] == "imported"
        assert remote.indices == [1, 2]
        assert client.label(SOURCE, 2).status == "ok"


def test_memory_holds_so_many_and_no_more(workspace: Workspace, remote: Remote) -> None:  # A2.12
    assert LabelSettings().lru_size == 2048
    assert LabelSettings().timeout_s == 3.0
    with client_of(workspace, remote, lru_size=10) as client:
        client.labels(SOURCE, range(30))
        assert len(client._memory) == 10
        client.labels(SOURCE, range(20, 30))
        looked = client.store.look
        client.store.look = lambda *_: pytest.fail("they are in memory")  # pyright: ignore[reportAttributeAccessIssue]
        client.labels(SOURCE, range(20, 30))
        client.store.look = looked
        assert client.label(SOURCE, 0).status == "missing"
        assert len(client._memory) == 10


def test_as_many_at_a_time_as_allowed_and_never_twice(workspace: Workspace, remote: Remote) -> None:
    remote.otherwise = Answer(status=404, raw=b'{"error": "no"}', delay_s=0.005)
    with client_of(workspace, remote, max_concurrency=3) as client:
        client.labels(SOURCE, [*range(40), *range(40)])
    assert sorted(remote.indices) == list(range(40))
    assert remote.server.high_water <= 3


def test_answers_may_be_packed_and_no_packing_breaks_the_bound(workspace: Workspace, remote: Remote) -> None:
    packed = {"Content-Encoding": "gzip"}
    whole = gzip.compress(json.dumps(page(1, explanation("packed"))).encode())
    bomb = gzip.compress(b'{"a": "' + b" " * 20_000_000 + b'"}')
    remote.pages = {
        1: Answer(raw=whole, headers=packed),
        2: Answer(raw=bomb, headers=packed),
        3: Answer(raw=b" " * 2_000_000),
        4: Answer(raw=whole[:-20], headers=packed),
        5: Answer(raw=whole, headers={"Content-Encoding": "br"}),
        6: Answer(raw=b"not gzip", headers=packed),
    }
    assert len(bomb) < 50_000
    with client_of(workspace, remote, max_bytes=1_000_000) as client:
        found = client.labels(SOURCE, range(1, 7))
        assert found[1].explanations[0].description == "packed"
        assert {one.status for index, one in found.items() if index > 1} == {"unknown"}
        for index in (2, 3):
            assert "larger than 1,000,000 bytes" in found[index].why
        for index in (4, 6):
            assert "does not unpack" in found[index].why
        assert "not asked for" in found[5].why


def test_the_key_shows_nowhere(
    workspace: Workspace, remote: Remote, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in settings, messages, warnings, logs, tracebacks, pickles or files, even where the server repeats it."""
    monkeypatch.setenv("NEURONPEDIA_API_KEY", SECRET)
    caplog.set_level(1)
    remote.pages = {
        1: Answer(status=403, raw=json.dumps({"error": f"bad key {SECRET}"}).encode()),
    }
    said: list[str] = []
    settings = remote.settings()
    client = LabelClient(LabelStore(workspace.files), settings, say=said.append)
    with client:
        assert client.label(SOURCE, 1).status == "unknown"
        shown = [repr(client), repr(settings), settings.model_dump_json(), *said, *client.warnings, str(client.stopped)]
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(client)
    key = ApiKey.from_environment(settings)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    try:
        raise RuntimeError(repr(key), client)
    except RuntimeError:
        shown.append(traceback.format_exc())
    files = [path for path in Path(workspace.url).rglob("*") if path.is_file()]
    shown += [caplog.text, *(path.read_bytes().decode("latin-1") for path in files)]
    assert not [one for one in shown if SECRET in one]
    assert "refused the key" in said[0]


def test_the_key_goes_only_where_nobody_can_read_it_on_the_way() -> None:
    environment = {"NEURONPEDIA_API_KEY": SECRET}
    for url, sent in (
        ("https://www.neuronpedia.org", True),
        ("http://127.0.0.1:8765/api", True),
        ("http://labels.internal/api", True),
        ("http://www.neuronpedia.org/api", False),
    ):
        assert bool(ApiKey.from_environment(LabelSettings(base_url=url), environment)) == sent
    with pytest.raises(InputError, match="holds no key") as caught:
        ApiKey.from_environment(LabelSettings(), {"NEURONPEDIA_API_KEY": f"Bearer {SECRET}"})
    assert SECRET not in str(caught.value)


def test_settings_come_from_the_environment_and_are_refused_where_they_are_wrong() -> None:
    assert LabelSettings.from_environment({}).base_url == "https://www.neuronpedia.org/api"
    environment = {"NEURONPEDIA_BASE_URL": "http://127.0.0.1:1/", "NEURONPEDIA_EXPLANATIONS_MODE": "remote_fallback"}
    settings = LabelSettings.from_environment(environment)
    assert (settings.base_url, settings.mode) == ("http://127.0.0.1:1/api", "remote_fallback")
    assert LabelSettings.from_environment(environment, mode="cache_only").mode == "cache_only"
    with pytest.raises(InputError, match="NEURONPEDIA_EXPLANATIONS_MODE is 'always'"):
        LabelSettings.from_environment({"NEURONPEDIA_EXPLANATIONS_MODE": "always"})
    for url in ("ftp://a/api", "https://user:pa55word@host/api", "https://host/api?key=pa55word", "http://h:x/api", ""):
        with pytest.raises(InputError) as caught:
            LabelSettings.of({"base_url": url})
        assert "pa55word" not in str(caught.value)
    with pytest.raises(InputError, match="timeout_s"):
        LabelSettings.of({"timeout_s": 0})


def test_warming_fetches_what_is_missing_and_the_freeze_holds(
    workspace: Workspace, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:  # A2.12
    monkeypatch.setattr(warming, "_AT_A_TIME", 16)
    remote.pages = {index: page(index, *([explanation(f"t{index}")] if index % 2 else [])) for index in range(40)}
    told: list[tuple[int, int]] = []
    with client_of(workspace, remote) as client:
        client.labels(SOURCE, range(20))
        done = warm(client, SOURCE, [*range(50), 3], lambda n, total: told.append((n, total)))
    assert (done.wanted, done.known, done.asked) == (50, 20, 30)
    assert (done.explained, done.unexplained, done.missing) == (20, 20, 10)
    assert not done.unknown
    assert told[-1] == (50, 50)
    n_asked = len(remote.asked)
    with client_of(workspace, remote, mode="cache_only") as frozen:
        found = frozen.labels(SOURCE, range(50))
        assert all(one.status != "unknown" for one in found.values())
        assert [len(one.explanations) for one in found.values()] == [
            index % 2 if index < 40 else 0 for index in range(50)
        ]
    assert len(remote.asked) == n_asked


def test_warming_that_was_cut_short_goes_on(workspace: Workspace, remote: Remote) -> None:
    remote.otherwise = Answer(raw=b"{}")
    remote.pages = {index: page(index) for index in range(30)}
    with client_of(workspace, remote) as client:
        first = warm(client, SOURCE, range(40))
    assert sum(first.unknown.values()) == 10
    remote.pages = {index: page(index) for index in range(40)}
    with client_of(workspace, remote) as client:
        second = warm(client, SOURCE, range(40))
    assert (second.known, second.asked, second.unexplained) == (30, 10, 40)


def test_an_index_that_is_none_is_refused(workspace: Workspace, remote: Remote) -> None:
    with client_of(workspace, remote) as client, pytest.raises(InputError, match="no index"):
        client.label(SOURCE, -1)


async def _inside(client: LabelClient) -> str:
    return client.label(SOURCE, 1).status


def test_it_works_from_within_an_event_loop(workspace: Workspace, remote: Remote) -> None:
    with client_of(workspace, remote) as client:
        assert asyncio.run(_inside(client)) == "missing"


def test_a_proxy_of_the_outside_world_is_not_asked_for_a_local_server(
    workspace: Workspace, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeLlm() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        with client_of(workspace, remote) as client:
            assert client.label(SOURCE, 1).status == "missing"
        assert proxy.asked == []
