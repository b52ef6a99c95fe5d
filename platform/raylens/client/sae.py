"""Models with SAEs, and what they read."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from raylens.api.extraction import EffectsAnswer, ExtractAnswer
from raylens.api.provenance import Provenance
from raylens.api.reading import (
    AblateAnswer,
    AblateRequest,
    EncodeAnswer,
    EncodeRequest,
    ValuesAnswer,
    ValuesRequest,
)
from raylens.api.system import SupportedModels
from raylens.client.http import Http

_ANSWERS = TypeAdapter(list[ExtractAnswer])


class Sae:
    """Methods about models and what they read; made by :class:`raylens.client.Client`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def supported_models(self) -> SupportedModels:
        """The live catalogue (A0.07)."""
        return self._http.get("/api/v1/sae/supported-models", SupportedModels)

    def extract(self, span_id: str, top_k: int = 20, **options: Any) -> ExtractAnswer:
        """Features of a span; ``options`` are those of :class:`raylens.api.extraction.ExtractRequest`."""
        return self._http.post("/api/v1/sae/extract", ExtractAnswer, {"span_id": span_id, "top_k": top_k, **options})

    def kept(self, span_id: str, top_k: int = 20) -> list[ExtractAnswer]:
        """What was read of a span so far."""
        return self._http.get(f"/api/v1/spans/{span_id}/features", _ANSWERS, {"top_k": top_k})

    def span_effects(self, span_id: str, **options: Any) -> EffectsAnswer:
        """What each input token of a span does for its output; see :class:`raylens.api.reading.EffectOptions`."""
        return self._http.post(f"/api/v1/spans/{span_id}/effects", EffectsAnswer, options)

    def encode(self, request: EncodeRequest) -> EncodeAnswer:
        """Features of any text."""
        return self._http.post("/api/v1/encode", EncodeAnswer, request)

    def activations(self, request: ValuesRequest) -> ValuesAnswer:
        """Exact activations of some features on any text."""
        return self._http.post("/api/v1/activations", ValuesAnswer, request)

    def provenance(self, feature: str, text: str | None = None, **options: Any) -> Provenance:
        """Which features of earlier layers caused a feature on a text.

        Args:
            feature: ``<sae>/<index>``, or ``f_<layer>_<index>`` of a served SAE.
            text: Which; None where ``options`` name ``token_ids``, or ``input`` and ``output``.
            options: See :class:`raylens.api.provenance.ProvenanceRequest`.
        """
        asked = {"feature": feature, **({"text": text} if text is not None else {}), **options}
        return self._http.post("/api/v1/provenance", Provenance, asked)

    def effects(self, request: AblateRequest) -> AblateAnswer:
        """What each input token does for an output."""
        return self._http.post("/api/v1/effects", AblateAnswer, request)
