"""What the gateway asks: other deployments, by handle or in this process, typed either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray.serve.handle import DeploymentHandle

from raylens.api.edits import FeatureMax
from raylens.api.extraction import Extraction
from raylens.api.provenance import Provenance, ProvenanceRequest
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
from raylens.api.workbench import (
    Edited,
    ExportedSae,
    Held,
    Hold,
    MaximaRequest,
    Predicted,
    SaeExport,
    TextPart,
)
from raylens.catalog.lookup import built_in
from raylens.errors import RaylensError
from raylens.traces.listing import SpanFilter, TraceSummary
from raylens.traces.span import Span


class Caller(Protocol):
    """Calls the methods of one deployment."""

    async def call(self, method: str, *arguments: Any, model: str = "") -> Any:
        """One answer; ``model`` leads the call to a replica that holds that model."""
        ...

    def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        """Many answers."""
        ...


class Local:
    """Calls an object in this process.

    Args:
        service: Whose methods are coroutines, or asynchronous generators.
    """

    def __init__(self, service: Any) -> None:
        self._service = service

    async def call(self, method: str, *arguments: Any, model: str = "") -> Any:
        """Await the method."""
        return await getattr(self._service, method)(*arguments)

    def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        """Iterate over the method."""
        return getattr(self._service, method)(*arguments)


class Handle:
    """Calls a deployment of Ray Serve.

    Args:
        handle: To it.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def call(self, method: str, *arguments: Any, model: str = "") -> Any:
        """Send the call to a replica."""
        handle = self._handle.options(multiplexed_model_id=model) if model else self._handle
        response = getattr(handle, method).remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # whoever asked does not wait for it any more
            raise

    async def stream(self, method: str, *arguments: Any) -> AsyncGenerator[Any]:
        """Send it, and give what comes as it comes; closing it stops the replica's work."""
        response = getattr(self._handle.options(stream=True), method).remote(*arguments)
        try:
            async for one in response:
                yield one
        finally:
            response.cancel()  # changes nothing where it is done


@dataclass(frozen=True, slots=True)
class LedgerClient:
    """The Ledger: writes spans and what is read of them, and reads its own writes.

    All methods raise what :class:`raylens_serve.ledger.Ledger` says.
    """

    caller: Caller

    async def add_spans(self, spans: Sequence[Span]) -> tuple[str, ...]:
        """Write spans; durable when this returns. Their ids, in order."""
        return await self.caller.call("add_spans", list(spans))

    async def span(self, span_id: str) -> Span:
        """One span; UnknownNameError where there is none."""
        return await self.caller.call("span", span_id)

    async def traces_of(self, span_ids: Sequence[str]) -> dict[str, str]:
        """Of those of these spans that there are, the trace that each belongs to."""
        return await self.caller.call("traces_of", list(span_ids))

    async def spans(self, which: SpanFilter, limit: int, offset: int) -> tuple[list[Span], int]:
        """One page, the latest first, and how many there are in all."""
        return await self.caller.call("spans", which, limit, offset)

    async def traces(self, which: SpanFilter, limit: int, offset: int) -> tuple[list[TraceSummary], int]:
        """One page of traces that hold such spans, the latest first, and how many there are in all."""
        return await self.caller.call("traces", which, limit, offset)

    async def delete(self, span_ids: Sequence[str]) -> int:
        """Delete spans with all that was read of them; how many there were."""
        return await self.caller.call("delete", list(span_ids))

    async def delete_trace(self, trace_id: str) -> int:
        """Delete all spans of a trace; how many there were."""
        return await self.caller.call("delete_trace", trace_id)

    async def look(self, span_ids: Sequence[str]) -> list[tuple[Span, list[Extraction]] | RaylensError]:
        """Spans with all that was read of them; UnknownNameError in the place of one that is not there."""
        return await self.caller.call("look", list(span_ids))

    async def extractions(self, span_id: str) -> list[Extraction]:
        """All that was read of a span."""
        return await self.caller.call("extractions", span_id)

    async def keep(
        self, extractions: Sequence[Extraction], *, again: bool = False
    ) -> list[Extraction | RaylensError | None]:
        """Keep what was read, each by itself; where somebody else was first (and not ``again``) theirs stays.

        Returns:
            Of each in order: None where it is kept as it is, what was there before it, or why it cannot be kept.
        """
        return await self.caller.call("keep", list(extractions), again)

    async def status(self) -> dict[str, Any]:
        """Whether it may write, and how much it holds."""
        return await self.caller.call("status")


@dataclass(frozen=True, slots=True)
class EncoderClient:
    """The Encoder: models with their SAEs. All methods raise what :class:`raylens_serve.encoder.Encoder` says."""

    caller: Caller

    async def encode(self, request: EncodeRequest) -> EncodeAnswer:
        """Features of a text, and what comes next."""
        return await self.caller.call("encode", request, model=_held_as(request.model))

    async def peaks(self, model: str, requests: Sequence[PeaksRequest]) -> list[PeaksAnswer | RaylensError]:
        """The largest features of texts, by one model; an error in the place of one that cannot be read."""
        return await self.caller.call("peaks", list(requests), model=_held_as(model))

    async def values(self, request: ValuesRequest) -> ValuesAnswer:
        """Exact activations of some features."""
        return await self.caller.call("values", request, model=_held_as(request.model))

    async def ablate(self, request: AblateRequest) -> AblateAnswer:
        """What each input token does for the output."""
        return await self.caller.call("ablate", request, model=_held_as(request.model))

    async def provenance(self, request: ProvenanceRequest) -> Provenance:
        """Which features of earlier layers caused one."""
        return await self.caller.call("provenance", request, model=_held_as(request.model))

    async def hold(self, request: Hold) -> Held:
        """Load what a session of the workbench asks for."""
        return await self.caller.call("hold", request)

    async def predict(self, request: Edited) -> Predicted:
        """What comes next after a text, untouched and edited."""
        return await self.caller.call("predict", request, model=request.model)

    def write(self, request: Edited) -> AsyncIterator[TextPart]:
        """What both models write after it."""
        return self.caller.stream("write", request)

    async def export_sae(self, request: SaeExport) -> ExportedSae:
        """Write an SAE as a folder in SAELens format."""
        return await self.caller.call("export_sae", request, model=request.model)

    async def maxima(self, request: MaximaRequest) -> list[FeatureMax]:
        """The largest activations of features on a sample of text."""
        return await self.caller.call("maxima", request, model=request.model)

    async def status(self) -> dict[str, Any]:
        """What is loaded, and how much memory it takes."""
        return await self.caller.call("status")


def _held_as(model: str | None) -> str:
    """The name by which a replica makes a model known to Ray Serve; requests by other names would look for it."""
    return built_in().aliases.canonical(model) if model else ""
