"""The application of Ray Serve: ``import_path: raylens_serve.build:build`` in a config file, and ``raylens serve up``.

::

                      ┌── Ledger     one: spans, what is read of them            (writes the workspace)
    HTTP ── Gateway ──┼── Encoder    models and SAEs, batched                    (GPU or cores)
                      └── Explainer  chats, where one is configured              (GPU or cores)
"""

from __future__ import annotations

import os
from typing import Any, Final

from ray import serve
from ray.serve.handle import DeploymentHandle

from raylens.home import from_home
from raylens.net.api_token import FILE_VARIABLE, VARIABLE
from raylens_serve.encoder import Encoder
from raylens_serve.explainer import Explainer
from raylens_serve.explainer_vllm import vllm_explainer
from raylens_serve.gateway import Gateway
from raylens_serve.ledger import Ledger
from raylens_serve.settings import EncoderSettings, ExplainerSettings, ServeSettings

_ONGOING: Final = 1024
_QUEUED: Final = 4096
_GRACE_S: Final = 20.0
_QUIET: Final = {"enable_access_log": False}
"""Calls between deployments; the gateway's log has a line for each request."""
_FORWARDED: Final = (
    FILE_VARIABLE,
    "RAYLENS_BASE_DIR",
    "RAYLENS_NEURONPEDIA_ENABLED",
    "NEURONPEDIA_BASE_URL",
    "NEURONPEDIA_EXPLANATIONS_MODE",
)
"""Variables that replicas of a Ray started elsewhere need; none of them is a secret (Ray shows them)."""


def build(args: dict[str, Any]) -> serve.Application:
    """All deployments, wired together.

    Args:
        args: :class:`raylens_serve.settings.ServeSettings` as JSON values.

    Raises:
        InputError: They are not valid.
    """
    settings = ServeSettings.of(args)
    settings = settings.model_copy(update={"workspace": _absolute(settings.workspace_url)})
    said = settings.model_dump(mode="json")
    environment = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    ledger = serve.deployment(
        name="Ledger",
        num_replicas=1,
        max_ongoing_requests=_ONGOING,
        graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options=_actor(0, 0, environment),
        logging_config=_QUIET,
    )(Ledger).bind(settings.workspace, settings.retention_days)
    encoder = serve.deployment(
        name="Encoder",
        max_ongoing_requests=_ONGOING,
        max_queued_requests=_QUEUED,
        graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options=_actor(settings.encoder.num_cpus, _gpus(settings.encoder), environment),
        logging_config=_QUIET,
        **_replicas(settings.encoder),
    )(Encoder).bind(said)
    explainer = None
    if settings.explainer is not None and settings.explainer.engine == "vllm":
        explainer = vllm_explainer(
            settings.explainer, max_ongoing_requests=_ONGOING, ray_actor_options=_actor(0, 0, environment)
        )
    elif settings.explainer is not None:
        explainer = serve.deployment(
            name="Explainer",
            num_replicas=settings.explainer.replicas,
            max_ongoing_requests=_ONGOING,
            graceful_shutdown_timeout_s=_GRACE_S,
            ray_actor_options=_actor(settings.explainer.num_cpus, _gpus(settings.explainer), environment),
        )(Explainer).bind(settings.explainer.model_dump(mode="json"))
    gateway = serve.deployment(
        name="Gateway",
        num_replicas=settings.gateways,
        max_ongoing_requests=_ONGOING,
        graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options=_actor(0, 0, environment),
    )(serve.ingress()(Gateway))
    return gateway.bind(said, _handle(ledger), _handle(encoder), _handle(explainer))


def _handle(application: serve.Application | None) -> DeploymentHandle | None:
    """Ray Serve puts a handle in the place of a bound deployment; types do not know of it."""
    return application  # pyright: ignore[reportReturnType]


def _replicas(settings: EncoderSettings) -> dict[str, Any]:
    if settings.min_replicas == settings.max_replicas:
        return {"num_replicas": settings.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": 32,
        }
    }


def _actor(cpus: float, gpus: float, environment: dict[str, str]) -> dict[str, Any]:
    # The token itself is found in the environment or in its file by the replica, and never stands in a config.
    assert VARIABLE not in environment
    return {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": environment} if environment else {}}


def _gpus(settings: EncoderSettings | ExplainerSettings) -> float:
    if settings.num_gpus is not None:
        return settings.num_gpus
    import ray

    return 1 if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) else 0


def _absolute(url: str) -> str:
    """Replicas run in other folders than the one in which a relative path was written."""
    return url if "://" in url else str(from_home(url).absolute())
