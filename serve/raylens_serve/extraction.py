"""Features of a span: read once, kept, and served from what is kept (A0.09–A0.12)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from raylens.api.extraction import (
    CACHED,
    EffectsAnswer,
    ExtractAnswer,
    Extraction,
    ExtractRequest,
    SpanFeature,
)
from raylens.api.reading import AblateRequest, EffectOptions, PeaksAnswer, PeaksRequest
from raylens.errors import InputError, RaylensError, UnknownNameError
from raylens.traces.span import Span, now
from raylens_serve.served import Refusal, Served
from raylens_serve.services import EncoderClient, LedgerClient
from raylens_serve.together import Together

_PROVIDER = "these need the model's own provider: it has to answer each changed prompt."
_EMPTY = "the span holds no text."

_WAIT_EACH_S: Final = 0.0005
_WAIT_S: Final = 0.025
"""A call waits for others to go with, the longer the more are under way, and not at all for one client alone."""

Key = tuple[str, str, str]


class Labelling(Protocol):
    """Says what features mean: :class:`raylens.labels.span_labels.SpanLabels`."""

    async def label(self, extraction: Extraction, top_k: int) -> tuple[SpanFeature, ...]:
        """The largest features, with labels."""
        ...


class Extractor:
    """Reads spans.

    Args:
        served: Which models are at hand.
        ledger: Keeps spans and what is read of them.
        encoder: Reads.
        labels: Says what features mean.
    """

    def __init__(self, served: Served, ledger: LedgerClient, encoder: EncoderClient, labels: Labelling) -> None:
        self._served, self._ledger, self._encoder, self._labels = served, ledger, encoder, labels
        self._under_way: dict[Key, asyncio.Task[Extraction]] = {}
        self._n_clients = 0
        self._looks: Together[None, str, tuple[Span, list[Extraction]]] = Together(self._look_all, self._wait_s)
        self._reads: Together[str, PeaksRequest, PeaksAnswer] = Together(encoder.peaks, self._wait_s)
        self._keeps: Together[bool, Extraction, Extraction | None] = Together(self._keep_all, self._wait_s)

    async def extract(self, request: ExtractRequest) -> ExtractAnswer:
        """Features of a span: those that are kept, else read now.

        However many ask for the same at a time, it is read once here; where another gateway was quicker, what that
        one kept is answered.

        Raises:
            UnknownNameError: There is no such span, or no such SAE.
            MismatchError: The SAE was trained on another model, and the guard is not overridden.
            RunError, OutOfMemoryError, OverloadedError: It could not be read.
        """
        with self._counted():
            return await self._extract(request)

    async def _extract(self, request: ExtractRequest) -> ExtractAnswer:
        span, known = await self._looks.ask(None, request.span_id)
        model = self._served.find(span.model)
        if isinstance(model, Refusal):
            return _refused(span, model)
        key = (span.span_id, model, self._sae(model, request.sae))
        kept = next((one for one in known if (one.model, one.sae) == key[1:]), None)
        if kept is not None and not request.again:
            return await self._answer(kept, request.top_k, CACHED)
        if not span.input and not span.output:
            return ExtractAnswer(
                span_id=span.span_id, model=model, sae=key[2], features=(), reason=_EMPTY, supported=False
            )
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._read(span, key, request))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        # Shielded: that one client went away does not end what others wait for.
        return await self._answer(await asyncio.shield(task), request.top_k, "ok")

    async def kept(self, span_id: str, top_k: int) -> list[ExtractAnswer]:
        """All that was read of a span, without reading.

        Raises:
            UnknownNameError: There is no such span.
        """
        await self._ledger.span(span_id)
        found = await self._ledger.extractions(span_id)
        return [await self._answer(one, top_k, CACHED) for one in found]

    async def effects(self, span_id: str, request: EffectOptions) -> EffectsAnswer:
        """What each token of a span's input does for its output (A0.06).

        Raises:
            UnknownNameError: There is no such span, SAE or feature.
            InputError: Nothing went in, or nothing came out.
            RunError, OutOfMemoryError, OverloadedError: It could not be measured.
        """
        span = await self._ledger.span(span_id)
        model = self._served.find(span.model)
        if isinstance(model, Refusal):
            hint = _PROVIDER if model.api_only else model.hint
            return EffectsAnswer(span_id=span_id, effects=None, reason=model.reason, supported=False, hint=hint)
        if not span.input or not span.output:
            raise InputError(
                f"span {span_id} has no {'input' if not span.input else 'output'}.",
                hint="effects are those of tokens that went in on what came out: send both.",
            )
        sae = self._sae(model, request.sae) if request.sae or request.features else None
        about = {"model": model, "input": span.input, "output": span.output, "sae": sae}
        asked = AblateRequest.model_validate(request.model_dump() | about)
        return EffectsAnswer(span_id=span_id, effects=await self._encoder.ablate(asked), reason="ok")

    def _sae(self, model: str, sae: str | None) -> str:
        served = self._served.saes(model)
        if sae is None:
            return served[0]
        if sae not in served:
            raise UnknownNameError.among(f"SAE served for {model}", sae, served)
        return sae

    async def _read(self, span: Span, key: Key, request: ExtractRequest) -> Extraction:
        _, model, sae = key
        wanted = PeaksRequest(
            model=model, sae=sae, input=span.input, output=span.output, override_guard=request.override_guard
        )
        read = await self._reads.ask(model, wanted)
        made = Extraction(
            span_id=span.span_id,
            model=model,
            sae=sae,
            layer=read.layer,
            peaks=read.peaks,
            n_tokens=read.n_tokens,
            n_dropped=read.n_dropped,
            at=now(),
        )
        # None is said where it is kept as it is.
        return await self._keeps.ask(request.again, made) or made

    async def _look_all(self, _: None, ids: Sequence[str]) -> Sequence[tuple[Span, list[Extraction]] | RaylensError]:
        return await self._ledger.look(ids)

    async def _keep_all(self, again: bool, made: Sequence[Extraction]) -> Sequence[Extraction | RaylensError | None]:
        return await self._ledger.keep(made, again=again)

    def _wait_s(self) -> float:
        return min(_WAIT_S, _WAIT_EACH_S * max(0, self._n_clients - 1))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._n_clients += 1
        try:
            yield
        finally:
            self._n_clients -= 1

    async def _answer(self, kept: Extraction, top_k: int, reason: str) -> ExtractAnswer:
        hint = ""
        if kept.n_dropped:
            hint = f"the last {kept.n_dropped:,} tokens were left out: {kept.model} does not read so many."
        return ExtractAnswer(
            span_id=kept.span_id,
            model=kept.model,
            sae=kept.sae,
            features=await self._labels.label(kept, top_k),
            reason=reason,
            hint=hint,
        )


def _refused(span: Span, why: Refusal) -> ExtractAnswer:
    return ExtractAnswer(
        span_id=span.span_id,
        model=why.model,
        sae=None,
        features=(),
        reason=why.reason,
        supported=False,
        hint=why.hint,
        fallback=why.fallback,
    )
