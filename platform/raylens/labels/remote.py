"""One request to Neuronpedia, and every way in which it can fail, as a value.

Model, source and index are all that is sent. Nothing that the server says is repeated in a message: it might echo
the key. Redirects are not followed, so that the key reaches no host that was not named.
"""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx

from raylens.errors import InputError
from raylens.labels.explanations import Page, ShapeError, parse_json, read_page
from raylens.labels.names import NeuronpediaId
from raylens.labels.settings import ApiKey, LabelSettings
from raylens.net.clock import Clock
from raylens.net.retry_after import retry_after_s

# At DEBUG it writes down the headers of requests, the key among them.
logging.getLogger("httpcore").setLevel(logging.INFO)

Kind = Literal["page", "missing", "unreachable", "limited", "refused", "malformed"]

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "": 1.0}
_WINDOW: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|d|)[a-z]*\s*")
_SMALL: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    Attributes:
        kind: ``page``; ``missing`` (there is no such feature); ``unreachable`` (it may be there in a minute);
            ``limited`` (too many requests); ``refused`` (no request can succeed); ``malformed``.
        said: What happened, as the end of a sentence that begins with the server.
        page: Of ``page``.
        wait_s: Seconds that a limit asks to wait; None where it does not say.
    """

    kind: Kind
    said: str = ""
    page: Page | None = None
    wait_s: float | None = None


class Remote:
    """A connection to one Neuronpedia; an async context manager, for one event loop.

    Args:
        settings: Where, and within which limits.
        key: Sent with each request, where there is one.
        clock: Time, for tests.
    """

    def __init__(self, settings: LabelSettings, key: ApiKey, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._http = _connection(settings, key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, source: NeuronpediaId, index: int) -> Answer:
        """Ask for the page of one feature, once; errors become values, so that none carries the request's headers."""
        url = f"{self._settings.base_url}/feature/{source.model}/{source.source}/{index}"
        timeout_s = self._settings.timeout_s
        try:
            # httpx limits each read; a server that sends a byte now and then would hold the line for ever.
            async with asyncio.timeout(timeout_s), self._http.stream("GET", url) as response:
                status = response.status_code
                body = await _bounded(response, self._settings.max_bytes if status == 200 else _SMALL)
        except (TimeoutError, httpx.TimeoutException):
            return Answer("unreachable", f"did not answer within {timeout_s:g} s")
        except httpx.ConnectError:
            return Answer("unreachable", "cannot be reached")
        except httpx.RequestError:
            return Answer("unreachable", "broke off before the whole answer was there")
        except ShapeError as error:
            return Answer("malformed", f"sent an answer that {error}")
        return self._read(status, body, response.headers.get("retry-after"), source, index)

    def _read(self, status: int, body: bytes, retry_after: str | None, source: NeuronpediaId, index: int) -> Answer:
        if status == 429:
            wait_s = wait_of(retry_after, body, self._clock.wall())
            return Answer("limited", "limits the number of requests (429)", wait_s=wait_s)
        if status in (401, 403):
            return Answer("refused", f"refused the key, or asks for one ({status})")
        if 300 <= status < 400:
            return Answer("refused", f"redirects elsewhere ({status})")
        if status >= 500 or status == 408:
            return Answer("unreachable", f"failed ({status})")
        try:
            value = parse_json(body)
            if status == 200:
                return Answer("page", page=read_page(value, source, index))
        except ShapeError as error:
            return Answer("malformed", f"sent an answer ({status}) that {error}")
        # Only its own words count as "no such feature": a wrong address answers 404 to everything.
        if status == 404 and isinstance(value, dict) and "error" in value:
            return Answer("missing")
        return Answer("malformed", f"sent an answer ({status}) that is none of Neuronpedia's")


def wait_of(retry_after: str | None, body: bytes, wall: float) -> float | None:
    """Seconds that a 429 asks to wait: its ``Retry-After`` (RFC 9110, 10.2.3), else its body's ``requestWindow``.

    Args:
        retry_after: The header: seconds, or an HTTP date.
        body: JSON with ``requestWindow``: seconds, or as ``60 m``.
        wall: Seconds since the epoch, now.
    """
    if (wait_s := retry_after_s(retry_after, wall)) is not None:
        return wait_s
    try:
        window: Any = parse_json(body)["requestWindow"]
    except (ShapeError, KeyError, TypeError, IndexError):
        return None
    if isinstance(window, int | float) and not isinstance(window, bool):
        return float(window) if window >= 0 else None
    match = _WINDOW.fullmatch(window.lower()) if isinstance(window, str) and len(window) < 40 else None
    return float(match[1]) * _UNITS[match[2]] if match else None


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    """The body, unpacked; never more than ``limit`` bytes in memory, whatever it would unpack to.

    Raises:
        ShapeError: It is larger, or not packed as it says.
    """
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip", ""):
        raise ShapeError("is packed in a way that was not asked for")
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > limit:
            raise ShapeError(f"is larger than {limit:,} bytes")
        parts.append(part)
    data = b"".join(parts)
    if packing != "gzip":
        return data
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error:
        raise ShapeError("does not unpack") from None
    if len(unpacked) > limit:
        raise ShapeError(f"is larger than {limit:,} bytes")
    if not unpacker.eof:
        raise ShapeError("does not unpack")
    return unpacked


def _connection(settings: LabelSettings, key: ApiKey) -> httpx.AsyncClient:
    try:
        return httpx.AsyncClient(
            headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "raylens", **key.headers()},
            # Proxies named in the environment are for the outside world.
            trust_env=not settings.is_local,
            verify=settings.base_url.startswith("https://") or not settings.is_local,
            follow_redirects=False,
            timeout=httpx.Timeout(settings.timeout_s, pool=None),
            limits=httpx.Limits(max_connections=settings.max_concurrency, keepalive_expiry=3.0),
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        pass  # its text may hold the proxy's password
    raise InputError(
        "a proxy named in the environment cannot be used.",
        hint="check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or name the host in NO_PROXY.",
    )
