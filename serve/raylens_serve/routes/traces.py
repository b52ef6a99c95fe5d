"""``/v1/traces`` (OTLP), ``/api/v1/traces`` and ``/api/v1/spans``: how spans come in, are read, and go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from raylens.api.spans import (
    PAGE,
    Deleted,
    Offset,
    Page,
    SpanIds,
    SpanOut,
    SpanPage,
    SpansIn,
    Time,
    TraceOut,
    TracePage,
    TraceRow,
)
from raylens.errors import UnknownNameError
from raylens.traces.bounds import clean
from raylens.traces.listing import SpanFilter
from raylens.traces.span import NAME_LIMIT, Id, Span, plain
from raylens_serve.otlp_http import JSON, PROTOBUF, UNPACKED_BYTES, OtlpReceiver
from raylens_serve.responses import problems
from raylens_serve.services import LedgerClient

PAGE_CHARS: Final = 16_000_000
"""Characters of the texts of a page, but that one span always fits."""

_OTLP_SCHEMA: Final = {
    "type": "object",
    "description": "ExportTraceServiceRequest in OTLP's JSON mapping.",
    "properties": {"resourceSpans": {"type": "array", "items": {"type": "object"}}},
}
_OTLP_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "ExportTraceServiceRequest; gzip and deflate are unpacked.",
        "content": {
            PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
            JSON: {
                "schema": _OTLP_SCHEMA,
                "example": {
                    "resourceSpans": [
                        {
                            "scopeSpans": [
                                {
                                    "spans": [
                                        {
                                            "traceId": "5b8efff798038103d269b633813fc60c",
                                            "spanId": "eee19b7ec3c1b174",
                                            "name": "chat gpt-4o",
                                            "startTimeUnixNano": "1767603600000000000",
                                            "endTimeUnixNano": "1767603601000000000",
                                            "attributes": [
                                                {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}}
                                            ],
                                        }
                                    ]
                                }
                            ]
                        }
                    ]
                },
            },
        },
    }
}
_OTLP_DONE: Final = {
    "description": "ExportTraceServiceResponse, in the encoding of the request.",
    "content": {
        PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
        JSON: {
            "schema": {
                "type": "object",
                "properties": {
                    "partialSuccess": {
                        "type": "object",
                        "properties": {
                            "rejectedSpans": {"type": "string", "description": "How many, as digits."},
                            "errorMessage": {"type": "string"},
                        },
                    }
                },
            },
            "example": {},
        },
    },
}


def _filter(
    trace_id: Annotated[Id | None, Query(description="Of this trace.")] = None,
    model: Annotated[str | None, Query(max_length=NAME_LIMIT, description="That called this model.")] = None,
    text: Annotated[str | None, Query(max_length=NAME_LIMIT, description="That hold this text, in any case.")] = None,
    since: Annotated[Time | None, Query(description="Begun then or later; UTC where no zone is named.")] = None,
    until: Annotated[Time | None, Query(description="Begun before.")] = None,
) -> SpanFilter:
    return SpanFilter(
        trace_id=trace_id,
        model=clean(model) if model else None,
        text=clean(text) if text else None,
        since=since,
        until=until,
    )


_Which = Annotated[SpanFilter, Depends(_filter)]
_Limit = Annotated[Page, Query()]
_Skip = Annotated[Offset, Query()]
_TraceId = Annotated[Id, Path(description="Of a trace.")]
_SpanId = Annotated[Id, Path(description="Of a span.")]


def trace_routes(ledger: LedgerClient, *, unpacked_bytes: int = UNPACKED_BYTES) -> APIRouter:
    """The routes.

    Args:
        ledger: Writes and reads spans.
        unpacked_bytes: That a compressed OTLP body may hold.
    """
    routes = APIRouter(tags=["traces"])
    receiver = OtlpReceiver(ledger, unpacked_bytes)

    @routes.post(
        "/v1/traces",
        response_class=Response,
        responses={200: _OTLP_DONE, **_also_protobuf(problems(400, 415, 507))},
        openapi_extra=_OTLP_BODY,
    )
    async def receive(request: Request) -> Response:
        """Spans by OTLP/HTTP, as any OpenTelemetry exporter sends them; written when it answers.

        A span keeps the id it came with, and one that is sent again is there once. Where two traces use the same span
        id, the second span is kept as `<trace id>.<span id>`. Spans with malformed ids are left out, and counted in
        `partialSuccess`.
        """
        return await receiver.receive(request)

    @routes.post("/api/v1/traces", responses=problems(400, 409, 507))
    async def send(request: SpansIn) -> SpanIds:
        """Spans as plain JSON; written when it answers."""
        return SpanIds(span_ids=await ledger.add_spans(request.as_spans()))

    @routes.get("/api/v1/traces", responses=problems())
    async def traces(which: _Which, limit: _Limit = PAGE, offset: _Skip = 0) -> TracePage:
        """Traces that hold such spans, the latest first."""
        found, total = await ledger.traces(which, limit, offset)
        rows = tuple(TraceRow.model_validate(asdict(row)) for row in found)
        return TracePage(traces=rows, total=total, offset=offset, next_offset=_next(offset, len(rows), total))

    @routes.get("/api/v1/traces/{trace_id}", responses=problems(404))
    async def trace(trace_id: _TraceId, limit: _Limit = 1000, offset: _Skip = 0) -> TraceOut:
        """The spans of a trace, the oldest first."""
        which = SpanFilter(trace_id=trace_id)
        _, total = await ledger.spans(which, 1, 0)
        if not total:
            raise UnknownNameError(f"there is no trace {trace_id!r}.", hint="GET /api/v1/traces lists them.")
        # The Ledger gives the latest first: the page is counted from the other end.
        last = max(total - offset, 0)
        first = max(last - limit, 0)
        found, _ = await ledger.spans(which, last - first, first) if last > first else ([], total)
        spans = _fitting(reversed(found))
        return TraceOut(
            trace_id=trace_id,
            spans=spans,
            total=total,
            offset=offset,
            next_offset=_next(offset, len(spans), total),
        )

    @routes.delete("/api/v1/traces/{trace_id}", responses=problems(404, 409, 507))
    async def delete_trace(trace_id: _TraceId) -> Deleted:
        """Delete all spans of a trace, with all that was read of them."""
        deleted = await ledger.delete_trace(trace_id)
        if not deleted:
            raise UnknownNameError(f"there is no trace {trace_id!r}.", hint="GET /api/v1/traces lists them.")
        return Deleted(deleted=deleted)

    @routes.get("/api/v1/spans", responses=problems())
    async def spans(which: _Which, limit: _Limit = PAGE, offset: _Skip = 0) -> SpanPage:
        """Spans, the latest first."""
        found, total = await ledger.spans(which, limit, offset)
        page = _fitting(found)
        return SpanPage(spans=page, total=total, offset=offset, next_offset=_next(offset, len(page), total))

    @routes.get("/api/v1/spans/{span_id}", responses=problems(404))
    async def span(span_id: _SpanId) -> SpanOut:
        """One span."""
        return SpanOut.of(await ledger.span(span_id))

    @routes.delete("/api/v1/spans/{span_id}", responses=problems(404, 409, 507))
    async def delete_span(span_id: _SpanId) -> Deleted:
        """Delete a span, with all that was read of it."""
        deleted = await ledger.delete([span_id])
        if not deleted:
            raise UnknownNameError(f"there is no span {span_id!r}.", hint="GET /api/v1/spans lists them.")
        return Deleted(deleted=deleted)

    return routes


def _fitting(spans: Iterable[Span]) -> tuple[SpanOut, ...]:
    """As many as fit a page, and one at least."""
    page: list[SpanOut] = []
    left = PAGE_CHARS
    for span in spans:
        left -= len(plain(span.input)) + len(plain(span.output))
        if page and left < 0:
            break
        page.append(SpanOut.of(span))
    return tuple(page)


def _next(offset: int, n: int, total: int) -> int | None:
    return offset + n if n and offset + n < total else None


def _also_protobuf(said: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """These may come as google.rpc.Status, too."""
    binary = {PROTOBUF: {"schema": {"type": "string", "format": "binary", "description": "google.rpc.Status"}}}
    return {status: {**one, "content": binary} for status, one in said.items()}
