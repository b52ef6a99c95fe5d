"""A Neuronpedia over real HTTP that answers well or badly, what it answers, and a clock that tests move."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fake_llm import Answer, Asked, FakeLlm
from raylens.labels.names import NeuronpediaId
from raylens.labels.settings import LabelSettings

SOURCE = NeuronpediaId("gemma-2-2b", "20-gemmascope-res-16k")


def explanation(description: str, type_name: str = "oai_token-act-pair", **more: Any) -> dict[str, Any]:
    """As the API gives one."""
    return {
        "id": f"id-{description[:8]}",
        "description": description,
        "typeName": type_name,
        "explanationModelName": "gpt-4o-mini",
        "scores": [],
        **more,
    }


def page(index: int, *explanations: Mapping[str, Any], source: NeuronpediaId = SOURCE, **more: Any) -> dict[str, Any]:
    """As the API gives one."""
    return {
        "modelId": source.model,
        "layer": source.source,
        "index": str(index),
        "maxActApprox": 12.5,
        "frac_nonzero": 0.01,
        "pos_str": ["a", "b"],
        "pos_values": [1.5, 1.0],
        "vector": [0.1] * 8,
        "activations": [{"tokens": ["x", "y"], "values": [0, 3.0], "maxValue": 3.0}],
        "explanations": list(explanations),
        **more,
    }


@dataclass
class Remote:
    """What the server answers: by index a page, an answer, or nothing, which is Neuronpedia's 404."""

    server: FakeLlm
    pages: dict[int, Any] = field(default_factory=dict)
    otherwise: Answer | None = None

    @property
    def asked(self) -> list[str]:
        """Paths so far, in order of arrival."""
        return [one.target for one in self.server.asked]

    @property
    def indices(self) -> list[int]:
        return [int(path.rpartition("/")[2]) for path in self.asked]

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the last request."""
        return self.server.asked[-1].headers

    def settings(self, **more: Any) -> LabelSettings:
        """To ask this server, patiently: the machine may be busy."""
        base_url = f"http://127.0.0.1:{self.server.port}"
        return LabelSettings.of({"base_url": base_url, "mode": "remote_fallback", "timeout_s": 30.0, **more})

    def respond(self, asked: Asked) -> Answer:
        found = self.pages.get(int(asked.target.rpartition("/")[2]), self.otherwise)
        if found is None:
            return Answer(status=404, raw=json.dumps({"error": "Feature not found"}).encode())
        return found if isinstance(found, Answer) else Answer(raw=json.dumps(found).encode())


@dataclass
class HandClock:
    """Time that passes only when somebody sleeps or a test says so."""

    time: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_700_000_000.0 + self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
