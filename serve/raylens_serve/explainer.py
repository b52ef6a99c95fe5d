"""The Explainer: a causal LM that answers chats and continues texts, as OpenAI's API says it.

Requests are answered side by side by continuous batching (:mod:`raylens.engine.text_streams`): they join and leave
between two steps of the model (pico on one core: 250 tokens a second for one request, 1,200 for eight). The same
class is used in this process and as a deployment of Ray Serve.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import ExitStack, aclosing
from typing import Any

import torch

from raylens.api.openai import ChatRequest, CompletionRequest
from raylens.api.openai_answers import ChatChunk, ChatCompletion, Completion, Model, Models
from raylens.engine.dedicated import keep_freed_memory
from raylens.engine.load import load_model
from raylens.engine.text_events import End, Event, PromptRead
from raylens.engine.text_streams import TextStreams
from raylens.engine.token_texts import TokenTexts
from raylens.errors import InputError, RunError, UnknownNameError
from raylens_serve.chat_form import ChatForm
from raylens_serve.completion_form import CompletionForm
from raylens_serve.metrics import in_replica
from raylens_serve.openai_forms import Chunk, Form
from raylens_serve.settings import ExplainerSettings


class Explainer:
    """Answers chats and continues texts by one model.

    ::

        explainer = Explainer({"model": "raylens/pico"})
        answer = await explainer.complete(ChatRequest(model="raylens/pico", messages=[…]))

    Args:
        settings: :class:`ExplainerSettings`, or its values.

    Raises:
        UnknownNameError, InputError, HubUnreachableError, DamagedFileError, OutOfMemoryError: The model cannot be
            loaded; see :func:`raylens.engine.load.load_model`.
    """

    def __init__(self, settings: ExplainerSettings | Mapping[str, Any]) -> None:
        self.settings = settings if isinstance(settings, ExplainerSettings) else ExplainerSettings.of(settings)
        if self.settings.engine != "transformers":
            raise InputError(
                f"the engine {self.settings.engine} is not this one.", hint="deploy raylens_serve.explainer_vllm."
            )
        if in_replica():
            keep_freed_memory()
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        device = self.settings.device
        self._loaded = load_model(
            self.settings.model,
            revision=self.settings.revision,
            dtype=self.settings.dtype,
            # Without a GPU of its own it takes none, though the machine has some.
            device="cpu" if device == "auto" and self.settings.num_gpus == 0 else device,
            quantization=self.settings.quantization,
        )
        self._created = int(time.time())
        self._tokens = TokenTexts(self._loaded.tokenizer)
        self._streams = TextStreams(self._loaded, max_batch=self.settings.max_batch)

    async def complete(self, request: ChatRequest | CompletionRequest) -> ChatCompletion | Completion:
        """The whole answer.

        Raises:
            UnknownNameError: Another model is asked for.
            InputError: The prompt has no tokens, or unknown ones.
            RequestRefusedError: The chat template does not take this chat.
            ContextTooLongError: It is longer than the context.
            OverloadedError: Too many wait.
            OutOfMemoryError: It does not fit.
            RunError: Logits are not finite.
        """
        form = await self._form(request)
        told = [one async for one in self._chunks(form)]
        chunks, ends = [chunk for chunk, _ in told], [event for _, event in told if isinstance(event, End)]
        return form.whole(chunks, form.usage(ends))

    async def stream(self, request: ChatRequest | CompletionRequest) -> AsyncIterator[ChatChunk | Completion]:
        """The answer in parts, the first one once a prompt was read; raises as :meth:`complete`."""
        form, ends = await self._form(request), []
        async with aclosing(self._chunks(form)) as told:
            async for chunk, event in told:
                if isinstance(event, End):
                    ends.append(event)
                yield chunk
        if request.counts_at_the_end:
            yield form.counts(form.usage(ends))

    async def models(self) -> Models:
        """What can be asked for: one."""
        model = Model(
            id=self.settings.model,
            created=self._created,
            max_model_len=self._loaded.info.max_positions,
            revision=self._loaded.revision,
            dtype=_name(self._loaded.dtype),
            quantization=self.settings.quantization,
        )
        return Models(data=(model,))

    async def status(self) -> dict[str, Any]:
        """What is loaded, and how much is under way."""
        under_way, waiting = self._streams.counts()
        return {
            "model": self.settings.model,
            "revision": self._loaded.revision,
            "engine": self.settings.engine,
            "device": str(self._loaded.device),
            "dtype": _name(self._loaded.dtype),
            "quantization": self.settings.quantization,
            "max_batch": self.settings.max_batch,
            "under_way": under_way,
            "waiting": waiting,
        }

    async def check_health(self) -> None:
        """Asked by Ray Serve, which replaces a replica that raises."""
        if not self._streams.is_running():
            raise RunError(f"nothing is written by {self.settings.model} any more.", hint="start it again.")

    def close(self) -> None:
        """Stop; whoever waits is told."""
        self._streams.close()

    async def _form(self, request: ChatRequest | CompletionRequest) -> Form:
        names = {self.settings.model, self._loaded.name}
        if request.model not in names:
            raise UnknownNameError.among("model", request.model, {self.settings.model})
        fingerprint = f"fp_{self._loaded.revision[:16]}"
        # On a thread: a long text takes its time to become tokens.
        if isinstance(request, ChatRequest):
            return await asyncio.to_thread(ChatForm, request, self._loaded, self._tokens, fingerprint)
        return await asyncio.to_thread(CompletionForm, request, self._loaded, self._tokens, fingerprint)

    async def _chunks(self, form: Form) -> AsyncGenerator[tuple[Chunk, Event]]:
        """What is told of all choices, as it comes, each as a chunk."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

        def teller(index: int) -> Callable[[Event], None]:
            def tell(event: Event) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(told.put_nowait, (index, event))

            return tell

        # However this is left (the client went away, one choice failed), what is under way is given up.
        with ExitStack() as under_way:
            for index, text in enumerate(form.texts):
                under_way.callback(self._streams.submit(text, teller(index)))
            left = len(form.texts)
            while left:
                index, event = await told.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, End):
                    left -= 1
                    yield form.done(index, event.reason), event
                elif isinstance(event, PromptRead):
                    yield form.begun(index, event), event
                else:
                    yield form.adds(index, event), event


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
