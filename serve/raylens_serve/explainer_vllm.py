"""The Explainer on vLLM, for GPUs: ``ray.serve.llm`` runs the model, and this asks it as the gateway asks an Explainer.

vLLM is not a part of RayLens's dependencies: it brings its own torch. Where it is not installed, the remedy is said.
Tests check what it is configured with, and the forms in which it is asked and answers; none of them runs vLLM.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from importlib.util import find_spec
from typing import Any, Final

from ray import serve
from ray.serve.handle import DeploymentHandle

from raylens.api.openai import MOST_ALTERNATIVES, ChatRequest, CompletionRequest
from raylens.api.openai_answers import ChatChunk, ChatCompletion, Completion, Model, Models
from raylens.bundle.paths import model_path
from raylens.errors import InputError, RunError, UnknownNameError
from raylens.home import from_home
from raylens.llm.errors import ContextTooLongError, RequestRefusedError
from raylens_serve.services import Handle
from raylens_serve.settings import ExplainerSettings

MakeRequest = Callable[..., Any]
"""vLLM's own class of a request, or what stands for it."""

_FINGERPRINT: Final = "vllm"
_TOO_LONG: Final = "maximum context length"


def llm_values(settings: ExplainerSettings) -> dict[str, Any]:
    """What ``ray.serve.llm.LLMConfig`` is made of.

    Args:
        settings: ``max_batch`` becomes vLLM's ``max_num_seqs``, and ``num_gpus`` above one its tensor parallelism.

    Raises:
        InputError: vLLM has no such quantization or device.
    """
    if settings.quantization == "bnb-8bit":
        raise InputError(
            "vLLM loads no weights in 8 bits by bitsandbytes.",
            hint="set quantization: bnb-4bit, or engine: transformers.",
        )
    if settings.device != "auto" and not settings.device.startswith("cuda"):
        raise InputError(f"vLLM here is for GPUs, not {settings.device}.", hint="set engine: transformers.")
    engine: dict[str, Any] = {
        "dtype": settings.dtype,
        "max_num_seqs": settings.max_batch,
        "max_logprobs": MOST_ALTERNATIVES,
        "generation_config": "vllm",  # not what the checkpoint's author likes: temperature 0 is the likeliest answer
        "load_format": "safetensors",
        "trust_remote_code": False,
    }
    if settings.quantization == "bnb-4bit":
        engine |= {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
    if settings.revision is not None:
        engine |= {"revision": settings.revision, "tokenizer_revision": settings.revision}
    gpus = 1 if settings.num_gpus is None else settings.num_gpus
    if gpus < 1 or gpus != int(gpus):
        raise InputError(f"vLLM takes whole GPUs, not {gpus:g}.", hint="set num_gpus to 1 or more.")
    if gpus > 1:
        engine["tensor_parallel_size"] = int(gpus)
    return {
        "model_loading_config": {"model_id": settings.model, "model_source": _source(settings.model)},
        "engine_kwargs": engine,
        "deployment_config": {"num_replicas": settings.replicas},
    }


def vllm_explainer(settings: ExplainerSettings, **options: Any) -> serve.Application:
    """The deployments, wired together: the model's, and one that speaks for it.

    Args:
        settings: With ``engine: vllm``.
        options: Of the latter deployment.

    Raises:
        InputError: vLLM is not installed, or does not take these settings.
    """
    values = llm_values(settings)
    if find_spec("vllm") is None:
        raise InputError(
            "the engine vllm needs vLLM, which is not installed here.",
            hint="pip install 'ray[llm]' on every node with a GPU, or set engine: transformers.",
        )
    from ray.serve.llm import LLMConfig, build_llm_deployment

    server = build_llm_deployment(LLMConfig(**values))
    speaker: Any = serve.deployment(VllmExplainer, name="Explainer", **options)
    return speaker.bind(settings.model_dump(mode="json"), server)


class VllmExplainer:
    """What :class:`raylens_serve.explainer.Explainer` does, by a model that vLLM runs.

    Args:
        settings: :class:`ExplainerSettings` as JSON values.
        server: Handle to ``ray.serve.llm``'s deployment.
        requests: What makes vLLM's requests of a chat and of a text; by default its own classes.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        server: DeploymentHandle,
        requests: tuple[MakeRequest, MakeRequest] | None = None,
    ) -> None:
        self.settings = ExplainerSettings.of(settings)
        self._server = Handle(server)
        self._created = int(time.time())
        if requests is None:
            from ray.serve.llm.openai_api_models import ChatCompletionRequest
            from ray.serve.llm.openai_api_models import CompletionRequest as VllmCompletionRequest

            requests = ChatCompletionRequest, VllmCompletionRequest
        self._make_chat, self._make_completion = requests

    async def complete(self, request: ChatRequest | CompletionRequest) -> ChatCompletion | Completion:
        """The whole answer; raises as :meth:`raylens_serve.explainer.Explainer.complete`."""
        kind = ChatCompletion if isinstance(request, ChatRequest) else Completion
        async for said in self._said(request):
            return kind.model_validate(said)
        raise RunError(f"vLLM gave no answer of {self.settings.model}.", hint="see the logs of Ray Serve.")

    async def stream(self, request: ChatRequest | CompletionRequest) -> AsyncIterator[ChatChunk | Completion]:
        """The answer in parts."""
        kind = ChatChunk if isinstance(request, ChatRequest) else Completion
        async for said in self._said(request):
            yield kind.model_validate(said)

    async def models(self) -> Models:
        """What can be asked for: one."""
        model = Model(id=self.settings.model, created=self._created, quantization=self.settings.quantization)
        return Models(data=(model,))

    async def status(self) -> dict[str, Any]:
        """What is served."""
        await self._server.call("check_health")
        return self.settings.model_dump(mode="json", include={"model", "engine", "quantization", "max_batch"})

    async def _said(self, request: ChatRequest | CompletionRequest) -> AsyncGenerator[dict[str, Any]]:
        """What the server says, as JSON values."""
        if request.model != self.settings.model:
            raise UnknownNameError.among("model", request.model, {self.settings.model})
        chat = isinstance(request, ChatRequest)
        asked = (self._make_chat if chat else self._make_completion)(**_values(request))
        async for told in self._server.stream("chat" if chat else "completions", asked):
            for one in told if isinstance(told, list) else [told]:
                for said in _events(one) if isinstance(one, str | bytes) else [one.model_dump(mode="json")]:
                    yield _checked(said)


def _values(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """As vLLM takes it: what is not said stays so."""
    values = request.model_dump(mode="json", exclude_none=True, exclude={"usage", "service_tier", "metadata"})
    values["temperature"] = request.heat
    return values


def _events(text: str | bytes) -> list[dict[str, Any]]:
    """What server-sent events say."""
    lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    return [json.loads(one) for one in data if one != "[DONE]"]


def _checked(said: dict[str, Any]) -> dict[str, Any]:
    """The answer, where it is none of an error."""
    error = said.get("error")
    if error is None and said.get("object") != "error":
        choices = [_plain(choice) for choice in said.get("choices") or ()]
        return {**said, "choices": choices, "system_fingerprint": said.get("system_fingerprint") or _FINGERPRINT}
    detail = error if isinstance(error, dict) else said
    message, status = str(detail.get("message", "it says nothing more")).strip(), detail.get("code")
    if _TOO_LONG in message:
        raise ContextTooLongError(f"vLLM: {message}", hint="send less, or ask for a shorter answer.")
    if isinstance(status, int) and status < 500:
        raise RequestRefusedError(f"vLLM refused the request: {message}", hint="change what it names.")
    raise RunError(f"vLLM failed: {message}", hint="see the logs of Ray Serve.")


def _plain(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice as OpenAI has it: content is a text."""
    message = choice.get("message")
    if isinstance(message, dict) and message.get("content") is None:
        return {**choice, "message": {**message, "content": ""}}
    return choice


def _source(model: str) -> str:
    """Where vLLM finds the weights."""
    bundled = model_path(model)
    if bundled is not None:
        return str(bundled)
    folder = from_home(model)
    return str(folder.absolute()) if folder.is_dir() else model
