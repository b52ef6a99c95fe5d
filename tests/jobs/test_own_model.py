"""The provider ``offline`` asks the services of its workspace where they serve the very model, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from cache_runs import SAE
from raylens.bundle.paths import PICO, model_path
from raylens.chat import Message, Reply, Request
from raylens.engine.load import load_model
from raylens.engine.local_chat import LocalChat
from raylens.errors import InputError
from raylens.llm.settings import EndpointSettings, Key, OfflineSettings
from raylens.store.process import Process
from raylens.store.standing import Standing, write_standing
from raylens.store.workspace import Workspace
from raylens_jobs.askers import open_asker
from raylens_jobs.offline import OfflineClient
from raylens_jobs.own_model import OwnModelClient, served_endpoint
from raylens_serve.explainer_endpoint import Endpoint, explainer_endpoint

REQUEST = Request((Message("user", "def area(radius):"),), max_tokens=9, top_logprobs=2)
PAIR = ("some code:\n", "for name in sorted(names):\n")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with explainer_endpoint({"model": PICO, "device": "cpu", "threads": 1}) as served:
        yield served


@pytest.fixture
def token(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", endpoint.key)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def standing_at(url: str) -> Standing:
    return Standing(url=url, process=Process.current(), address="", started_at=datetime.now(UTC))


@pytest.fixture
def workspace(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One whose services are up, as far as it knows."""
    made = Workspace.open(tmp_path_factory.mktemp("served") / "workspace", create=True)
    write_standing(made.files, standing_at(endpoint.base_url.removesuffix("/v1")))
    return made


def test_what_is_served_is_asked_there(workspace: Workspace, token: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OfflineClient, "_start", lambda _: pytest.fail("a second copy of the model is loaded"))
    model = str(model_path(PICO))  # another name of the same files

    async def run() -> tuple[Any, ...]:
        async with open_asker(OfflineSettings(model=model), workspace) as asker:
            assert isinstance(asker, OwnModelClient)
            first, losses = await asker.ask(REQUEST), await asker.losses(*PAIR)
            again = await asker.ask(REQUEST)
            await asker.forget(REQUEST)
            return first, losses, again, asker.usage

    first, losses, again, usage = asyncio.run(run())
    chat = LocalChat(load_model(PICO, device="cpu"))
    [wanted] = chat.answer([REQUEST])
    assert isinstance(wanted, Reply)
    assert (first.text, first.completion_tokens) == (wanted.text, wanted.completion_tokens)
    assert (again.text, again.from_cache) == (first.text, True)
    [expected] = chat.losses([PAIR])
    np.testing.assert_allclose(losses[1:], np.asarray(expected)[1:], atol=1e-3)  # the first token crosses the border
    assert (usage.calls, usage.cached) == (2, 1)


def test_another_model_or_precision_is_not_taken_for_it(
    endpoint: Endpoint, workspace: Workspace, token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = standing_at(endpoint.base_url.removesuffix("/v1"))
    found = served_endpoint(OfflineSettings(model=PICO, dtype="float32", max_model_len=99), up)
    assert found is not None
    assert (found.provider, found.model, found.max_model_len) == ("raylens", PICO, 99)
    for other in ({"quantization": "bnb-8bit"}, {"dtype": "bfloat16"}):
        assert served_endpoint(OfflineSettings.of({"model": PICO, **other}), up) is None
    assert served_endpoint(OfflineSettings(model=PICO), standing_at("http://127.0.0.1:9")) is None
    monkeypatch.setenv("RAYLENS_API_TOKEN", "another-token-of-many-characters")
    assert served_endpoint(OfflineSettings(model=PICO), up) is None

    async def opened(settings: OfflineSettings) -> Any:
        async with open_asker(settings, workspace) as asker:
            assert isinstance(asker, OwnModelClient)
            return asker._asker

    assert isinstance(asyncio.run(opened(OfflineSettings(model=PICO))), OfflineClient)
    with pytest.raises(InputError, match="such model"):
        asyncio.run(opened(OfflineSettings(model="no such model")))


def test_the_token_of_ones_own_services_is_found_as_they_find_it(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("token") / "api-token"
    file.write_text(endpoint.key)
    file.chmod(0o600)
    monkeypatch.delenv("RAYLENS_API_TOKEN", raising=False)
    monkeypatch.setenv("RAYLENS_API_TOKEN_FILE", str(file))
    settings = EndpointSettings(provider="raylens", model=PICO)
    assert settings.base_url == "http://127.0.0.1:8000/v1"
    assert Key.from_environment(settings).headers() == {"Authorization": f"Bearer {endpoint.key}"}
    far = settings.model_copy(update={"base_url": "http://example.com/v1"})
    assert Key.from_environment(far).headers() == {}  # never unencrypted to another network


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """pico with a context that prompts of the explainer fit into; what it says of them is no matter."""
    source = model_path(PICO)
    assert source is not None
    folder = shutil.copytree(source, tmp_path_factory.mktemp("roomy") / "model")
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps(config))
    with explainer_endpoint({"model": str(folder), "device": "cpu", "threads": 1}) as served:
        yield served


def test_explain_and_score_ask_the_explainer_that_is_served(  # A1.11
    copy: Workspace, roomy: Endpoint, raylens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OfflineClient, "_start", lambda _: pytest.fail("a second copy of the model is loaded"))
    monkeypatch.setenv("RAYLENS_API_TOKEN", roomy.key)
    write_standing(copy.files, standing_at(roomy.base_url.removesuffix("/v1")))
    few = ["--sae", SAE, "--min-examples", "20", "--n-examples-train", "5", "--feature", "0", "--feature", "4"]
    own = ["--explainer-model", roomy.model, "--provider", "offline"]
    _, explained, err = raylens("explain", *few, "--explainer", "default", *own)
    assert explained["usage"]["calls"] > 0, err
    assert explained["usage"]["retries"] == explained["usage"]["failed"] == 0, err
    code, _, err = raylens("explain", *few)
    assert code == 0, err
    judge = ["--scorer", "surprisal", "--n-examples-test", "8", "--n-non-activating", "8"]
    code, scored, err = raylens("score", "--sae", SAE, *judge, "--judge-model", roomy.model, "--provider", "offline")
    assert code == 0, err
    assert scored["usage"]["calls"] > 0
    assert scored["usage"]["retries"] == scored["usage"]["failed"] == 0
    assert {row["scorer"] for row in scored["card"]} == {"surprisal"}
