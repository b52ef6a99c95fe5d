"""What the Encoder does, with the model stack: texts through models and SAEs that are held within a bound of memory.

::

    request ── tokens (helper thread) ── queue ── pass (the models' thread) ── answer (helper thread)
                                           └── with whoever else waits for this model

The event loop itself does nothing that takes long, so that health checks are answered while a model runs. Models run
in one thread: they share a device, and a pass alone uses all of it. A measurement of many passes lets others have a
turn after each.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import torch

from raylens.api.reading import (
    AblateAnswer,
    AblateRequest,
    EncodeAnswer,
    EncodeRequest,
    PeaksAnswer,
    PeaksRequest,
    ValuesAnswer,
    ValuesRequest,
)
from raylens.catalog import Catalog
from raylens.engine.dedicated import keep_freed_memory
from raylens.engine.feature_answers import encode_answer, peaks_answer, require_features, values_answer
from raylens.engine.feature_reading import WantedReading
from raylens.engine.load import choose_device, token_strings
from raylens.engine.memory import memory_advice
from raylens.engine.model_memory import free_bytes
from raylens.engine.model_shelf import ADVICE, Need, Shelf
from raylens.engine.passage import passage_tokens, span_tokens
from raylens.engine.saes import LoadedSae
from raylens.engine.token_effects import EffectsWanted, Steps, token_effects
from raylens.errors import OutOfMemoryError, UnknownNameError
from raylens_serve.metrics import Metrics
from raylens_serve.served_readers import HeldModel, ServedReaders
from raylens_serve.settings import ServeSettings

_HELPERS: Final = 4
_SPARED: Final = 0.1
"""Of the memory that is free, what is left to others where no bound is configured."""
_FEW_CORES: Final = 4
"""Up to so many, a replica that was told nothing takes one: two threads that wait for one another's core were six
times slower than one."""

T = TypeVar("T")


class TextReader:
    """Reads texts.

    Args:
        settings: ``models``, ``encoder`` and ``limits``.
        catalog: For names, hook points and the guard.
        metrics: Counts.
        is_replica: Whether other processes of Ray want the machine's cores as well.

    Raises:
        InputError: A model is configured twice.
    """

    def __init__(self, settings: ServeSettings, catalog: Catalog, metrics: Metrics, *, is_replica: bool) -> None:
        self._settings, self._metrics = settings, metrics
        if is_replica:  # else the process is somebody else's
            keep_freed_memory()
        threads = _threads(settings.encoder.threads, is_replica)
        if threads is not None:
            torch.set_num_threads(threads)
        self._thread = _started(1, "models")
        self._helpers = _started(_HELPERS, "texts")
        self.readers = ServedReaders(
            settings.models, settings.encoder, catalog, self._thread, _started(_HELPERS, "files")
        )
        self._shelf = Shelf(self._limit, settings.encoder.models_per_replica, self.readers.dropped)

    async def encode(self, request: EncodeRequest) -> EncodeAnswer:
        """See :meth:`raylens_serve.encoder.Encoder.encode`."""
        served = self.readers.find(request.model)
        needs = [
            await self.readers.model(served),
            *await self.readers.saes(served, request.saes, request.override_guard),
        ]
        async with self.lease(needs) as (held, saes):
            loaded = held.loaded
            tokens = await self.help(partial(passage_tokens, loaded, request, self._settings.limits.tokens))
            wanted = WantedReading(tokens.ids, saes, request.next_tokens)
            reading = await held.readings.ask(wanted)
            self._metrics.tokens(served.name, len(tokens.ids))
            return await self.help(
                partial(
                    encode_answer,
                    loaded,
                    served.name,
                    tokens,
                    saes,
                    reading,
                    top_k=request.top_k,
                    per_token=request.per_token,
                )
            )

    async def peaks(self, request: PeaksRequest) -> PeaksAnswer:
        """See :meth:`raylens_serve.encoder.Encoder.peaks`."""
        served = self.readers.find(request.model)
        needs = [
            await self.readers.model(served),
            *await self.readers.saes(served, [request.sae], request.override_guard),
        ]
        async with self.lease(needs) as (held, saes):
            tokens = await self.help(partial(passage_tokens, held.loaded, request, self._settings.limits.tokens))
            reading = await held.readings.ask(WantedReading(tokens.ids, saes))
            self._metrics.tokens(served.name, len(tokens.ids))
            return await self.help(partial(peaks_answer, tokens, saes[0], reading.codes[0]))

    async def values(self, request: ValuesRequest) -> ValuesAnswer:
        """See :meth:`raylens_serve.encoder.Encoder.values`."""
        served = self.readers.find(request.model)
        needs = [
            await self.readers.model(served),
            *await self.readers.saes(served, [request.sae], request.override_guard),
        ]
        async with self.lease(needs) as (held, saes):
            (sae,) = saes
            require_features(sae, request.features)
            tokens = await self.help(partial(passage_tokens, held.loaded, request, self._settings.limits.tokens))
            reading = await held.readings.ask(WantedReading(tokens.ids, saes))
            self._metrics.tokens(served.name, len(tokens.ids))
            (codes,) = reading.codes
            return await self.help(
                partial(values_answer, held.loaded, served.name, tokens, sae, codes, request.features)
            )

    async def ablate(self, request: AblateRequest) -> AblateAnswer:
        """See :meth:`raylens_serve.encoder.Encoder.ablate`."""
        served = self.readers.find(request.model)
        needs = [await self.readers.model(served)]
        if request.sae is not None or request.features is not None:
            names = None if request.sae is None else [request.sae]
            needs += (await self.readers.saes(served, names, request.override_guard))[:1]
            if len(needs) == 1:
                raise UnknownNameError(f"no SAE is served for {served.name}.", hint="name one in saes of the config.")
        async with self.lease(needs) as (held, saes):
            loaded, sae = held.loaded, saes[0] if saes else None
            limit = self._settings.limits.tokens
            tokens = await self.help(partial(span_tokens, loaded, request.input, request.output, limit))
            wanted = EffectsWanted(request.features, request.n_tokens, request.counterfactuals, request.substitutes)
            effects = await self.measure(
                token_effects(loaded, tokens, sae, wanted, self._settings.encoder.batch_tokens)
            )
            self._metrics.tokens(served.name, len(tokens.ids))
            return AblateAnswer(
                model=served.name,
                sae=None if sae is None else str(sae.id),
                token_ids=tokens.ids,
                tokens=tuple(token_strings(loaded.tokenizer, tokens.ids)),
                n_dropped=tokens.n_dropped,
                n_input=tokens.output_start or 0,
                log_prob=effects.log_prob,
                features=effects.features,
                ablations=effects.ablations,
                counterfactuals=effects.counterfactuals,
            )

    def status(self) -> dict[str, Any]:
        """What is loaded, and how much memory it takes."""
        held = self._shelf.held()
        loaded = set(self._shelf.groups())
        return {
            "models": [{"model": one.name, "loaded": one.name in loaded} for one in self.readers.models],
            "held_bytes": held,
            "bytes": sum(held.values()),
            "limit_bytes": self._limit(sum(held.values())),
        }

    def report(self) -> None:
        """Tell the metrics how much memory is taken."""
        self._metrics.loaded(sum(self._shelf.held().values()))

    def count_tokens(self, model: str, n_tokens: int) -> None:
        """Tell the metrics how many tokens a model has read."""
        self._metrics.tokens(model, n_tokens)

    def require(self, size: int, what: str) -> None:
        """Refuse work that needs more memory than there is beside what is loaded.

        Args:
            size: Bytes, estimated.
            what: Is done.

        Raises:
            OutOfMemoryError: It does not fit.
        """
        loaded = sum(self._shelf.held().values())
        room = self._limit(loaded) - loaded
        if size > room:
            raise OutOfMemoryError(
                f"{what} needs about {size / 1e6:,.0f} MB, and {max(0, room) / 1e6:,.0f} MB can be had.", hint=ADVICE
            )

    @property
    def limit(self) -> int:
        """Tokens of a text that are read at most."""
        return self._settings.limits.tokens

    @asynccontextmanager
    async def lease(self, needs: list[Need]) -> AsyncIterator[tuple[HeldModel, tuple[LoadedSae, ...]]]:
        """A model and its SAEs, loaded; what runs out of memory in the block is told in the words of the services."""
        try:
            async with self._shelf.lease(needs) as (held, *saes):
                self.report()
                yield held, tuple(saes)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(error.message, hint=ADVICE) from error

    async def measure(self, steps: Steps[T]) -> T:
        """Work of many passes in the models' thread, in which others have a turn after each step."""
        while True:
            done = await _in(self._thread, partial(_step, steps))
            if done is not None:
                return done

    async def run(self, work: Callable[[], T]) -> T:
        """Do something in the models' thread."""
        return await _in(self._thread, work)

    async def help(self, work: Callable[[], T]) -> T:
        """Do something in a helper thread."""
        return await _in(self._helpers, work)

    def _limit(self, loaded: int) -> int:
        if self._settings.encoder.memory_bytes is not None:
            return self._settings.encoder.memory_bytes
        device = choose_device(self.readers.models[0].config.device)
        return loaded + int((1 - _SPARED) * free_bytes(device))


async def _in(pool: Executor, work: Callable[[], T]) -> T:
    def advised() -> T:
        with memory_advice("reading a text", "cpu"):
            return work()

    return await asyncio.get_running_loop().run_in_executor(pool, advised)


def _step(steps: Steps[T]) -> T | None:
    """The next pass; the result after the last one."""
    try:
        next(steps)
    except StopIteration as ended:
        return ended.value
    return None


def _threads(configured: int | None, is_replica: bool) -> int | None:
    """CPU threads of a pass; None for what torch takes by itself."""
    if configured is not None or not is_replica:
        return configured
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if cores <= _FEW_CORES else cores


def _started(threads: int, name: str) -> ThreadPoolExecutor:
    """Threads that are there: when memory is short, none can be started."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    all_there = threading.Barrier(threads)
    for future in [pool.submit(all_there.wait) for _ in range(threads)]:
        future.result()
    return pool
