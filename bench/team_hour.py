"""What a team sends in an hour: people who look at features and chat, and agents whose every turn is traced.

Ten people at work. Their agents take a turn every four seconds, in three spans by OTLP; a pipeline sends spans as JSON,
five at a time. Every fourth span is read for the first time, and others are looked at again. Somebody turns a page of
features, searches, asks one of Neuronpedia's routes or reads a text every few seconds, and chats every eight. Probes
ask every fifteen. Older traces are deleted as new ones come, so that as many stand at the end as early on.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.serving import Texts
from raylens_serve.settings import PICO_SAES

HOUR: Final[Mapping[str, int]] = {
    "otlp": 900,
    "send": 120,
    "delete": 1020,
    "extract": 900,
    "look_again": 600,
    "traces": 240,
    "trace": 120,
    "search_traces": 60,
    "effects": 24,
    "encode": 240,
    "activations": 240,
    "features": 240,
    "search": 180,
    "page": 240,
    "examples": 120,
    "activate": 60,
    "np_feature": 240,
    "np_explanations": 60,
    "np_search_all": 60,
    "np_by_token": 60,
    "np_activation": 60,
    "chat": 240,
    "chat_stream": 240,
    "ready": 240,
}
"""Requests by kind; each names a method of :class:`Team`."""

SENT: Final = 5
"""Spans that are sent as JSON at a time."""

_MODEL, _SAE, _SOURCE = "raylens/pico", PICO_SAES[0], "3-raylens-pico-res--layer_3"
_NEURONPEDIA: Final = {"modelId": "pico", "source": _SOURCE}
_WORDS: Final = ("return", "the word class", "numbers", "end of a line", "import of a module", "a string", "self")


class Team:
    """Each method of :data:`HOUR` is one request, and fails where its answer is not what it should be.

    Args:
        http: Knows where, and the token.
        texts: None is sent twice.
        standing: Traces that are kept; older ones are deleted.
        n_features: That the SAE has.

    Attributes:
        asked: Requests so far.
    """

    def __init__(self, http: httpx.AsyncClient, texts: Texts, standing: int, n_features: int) -> None:
        self.asked = 0
        self._http, self._texts, self._standing, self._n_features = http, texts, standing, n_features
        self._rng = np.random.default_rng(1)
        self._traces: deque[str] = deque()
        self._unread: deque[str] = deque(maxlen=32)
        self._read: deque[str] = deque(maxlen=16)

    async def ask(self, kind: str) -> None:
        """One request of this kind; of deletions none where not enough stands yet."""
        await getattr(self, kind)()

    # ------------------------------------------------------------------ traces

    async def otlp(self) -> None:
        """An agent's turn: what it was asked, what its model said, and the tool it called."""
        trace, ids = secrets.token_bytes(16), [secrets.token_bytes(8) for _ in range(3)]
        request = ExportTraceServiceRequest()
        scoped = request.resource_spans.add().scope_spans.add()
        said = _said(self._text(256), self._text(64))
        for span_id, name in zip(ids, ("invoke_agent", "chat", "execute_tool"), strict=True):
            attributes = {"gen_ai.operation.name": name, **(said if name == "chat" else {"input.value": "{}"})}
            span = scoped.spans.add(trace_id=trace, span_id=span_id, name=name)
            span.parent_span_id = b"" if span_id is ids[0] else ids[0]
            for key, value in attributes.items():
                span.attributes.add(key=key).value.string_value = value
        headers = {"Content-Type": "application/x-protobuf"}
        answer = await self._post("/v1/traces", content=request.SerializeToString(), headers=headers)
        assert not answer.content, "some spans were refused"
        self._traces.append(trace.hex())
        self._unread.append(ids[1].hex())

    async def send(self) -> None:
        """Spans of a pipeline."""
        trace = secrets.token_hex(16)
        spans = [{"trace_id": trace, "model": _MODEL, "input": self._text(64), "output": "\n"} for _ in range(SENT)]
        made = (await self._post("/api/v1/traces", json={"spans": spans})).json()["span_ids"]
        assert len(made) == SENT
        self._traces.append(trace)
        self._unread += made

    async def delete(self) -> None:
        """The oldest trace, once enough stand."""
        if len(self._traces) > self._standing:
            answer = await self._sent("DELETE", f"/api/v1/traces/{self._traces.popleft()}")
            assert answer.json()["deleted"] in (3, SENT)

    async def extract(self) -> None:
        """Features of a span that nobody read before."""
        span = self._unread.popleft()
        found = (await self._post("/api/v1/sae/extract", json={"span_id": span, "top_k": 20})).json()
        assert found["reason"] == "ok", found["reason"]
        assert len(found["features"]) == 20
        self._read.append(span)

    async def look_again(self) -> None:
        """Features of one that was read."""
        asked = {"span_id": self._one_of(self._read), "top_k": 10}
        found = (await self._post("/api/v1/sae/extract", json=asked)).json()
        assert found["reason"] == "ok (cached)", found["reason"]

    async def traces(self) -> None:
        """The first page of traces."""
        assert (await self._get("/api/v1/traces", limit=20)).json()["traces"]

    async def trace(self) -> None:
        """One whole trace, a recent one."""
        found = await self._get(f"/api/v1/traces/{self._traces[-1 - int(self._rng.integers(3))]}")
        assert found.json()["spans"]

    async def search_traces(self) -> None:
        """Spans by a word in their texts."""
        await self._get("/api/v1/spans", text="return", limit=20)

    async def effects(self) -> None:
        """What each token of a short text does."""
        passage = {"input": self._text(16), "output": self._text(8)}
        assert (await self._post("/api/v1/effects", json=passage)).json()

    # ------------------------------------------------------------------ texts and features

    async def encode(self) -> None:
        """A text with all SAEs."""
        found = (await self._post("/api/v1/encode", json={"text": self._text(128), "next_tokens": 5})).json()
        assert len(found["saes"]) == len(PICO_SAES)

    async def activations(self) -> None:
        """Some features on a text."""
        asked = {"text": self._text(128), "sae": _SAE, "features": [self._feature() for _ in range(4)]}
        assert (await self._post("/api/v1/activations", json=asked)).json()["token_ids"]

    async def features(self) -> None:
        """A page of features."""
        asked = {"limit": 50, "offset": int(self._rng.integers(500)), "sort": self._one_of(("density", "max", "score"))}
        assert len((await self._get("/api/v1/features", **asked)).json()["features"]) == 50

    async def search(self) -> None:
        """Features by meaning."""
        assert (await self._get("/api/v1/features/search", q=self._one_of(_WORDS))).json()["hits"]

    async def page(self) -> None:
        """A feature."""
        assert (await self._get(f"/api/v1/features/f_3_{self._feature()}")).json()["statistics"]

    async def examples(self) -> None:
        """Text that a feature fires in."""
        await self._get(f"/api/v1/features/f_3_{self._feature()}/examples", limit=20)

    async def activate(self) -> None:
        """A feature on a text of one's own."""
        path = f"/api/v1/features/f_3_{self._feature()}/activate"
        assert (await self._post(path, json={"text": self._text(32)})).json()

    async def np_feature(self) -> None:
        """A feature, as Neuronpedia shows it."""
        assert (await self._get(f"/api/feature/pico/{_SOURCE}/{self._feature()}")).json()["index"]

    async def np_explanations(self) -> None:
        """Features by meaning, as Neuronpedia finds them."""
        asked = {"modelId": "pico", "layers": [_SOURCE], "query": self._one_of(_WORDS)}
        assert (await self._post("/api/explanation/search", json=asked)).json()["results"]

    async def np_search_all(self) -> None:
        """Features that fire on a text, likewise."""
        asked = {"modelId": "pico", "text": self._text(64), "numResults": 20, "sourceSet": "raylens-pico-res"}
        assert len((await self._post("/api/search-all", json=asked)).json()["result"]) == 20

    async def np_by_token(self) -> None:
        """Features of each token, likewise."""
        asked = {**_NEURONPEDIA, "text": self._text(32), "numResults": 5}
        assert (await self._post("/api/search-topk-by-token", json=asked)).json()["results"]

    async def np_activation(self) -> None:
        """A feature on a text, likewise."""
        asked = {"feature": {**_NEURONPEDIA, "index": str(self._feature())}, "customText": self._text(32)}
        assert (await self._post("/api/activation/new", json=asked)).json()

    # ------------------------------------------------------------------ chats, and who looks after them

    async def chat(self) -> None:
        """An answer in one piece."""
        (choice,) = (await self._post("/v1/chat/completions", json=self._chat())).json()["choices"]
        assert choice["finish_reason"] in ("stop", "length")

    async def chat_stream(self) -> None:
        """An answer as it is written."""
        answer = await self._post("/v1/chat/completions", json={**self._chat(), "stream": True})
        *events, last = [line for line in answer.text.split("\n\n") if line]
        assert last == "data: [DONE]", last
        assert json.loads(events[-1].removeprefix("data: "))["choices"][0]["finish_reason"] in ("stop", "length")

    async def ready(self) -> None:
        """A probe."""
        assert (await self._get("/readyz")).json()["ready"]

    # ------------------------------------------------------------------ how

    def _chat(self) -> dict[str, Any]:
        asked = {"role": "user", "content": self._text(64)}
        return {"model": _MODEL, "messages": [asked], "max_tokens": 48, "seed": int(self._rng.integers(2**31))}

    def _text(self, n_tokens: int) -> str:
        return self._texts.of(n_tokens, 1)[0]

    def _feature(self) -> int:
        return int(self._rng.integers(self._n_features))

    def _one_of(self, some: Sequence[Any]) -> Any:
        return some[int(self._rng.integers(len(some)))]

    async def _get(self, path: str, **query: Any) -> httpx.Response:
        return await self._sent("GET", path, params=query)

    async def _post(self, path: str, **sent: Any) -> httpx.Response:
        return await self._sent("POST", path, **sent)

    async def _sent(self, method: str, path: str, **sent: Any) -> httpx.Response:
        self.asked += 1
        answer = await self._http.request(method, path, **sent)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}"
        return answer


def _said(asked: str, answered: str) -> dict[str, str]:
    """A call of a model, as OpenTelemetry's conventions have it."""
    return {
        "gen_ai.request.model": _MODEL,
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": asked}]}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": answered}]}]),
    }
