"""``/api/v1/sae`` and what is read of spans (A0.07, A0.09)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from raylens.api.extraction import EffectsAnswer, ExtractAnswer, ExtractRequest
from raylens.api.reading import KEPT, EffectOptions
from raylens.api.system import SupportedModel, SupportedModels
from raylens.catalog import Catalog
from raylens.catalog.support import supported_models
from raylens.traces.span import Id
from raylens_serve.extraction import Extractor
from raylens_serve.responses import problems
from raylens_serve.served import Served

SpanId = Annotated[Id, Path(description="Of a span.")]


def sae_routes(catalog: Catalog, served: Served, extractor: Extractor) -> APIRouter:
    """The routes.

    Args:
        catalog: The list of models with SAEs.
        served: Those at hand.
        extractor: Reads spans.
    """
    routes = APIRouter(prefix="/api/v1", tags=["sae"])
    rows = tuple(SupportedModel.model_validate(row) for row in supported_models(catalog))

    @routes.get("/sae/supported-models", responses=problems())
    def models() -> SupportedModels:
        """Models whose features can be read, and the SAEs that were trained on them; and what is served right now."""
        return SupportedModels(models=rows, served=served.rows())

    @routes.post("/sae/extract", responses=problems(404, 409, 507))
    async def extract(request: ExtractRequest) -> ExtractAnswer:
        """Features of a span: per feature the maximum over the tokens that went in and came out, BOS left out."""
        return await extractor.extract(request)

    @routes.get("/spans/{span_id}/features", responses=problems(404))
    async def kept(
        span_id: SpanId, top_k: Annotated[int, Query(ge=1, le=KEPT, description="Of each SAE.")] = 20
    ) -> list[ExtractAnswer]:
        """What was read of a span so far, by SAE; nothing is read for it (A0.12)."""
        return await extractor.kept(span_id, top_k)

    @routes.post("/spans/{span_id}/effects", responses=problems(404, 507))
    async def effects(span_id: SpanId, request: EffectOptions) -> EffectsAnswer:
        """What each token that went in does for what came out: taken out, and replaced (A0.06)."""
        return await extractor.effects(span_id, request)

    return routes
