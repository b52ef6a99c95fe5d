"""OTLP/HTTP as a receiver speaks it: encodings, compression, partial success, and which errors are worth a retry.

What comes is unpacked and read in threads, a few at a time: a batch takes a second of a core and many times its size
in memory, and the gateway has others to answer meanwhile.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from raylens.errors import InputError, RaylensError
from raylens.store.trace_rows import span_written
from raylens.traces.otlp import REASONS, Batch, read_json, read_protobuf
from raylens.traces.span import Span, plain
from raylens_serve.problems import answer, as_raylens, problem
from raylens_serve.services import LedgerClient
from raylens_serve.span_ids import told_apart

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
UNPACKED_BYTES: Final = 32 * 2**20
"""Of a compressed body, once it is unpacked."""

_AT_A_TIME: Final = 2
_WEIGHED_CHARS: Final = 1_000_000
_CODES: Final = {400: 3, 413: 8, 415: 3, 503: 14}
"""google.rpc.Code by HTTP status; 13, internal, of others."""


class _UnpackedTooLargeError(Exception):
    """A compressed body holds more than is taken."""


class OtlpReceiver:
    """Takes OTLP requests.

    Args:
        ledger: Writes.
        unpacked_bytes: That a compressed body may hold.
    """

    def __init__(self, ledger: LedgerClient, unpacked_bytes: int = UNPACKED_BYTES) -> None:
        self._ledger, self._limit = ledger, unpacked_bytes
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def receive(self, request: Request) -> Response:
        """Write what a request holds; durable when this returns."""
        sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        packing = request.headers.get("content-encoding", "").strip().lower() or "identity"
        binary = sent == PROTOBUF
        if sent not in (PROTOBUF, JSON):
            return problem(415, "Content-Type is not one that is read here.", f"send {PROTOBUF} or {JSON}.")
        if packing not in ("identity", "gzip", "deflate"):
            return _in(binary, problem(415, "Content-Encoding is not one that is read here.", "send gzip, or none."))
        body = await request.body()
        try:
            async with self._turns:
                batch = await asyncio.to_thread(_read, body, packing, binary, self._limit)
            if batch.spans:
                await self._ledger.add_spans(await told_apart(self._ledger, batch.spans))
        except _UnpackedTooLargeError:
            said = f"the body has more than {self._limit:,} bytes once it is unpacked."
            return _in(binary, problem(413, said, "send less at a time."))
        except (RaylensError, RayError, RayServeException) as error:
            return _in(binary, _failed(request.url.path, error))
        return _done(binary, batch)


def _read(body: bytes, packing: str, binary: bool, limit: int) -> Batch:
    unpacked = _unpacked(body, packing, limit)
    batch = read_protobuf(unpacked) if binary else read_json(unpacked)
    # The Ledger takes all or none, and one span that it cannot keep is no reason to lose its neighbours.
    faults = {n: fault for n, span in enumerate(batch.spans) if (fault := _oversize(span))}
    if not faults:
        return batch
    spans = tuple(span for n, span in enumerate(batch.spans) if n not in faults)
    return Batch(spans, batch.refused + len(faults), (*batch.reasons, *faults.values())[:REASONS])


def _oversize(span: Span) -> str | None:
    """Why a span is too large to be kept; short ones are not weighed."""
    if len(plain(span.input)) + len(plain(span.output)) > _WEIGHED_CHARS:
        try:
            span_written(span)
        except InputError as error:
            return error.message
    return None


def _unpacked(body: bytes, packing: str, limit: int) -> bytes:
    """The body, of which no more than ``limit`` bytes are ever unpacked."""
    if packing == "identity":
        return body
    try:
        if packing == "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
                unpacked = stream.read(limit + 1)
        else:
            inflater = zlib.decompressobj()
            unpacked = inflater.decompress(body, limit + 1)
            if len(unpacked) <= limit and not inflater.eof:
                raise EOFError
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"the body is not whole, or no {packing}.", hint="send it uncompressed.") from error
    if len(unpacked) > limit:
        raise _UnpackedTooLargeError
    return unpacked


def _failed(path: str, error: BaseException) -> Response:
    """Exporters drop what is refused with any status but 429, 502, 503 and 504: what may pass later is a 503."""
    known = as_raylens(error)
    if isinstance(known, RaylensError) and known.retryable:
        return problem(503, known.message, known.hint, type(known).__name__)
    if isinstance(known, InputError):
        return problem(400, known.message, known.hint, type(known).__name__)
    return answer(path, error)


def _done(binary: bool, batch: Batch) -> Response:
    response = ExportTraceServiceResponse()
    if batch.refused:
        response.partial_success.rejected_spans = batch.refused
        response.partial_success.error_message = " ".join(batch.reasons)
    if binary:
        return Response(response.SerializeToString(), media_type=PROTOBUF)
    return JSONResponse(MessageToDict(response))


def _in(binary: bool, said: Response) -> Response:
    """An error as the client reads it: protobuf's clients get a google.rpc.Status."""
    if not binary:
        return said
    sent: dict[str, Any] = json.loads(bytes(said.body))
    status = Status(code=_CODES.get(said.status_code, 13), message=f"{sent['error']} {sent['hint']}".strip())
    headers = {name: said.headers[name] for name in ("retry-after",) if name in said.headers}
    return Response(status.SerializeToString(), said.status_code, headers, media_type=PROTOBUF)
