"""What the services are told: which workspace and models, how much they take, who may ask.

The token is never part of it: the settings stand in config files, and Ray shows them in its dashboard.
"""

from __future__ import annotations

import os
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from raylens.api.reading import MOST_TOKENS
from raylens.config import Config, DType, Quantization
from raylens.llm.settings import EndpointSettings, OfflineSettings

WORKSPACE_VARIABLE: Final = "RAYLENS_WORKSPACE"
DEFAULT_WORKSPACE: Final = "./raylens-data"
PICO_SAES: Final = ("raylens-pico-res/layer_3", "raylens-pico-res/layer_1", "raylens-pico-res/layer_5")

_Count = Annotated[int, Field(ge=1)]


class ModelSettings(Config):
    """A model that is served, with its SAEs.

    Attributes:
        model: Bundle, folder or hub id.
        revision: Of a hub model.
        saes: SAEs that may be asked for; the first one answers where none is named. None: those that the catalogue
            has of this model, which are loaded when they are asked for.
        dtype: As ``raylens cache`` takes it.
        quantization: Likewise.
        device: Likewise.
        override_guard: Load SAEs that were trained on another model (A0.04); a request must say so as well.
    """

    model: str
    revision: str | None = None
    saes: tuple[str, ...] | None = None
    dtype: DType = "auto"
    quantization: Quantization | None = None
    device: str = "auto"
    override_guard: bool = False


class EncoderSettings(Config):
    """The deployment that runs models and SAEs.

    Attributes:
        min_replicas: Kept up.
        max_replicas: Started at most when many requests wait.
        num_cpus: That a replica takes from Ray; 0 leaves all to jobs, which suits one machine.
        num_gpus: Likewise; None for 1 where Ray has a GPU, else 0.
        threads: CPU threads of a replica.
        memory_bytes: That models and SAEs of a replica may take together; None for what the device has.
        models_per_replica: Held at a time at most; the least recently used one goes first.
        batch_tokens: Tokens read in one forward pass, padding included.
        batch_wait_s: How long a request waits for others to be read with it.
    """

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: _Count = 1
    num_cpus: Annotated[float, Field(ge=0)] = 0
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    threads: _Count | None = None
    memory_bytes: Annotated[int, Field(gt=0)] | None = None
    models_per_replica: _Count = 3
    batch_tokens: _Count = 8192
    batch_wait_s: Annotated[float, Field(ge=0, le=1)] = 0.002


class ExplainerSettings(Config):
    """The deployment that answers chats: OpenAI-compatible.

    Attributes:
        model: A causal LM: folder or hub id.
        engine: ``transformers``, or ``vllm`` (``ray.serve.llm``, on GPUs, where vLLM is installed).
        revision: Of a hub model.
        dtype: As ``raylens cache`` takes it.
        quantization: 8 or 4 bits, by bitsandbytes.
        device: As ``raylens cache`` takes it.
        num_cpus: That a replica takes from Ray.
        num_gpus: Likewise; None for 1 where Ray has a GPU, else 0.
        threads: CPU threads of a replica.
        replicas: How many.
        max_batch: Chats answered side by side.
    """

    model: str
    engine: Literal["transformers", "vllm"] = "transformers"
    revision: str | None = None
    dtype: DType = "auto"
    quantization: Quantization | None = None
    device: str = "auto"
    num_cpus: Annotated[float, Field(ge=0)] = 0
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    threads: _Count | None = None
    replicas: _Count = 1
    max_batch: _Count = 8


class Limits(Config):
    """How much the gateway takes; beyond these it refuses.

    Attributes:
        body_bytes: Of a request.
        tokens: Of a text that is read.
        concurrent: Requests under way at a time; more get 503 with Retry-After.
    """

    body_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 8192
    concurrent: _Count = 256


class ServeSettings(Config):
    """All of it: ``args`` of the application in the config file.

    Attributes:
        workspace: Folder or URL; by default ``RAYLENS_WORKSPACE``, else ``./raylens-data``.
        models: What the encoder serves; the first one answers where none is named.
        encoder: The encoder deployment.
        explainer: The explainer deployment; None for none.
        limits: Of the gateway.
        gateways: Replicas of the gateway.
        cors_origins: Web pages that may ask; none by default.
        neuronpedia: Whether labels are looked up at Neuronpedia (A0.13); by default ``RAYLENS_NEURONPEDIA_ENABLED``.
        retention_days: Spans older than this are deleted; None keeps them.
        language_models: Whom requests to explain and score may ask, by the names that they use; none by default. A
            request names no address of its own. Keys are read from the environment of the Ray cluster.
    """

    workspace: str | None = None
    models: Annotated[tuple[ModelSettings, ...], Field(min_length=1)] = (
        ModelSettings(model="raylens/pico", saes=PICO_SAES),
    )
    encoder: EncoderSettings = EncoderSettings()
    explainer: ExplainerSettings | None = None
    limits: Limits = Limits()
    gateways: _Count = 1
    cors_origins: tuple[str, ...] = ()
    neuronpedia: bool | None = None
    retention_days: Annotated[float, Field(gt=0)] | None = None
    language_models: dict[str, EndpointSettings | OfflineSettings] = Field(default_factory=dict)

    @field_validator("cors_origins")
    @classmethod
    def _no_star(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in origins:
            raise ValueError("name the origins: any page of any browser could ask otherwise")
        return origins

    @property
    def workspace_url(self) -> str:
        """Where the workspace is."""
        return self.workspace or os.environ.get(WORKSPACE_VARIABLE, "").strip() or DEFAULT_WORKSPACE
