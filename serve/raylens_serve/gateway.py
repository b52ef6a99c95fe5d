"""The gateway: everything that is answered over HTTP, in front of the other deployments.

It runs no model and writes nothing itself, so that it starts in a second and may have replicas.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle
from starlette.middleware.cors import CORSMiddleware

import raylens
from raylens.catalog import Catalog
from raylens.catalog.user import find_user_file
from raylens.labels.span_labels import SpanLabels
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.net.api_token import find_or_make_token
from raylens.store.patches import Patches
from raylens.store.workspace import Workspace
from raylens_serve import problems
from raylens_serve.extraction import Extractor
from raylens_serve.guard import Guard
from raylens_serve.job_submission import Jobs
from raylens_serve.routes.audits import audit_routes
from raylens_serve.routes.features import feature_routes
from raylens_serve.routes.neuronpedia import neuronpedia_routes
from raylens_serve.routes.openai import openai_routes
from raylens_serve.routes.reading import reading_routes
from raylens_serve.routes.runs import run_routes
from raylens_serve.routes.sae import sae_routes
from raylens_serve.routes.system import Status, system_routes
from raylens_serve.routes.traces import trace_routes
from raylens_serve.routes.workbench import alias_routes, workbench_routes
from raylens_serve.routes.workbench_socket import workbench_socket
from raylens_serve.served import Served
from raylens_serve.services import Caller, EncoderClient, Handle, LedgerClient
from raylens_serve.sessions import Sessions
from raylens_serve.settings import ServeSettings

_PAGE: Final = "/api/v1/features/{feature:path}"

DESCRIPTION: Final = """
What a language model's internal features mean, and whether a fine-tune changed them.

Every request but `GET /healthz` carries `Authorization: Bearer TOKEN`. Errors are one sentence and what to do about
it. Nothing that is sent here leaves the machine.
""".strip()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the gateway puts together.

    Attributes:
        settings: Of the services.
        workspace: What is browsed.
        ledger: Writes.
        encoder: Reads texts.
        explainer: Answers chats; None where none is served.
        jobs: Starts runs.
        catalog: Which SAE fits which model.
    """

    settings: ServeSettings
    workspace: Workspace
    ledger: Caller
    encoder: Caller
    explainer: Caller | None
    jobs: Jobs
    catalog: Catalog


def gateway_app(parts: Parts, token: str) -> FastAPI:
    """The application.

    Args:
        parts: What answers.
        token: What clients must send.
    """
    settings, workspace, catalog = parts.settings, parts.workspace, parts.catalog
    ledger, encoder = LedgerClient(parts.ledger), EncoderClient(parts.encoder)
    served = Served(catalog, settings.models)
    features = WorkspaceFeatures(workspace, catalog)
    labels = SpanLabels(workspace, catalog, enabled=settings.neuronpedia, own=features.own)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        labels.close()

    # No page of documentation: those fetch scripts from elsewhere. The description itself is at /openapi.json.
    app = FastAPI(
        title="RayLens",
        version=raylens.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    problems.install(app)
    sessions = Sessions(Patches(workspace), encoder, served, features)
    workbench = [each(sessions, prefix) for prefix in ("/api/v1", "") for each in (workbench_routes, workbench_socket)]
    status: dict[str, Status] = {"ledger": ledger.status, "encoder": encoder.status}
    if (explainer := parts.explainer) is not None:
        status["explainer"] = lambda: explainer.call("status")
    for routes in (
        system_routes(workspace.url, status),
        sae_routes(catalog, served, Extractor(served, ledger, encoder, labels)),
        reading_routes(encoder, settings.limits.tokens),
        trace_routes(ledger),
        browsing := feature_routes(workspace, catalog, encoder, served=served.rows(), features=features),
        alias_routes(browsing, {"/features": "/api/v1/features", "/feature/{feature:path}/details": _PAGE}),
        audit_routes(workspace, parts.jobs),
        run_routes(workspace, parts.jobs, settings.language_models),
        neuronpedia_routes(workspace, catalog, encoder, served=served.rows(), features=features),
        openai_routes(parts.explainer),
        *workbench,
    ):
        app.include_router(routes)
    app.add_middleware(Guard, token=token, limits=settings.limits)
    if settings.cors_origins:
        # Outermost: a browser asks whether it may ask without a token.
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


class Gateway:
    """The gateway as a deployment of Ray Serve; its application is made in the replica.

    Args:
        settings: :class:`ServeSettings` as JSON values.
        ledger: Handle to the Ledger.
        encoder: Handle to the Encoder.
        explainer: Handle to the Explainer, where there is one.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        ledger: DeploymentHandle,
        encoder: DeploymentHandle,
        explainer: DeploymentHandle | None = None,
    ) -> None:
        self._settings = ServeSettings.of(settings)
        self._ledger, self._encoder, self._explainer = ledger, encoder, explainer

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve once the replica is up."""
        workspace = Workspace.open(self._settings.workspace_url, create=True)
        token, _ = find_or_make_token()
        parts = Parts(
            settings=self._settings,
            workspace=workspace,
            ledger=Handle(self._ledger),
            encoder=Handle(self._encoder),
            explainer=Handle(self._explainer) if self._explainer is not None else None,
            jobs=Jobs(workspace),
            catalog=Catalog.load(find_user_file(None, workspace.url)),
        )
        return gateway_app(parts, token)
