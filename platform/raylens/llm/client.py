"""One async client for every OpenAI-compatible chat endpoint.

::

    async with ChatClient(settings, cache=ReplyCache(files)) as client:
        reply = await client.ask(Request(messages=(Message("user", "…"),)))

Ask as much at a time as you like: the client keeps to its limits. httpx is used directly, since the
protocol is one POST, and retries, limits, budget and secrets are then in one hand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import httpx

from raylens.chat import Reply, Request
from raylens.errors import InputError, RaylensError
from raylens.llm.errors import BudgetReached
from raylens.llm.pace import Clock, Pacer, SystemClock, backoff_s, retry_after_s
from raylens.llm.protocol import Dialect, Failure, adapted, body_of, read_answer
from raylens.llm.remedies import error_for
from raylens.llm.replies import ReplyCache, request_key
from raylens.llm.settings import EndpointSettings, Key
from raylens.llm.spend import Meter, Usage, worst_case_usd
from raylens.store.redact import scrub

_log = logging.getLogger(__name__)
# At DEBUG it writes down the headers of answers, where an endpoint may repeat the key.
logging.getLogger("httpcore").setLevel(logging.INFO)

P = ParamSpec("P")
R = TypeVar("R")

_CONNECT_S = 10.0
_IDLE_S = 3.0
"""Servers close idle connections, uvicorn after 5 s; closing first avoids sending into a closed one."""


@dataclass
class _Flight:
    """A question under way, and how many wait for its answer."""

    task: asyncio.Task[Reply]
    waiting: int = 0


class ChatClient:
    """Calls one model, within the limits of its settings.

    Limits and budget hold for one client. The key is read when the client is opened, and stays in it:
    a client is not pickled; workers get the settings and open their own.

    Args:
        settings: Which endpoint, and how much of it.
        cache: Where answers are kept. With one, identical questions are sent once, also when asked at
            the same time, and a rerun costs nothing; to sample several answers, vary ``Request.seed``.
            Empty answers are not kept. Without one, each question is sent.
        clock: Time, for tests.
        jitter: Randomness of waits, for tests.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        cache: ReplyCache | None = None,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self._cache = cache
        self._clock: Clock = clock or SystemClock()
        self._jitter = jitter or random.Random()
        self._meter = Meter(settings)
        self._pacer = Pacer(settings.requests_per_minute, self._clock)
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        self._dialect = Dialect()
        self._flights: dict[str, _Flight] = {}
        self._key = Key(None)
        self._opened: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        # asyncio's own pool has a few threads a core, which waiting for a disk or bucket would use up.
        self._threads: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"ChatClient({self.settings!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a ChatClient is not pickled: send its settings, and open one where it is used")

    @property
    def usage(self) -> Usage:
        """Calls, tokens and cost so far."""
        return self._meter.usage

    async def __aenter__(self) -> Self:
        """Read the key and get ready; nothing is sent.

        Raises:
            InputError: The endpoint needs a key and the environment has none.
        """
        self._key = Key.from_environment(self.settings)
        self._idle = [_one_connection(self.settings, self._key)]
        self._opened = [*self._idle]
        self._threads = ThreadPoolExecutor(min(64, self.settings.max_concurrency), "raylens-replies")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is still under way and close all connections."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._opened:
            await connection.aclose()
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown)
        self._opened, self._idle, self._threads, self._key = [], [], None, Key(None)

    async def ask(self, request: Request) -> Reply:
        """The answer, from the cache or the endpoint; its text may be empty.

        Raises:
            EndpointRefusedError: No call can succeed with these settings: stop.
            EndpointUnavailableError: It failed in every attempt.
            ContextTooLongError: Trim the request and ask again.
            RequestRefusedError: It does not take this request.
            BudgetReached: The call could go beyond the budget, and was not sent.
            DiskFullError: The answer could not be kept.
        """
        if not self._opened:
            raise RuntimeError("open the client first: async with ChatClient(…) as client")
        if self._cache is None:
            return await self._counted(self._sent(request))
        key = request_key(self.settings, request)
        flight = self._flights.get(key)
        first = flight is None
        if flight is None:
            flight = _Flight(asyncio.create_task(self._counted(self._through_cache(self._cache, key, request))))
            self._flights[key] = flight
            flight.task.add_done_callback(partial(self._landed, key, flight))
        flight.waiting += 1
        try:
            # Shielded: whoever asked first may give up, and others still want the answer.
            reply = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._flights.pop(key, None)  # at once: nobody may join a question that is given up
                flight.task.cancel()
        if first:
            return reply
        self._meter.count(cached=1)
        return replace(reply, cost_usd=0.0, from_cache=True)

    async def forget(self, request: Request) -> None:
        """Drop the stored answer to ``request``, which was of no use, so that a rerun asks again."""
        if self._cache is not None:
            await self._on_a_thread(self._cache.forget, request_key(self.settings, request))

    async def _on_a_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _landed(self, key: str, flight: _Flight, task: asyncio.Task[Reply]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it where nobody waits any more

    async def _counted(self, answer: Awaitable[Reply]) -> Reply:
        try:
            return await answer
        except BudgetReached:
            raise
        except RaylensError:
            self._meter.count(failed=1)
            raise

    async def _through_cache(self, cache: ReplyCache, key: str, request: Request) -> Reply:
        if found := await self._on_a_thread(cache.get, key):
            self._meter.count(cached=1)
            return found
        reply = await self._sent(request)
        if reply.text:
            # The slot is free again by now: a slow disk does not slow the endpoint.
            await self._on_a_thread(cache.put, key, reply)
        return reply

    async def _sent(self, request: Request) -> Reply:
        """Ask the endpoint, as often as it takes; waiting for a retry keeps the slot, which spares a failing one."""
        worst_usd = worst_case_usd(request, self.settings)
        failures, retry = 0, False
        async with self._connection() as connection:
            while True:
                dialect = self._dialect
                outcome = await self._attempt(connection, request, dialect, worst_usd, retry=retry)
                if isinstance(outcome, Reply):
                    return outcome
                retry = True
                if better := adapted(dialect, outcome, request):
                    _log.info("%s %s: %s", self.settings.base_url, outcome.what, outcome.said)
                    self._dialect = better
                    continue
                failures += 1
                asked_s = outcome.retry_after_s or 0.0
                last = failures >= self.settings.max_attempts or asked_s > self.settings.max_wait_s
                if outcome.kind != "retry" or last:
                    raise error_for(outcome, failures, self.settings, has_key=bool(self._key))
                wait = asked_s + backoff_s(failures, self._jitter)
                _log.info("%s %s; again in %.1f s", self.settings.base_url, outcome.what, wait)
                self._pacer.close_for(asked_s)
                await self._clock.sleep(wait)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        """One of ``max_concurrency``, the last used first, so that a slow run keeps few open."""
        async with self._slots:
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = _one_connection(self.settings, self._key)
                self._opened.append(connection)
            try:
                yield connection
            finally:
                self._idle.append(connection)

    async def _attempt(
        self, connection: httpx.AsyncClient, request: Request, dialect: Dialect, worst_usd: float, *, retry: bool
    ) -> Reply | Failure:
        await self._pacer.turn()
        await self._meter.admit(worst_usd, retry=retry)
        reply, may_be_billed = None, True  # as it is where this is cancelled
        try:
            outcome = await self._exchanged(connection, request, dialect)
            if isinstance(outcome, Reply):
                hidden = self._key.hidden
                outcome = replace(outcome, text=hidden(outcome.text), finish_reason=hidden(outcome.finish_reason))
                reply = outcome
            else:
                may_be_billed = outcome.may_be_billed
                outcome = replace(outcome, said=scrub(self._key.hidden(outcome.said)))
        finally:
            self._meter.settle(worst_usd, reply, may_be_billed=may_be_billed)
        return outcome

    async def _exchanged(self, connection: httpx.AsyncClient, request: Request, dialect: Dialect) -> Reply | Failure:
        """One POST. Errors become values here, so that none goes on with httpx's request, and its key, behind it."""
        timeout_s = self.settings.timeout_s
        body = json.dumps(body_of(request, self.settings, dialect), ensure_ascii=False).encode("utf-8", "replace")
        try:
            # httpx limits each read; an endpoint that sends a byte now and then would hold the slot for ever.
            async with asyncio.timeout(timeout_s):
                response = await connection.post(f"{self.settings.base_url}/chat/completions", content=body)
        except httpx.ConnectTimeout:
            return Failure("retry", "did not accept a connection in time")
        except (TimeoutError, httpx.TimeoutException):
            return Failure("retry", f"did not answer within {timeout_s:g} s", may_be_billed=True)
        except (httpx.ConnectError, httpx.ProxyError) as error:
            return Failure("retry", "cannot be reached", str(error))
        except httpx.RequestError as error:
            return Failure("retry", "broke off before the whole answer was there", str(error), may_be_billed=True)
        answer = read_answer(response.status_code, response.content, request, self.settings)
        if isinstance(answer, Failure) and answer.kind == "retry":
            return replace(answer, retry_after_s=retry_after_s(response.headers.get("retry-after"), self._clock.wall()))
        return answer


def _one_connection(settings: EndpointSettings, key: Key) -> httpx.AsyncClient:
    """A connection to the endpoint, kept open between calls.

    httpx's own pool looks at each of its connections, and polls its socket, several times a call: with
    32 of them that was 3.5 ms of processor time a call, where one connection a slot takes a third.

    Proxies named in the environment are for the outside world: a local endpoint is reached directly,
    whatever ``HTTP_PROXY`` says, and nobody has to keep ``NO_PROXY`` complete. Certificates named
    there (``SSL_CERT_FILE``) count for both. Redirects are not followed, so that neither the key nor
    a prompt reaches a host that was not named.
    """
    # Not where neither the endpoint nor a proxy can want them: reading them takes longer than all else here.
    may_need_tls = settings.base_url.startswith("https://") or not settings.is_local
    try:
        return httpx.AsyncClient(
            headers={"Content-Type": "application/json", "Accept": "application/json", **key.headers()},
            trust_env=not settings.is_local,
            verify=_certificates() if may_need_tls else False,
            follow_redirects=False,
            timeout=httpx.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s), pool=None),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_S),
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        pass  # its text may hold the proxy's password
    raise InputError(
        "a proxy named in the environment cannot be used.",
        hint="check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY (socks:// needs the package httpx[socks]), "
        "or name the endpoint in NO_PROXY.",
    )


@cache
def _certificates() -> ssl.SSLContext:
    """The system's and the environment's, read once a process."""
    return httpx.create_ssl_context(trust_env=True)
