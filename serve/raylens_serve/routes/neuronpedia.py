"""``/api/…``: the routes of Neuronpedia, so that its clients work with a workspace and with served models.

Errors are ``{"error": …}`` there: 400 where a request cannot be answered, 404 where there is no such thing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from raylens.api.neuronpedia import (
    ActivationOnText,
    ExplanationSearch,
    FoundExplanations,
    NeuronpediaError,
    NewActivation,
    SearchAll,
    SearchByToken,
    SearchedText,
    SearchedTokens,
    Sources,
)
from raylens.api.system import ServedModel
from raylens.catalog import Catalog
from raylens.errors import InputError, UnknownNameError
from raylens.labels.label_store import LabelStore
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.phrases import Embed
from raylens.store.workspace import Workspace
from raylens_serve import neuronpedia_pages
from raylens_serve.browsing import bundled_embedding, closed_at_the_end
from raylens_serve.neuronpedia_names import SourceNames
from raylens_serve.neuronpedia_search import Searches
from raylens_serve.problems import RETRY_S, as_raylens, status_of
from raylens_serve.services import EncoderClient

_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": NeuronpediaError, "description": said}
    for status, said in {
        400: "A value is not possible.",
        401: "The token is missing or wrong.",
        404: "There is no such thing.",
        413: "What was sent is too large.",
        500: "It failed.",
        503: "Too much is under way; try after `Retry-After` seconds.",
        507: "Memory does not suffice.",
    }.items()
}


class NeuronpediaRoute(APIRoute):
    """A route whose errors are Neuronpedia's."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The handler, which answers errors itself."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"] if part not in ("body", "path"))
                return _error(400, f"{where or 'the request'} is not valid: {first['msg']!s}.")
            except HTTPException as error:
                return _error(error.status_code, f"{error.detail}.")
            except Exception as error:
                found = as_raylens(error)
                if found is None:
                    raise
                if isinstance(found, InputError):
                    return _error(404 if isinstance(found, UnknownNameError) else 400, str(found))
                return _error(status_of(found), str(found))

        return answered


def neuronpedia_routes(
    workspace: Workspace,
    catalog: Catalog,
    encoder: EncoderClient | None,
    *,
    embed: Embed | None = None,
    served: Sequence[ServedModel] = (),
    features: WorkspaceFeatures | None = None,
) -> APIRouter:
    """The routes.

    Args:
        workspace: Whose features.
        catalog: For names of models, and Neuronpedia ids of SAEs.
        encoder: Reads texts; None where no model is served.
        embed: For searches by meaning; by default the bundled embedding.
        served: Models that are, with their SAEs.
        features: The workspace's, where others read them too.
    """
    features = features or WorkspaceFeatures(workspace, catalog)
    kept = LabelStore(workspace.files)
    names = SourceNames(features, {sae for one in served for sae in one.saes})
    searches = Searches(features, names, encoder, embed or (lambda texts: bundled_embedding()(texts)))
    routes = APIRouter(
        prefix="/api",
        tags=["neuronpedia"],
        route_class=NeuronpediaRoute,
        responses=_ERRORS,
        lifespan=closed_at_the_end(features, kept),
    )

    @routes.get("/sources")
    def sources() -> Sources:
        """Every source that something is known of."""
        return Sources.model_validate(neuronpedia_pages.sources(features.own, kept))

    @routes.get("/feature/{modelId}/{source}/{index}", response_model=dict[str, Any])
    def feature(modelId: str, source: str, index: str) -> Response:  # noqa: N803 (the name that Neuronpedia documents)
        """A feature's page: statistics, logits, neighbours, windows, and always `explanations`."""
        status, body = neuronpedia_pages.feature(features.own, kept, modelId, source, index)
        return JSONResponse(body, status_code=status)

    @routes.post("/explanation/search")
    def explanation_search(request: ExplanationSearch) -> FoundExplanations:
        """Features of the workspace by what its explainers and people say of them."""
        return searches.explanations(request)

    @routes.post("/search-all")
    async def search_all(request: SearchAll) -> SearchedText:
        """Features that fire most on a text, of several SAEs at once."""
        return await searches.all(request)

    @routes.post("/search-topk-by-token")
    async def search_topk_by_token(request: SearchByToken) -> SearchedTokens:
        """Features that fire most on each token of a text."""
        return await searches.by_token(request)

    @routes.post("/activation/new")
    async def new_activation(request: NewActivation) -> ActivationOnText:
        """One feature on each token of a text."""
        return await searches.activation(request)

    return routes


def _error(status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_S)} if status == 503 else {}
    return JSONResponse({"error": message}, status_code=status, headers=headers)
