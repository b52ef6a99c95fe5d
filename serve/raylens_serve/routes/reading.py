"""``/api/v1/encode``, ``/activations``, ``/effects``, ``/provenance``: any text through a served model and its SAEs."""

from __future__ import annotations

from fastapi import APIRouter

from raylens.api.provenance import Provenance, ProvenanceRequest
from raylens.api.reading import (
    AblateAnswer,
    AblateRequest,
    EncodeAnswer,
    EncodeRequest,
    Passage,
    ValuesAnswer,
    ValuesRequest,
)
from raylens.errors import InputError
from raylens_serve.responses import problems
from raylens_serve.services import EncoderClient


def reading_routes(encoder: EncoderClient, most_tokens: int) -> APIRouter:
    """The routes.

    Args:
        encoder: Reads.
        most_tokens: That a client may send; what a model reads may be less.
    """
    routes = APIRouter(prefix="/api/v1", tags=["reading"])

    @routes.post("/encode", responses=problems(404, 507))
    async def encode(request: EncodeRequest) -> EncodeAnswer:
        """Features of a text by token and over all of it, and the likeliest next tokens."""
        _bounded(request, most_tokens)
        return await encoder.encode(request)

    @routes.post("/activations", responses=problems(404, 507))
    async def activations(request: ValuesRequest) -> ValuesAnswer:
        """Exact activations of some features on each token of a text."""
        _bounded(request, most_tokens)
        return await encoder.values(request)

    @routes.post("/effects", responses=problems(404, 507))
    async def effects(request: AblateRequest) -> AblateAnswer:
        """What each token that went in does for what came out."""
        return await encoder.ablate(request)

    @routes.post("/provenance", responses=problems(404, 507))
    async def provenance(request: ProvenanceRequest) -> Provenance:
        """Which features of earlier layers caused a feature on a text, each edge tested by ablation (A3.10)."""
        _bounded(request, most_tokens)
        return await encoder.provenance(request)

    return routes


def _bounded(passage: Passage, most: int) -> None:
    """Token ids are counted here; texts are cut by the model's own limit once they are tokens."""
    if passage.token_ids is not None and len(passage.token_ids) > most:
        raise InputError(
            f"{len(passage.token_ids):,} tokens are more than the {most:,} that are read at a time.",
            hint="send them in parts.",
        )
