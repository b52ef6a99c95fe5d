"""One async client for every OpenAI-compatible endpoint.

::

    async with ChatClient(settings, cache=ReplyCache(files)) as client:
        reply = await client.ask(Request(messages=(Message("user", "…"),)))
        losses = await client.losses("what comes before", "the text")

Ask as much at a time as you like: the client keeps to its limits. httpx is used directly, since the
protocol is one POST, and retries, limits, budget and secrets are then in one hand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import Self

import httpx
import numpy as np
from numpy.typing import NDArray

from raylens.chat import Reply, Request
from raylens.errors import InputError
from raylens.llm.calls import Call, ChatCall, LossesCall
from raylens.llm.echo import nats
from raylens.llm.once import Once
from raylens.llm.pace import Pacer, backoff_s
from raylens.llm.protocol import Dialect, Failure
from raylens.llm.remedies import error_for
from raylens.llm.replies import ReplyCache, request_key
from raylens.llm.settings import EndpointSettings, Key
from raylens.llm.spend import Meter, Usage
from raylens.net.clock import Clock, SystemClock
from raylens.net.retry_after import retry_after_s
from raylens.store.redact import scrub

_log = logging.getLogger(__name__)
# At DEBUG it writes down the headers of answers, where an endpoint may repeat the key.
logging.getLogger("httpcore").setLevel(logging.INFO)

_CONNECT_S = 10.0
_IDLE_S = 3.0
"""Servers close idle connections, uvicorn after 5 s; closing first avoids sending into a closed one."""


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
        self._clock: Clock = clock or SystemClock()
        self._jitter = jitter or random.Random()
        self._meter = Meter(settings)
        self._once = Once(cache, self._meter.count)
        self._pacer = Pacer(settings.requests_per_minute, self._clock)
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        self._dialect = Dialect()
        self._key = Key(None)
        self._opened: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []

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
        self._once.open(self.settings.max_concurrency)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is still under way and close all connections."""
        await self._once.close()
        for connection in self._opened:
            await connection.aclose()
        self._opened, self._idle, self._key = [], [], Key(None)

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
        return await self._answered(ChatCall(request))

    async def losses(self, context: str, text: str) -> NDArray[np.float64]:
        """Loss of each token of ``text`` after ``context``, in nats, float64 ``[tokens]``; see :mod:`raylens.llm.echo`.

        The endpoint tokenises both as one; a token across the border is left out, and one that the endpoint gives
        no probability for is NaN.

        Raises:
            EndpointRefusedError: As :meth:`ask`; or this endpoint gives no losses.
            EndpointUnavailableError, ContextTooLongError, RequestRefusedError, BudgetReached, DiskFullError: As
                :meth:`ask`.
        """
        return nats(await self._answered(LossesCall(context, text))) if text else np.zeros(0)

    async def forget(self, request: Request) -> None:
        """Drop the stored answer to ``request``, which was of no use, so that a rerun asks again."""
        await self._once.forget(request_key(self.settings, request))

    async def _answered(self, call: Call) -> Reply:
        if not self._opened:
            raise RuntimeError("open the client first: async with ChatClient(…) as client")
        return await self._once.answer(call.key(self.settings), lambda: self._sent(call), call.is_worth_keeping)

    async def _sent(self, call: Call) -> Reply:
        """Ask the endpoint, as often as it takes; waiting for a retry keeps the slot, which spares a failing one."""
        worst_usd = call.worst_case_usd(self.settings)
        failures, retry = 0, False
        async with self._connection() as connection:
            while True:
                dialect = self._dialect
                outcome = await self._attempt(connection, call, dialect, worst_usd, retry=retry)
                if isinstance(outcome, Reply):
                    return outcome
                retry = True
                if better := call.adapted(dialect, outcome):
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
        self, connection: httpx.AsyncClient, call: Call, dialect: Dialect, worst_usd: float, *, retry: bool
    ) -> Reply | Failure:
        await self._pacer.turn()
        await self._meter.admit(worst_usd, retry=retry)
        reply, may_be_billed = None, True  # as it is where this is cancelled
        try:
            outcome = await self._exchanged(connection, call, dialect)
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

    async def _exchanged(self, connection: httpx.AsyncClient, call: Call, dialect: Dialect) -> Reply | Failure:
        """One POST. Errors become values here, so that none goes on with httpx's request, and its key, behind it."""
        timeout_s = self.settings.timeout_s
        body = json.dumps(call.body(self.settings, dialect), ensure_ascii=False).encode("utf-8", "replace")
        try:
            # httpx limits each read; an endpoint that sends a byte now and then would hold the slot for ever.
            async with asyncio.timeout(timeout_s):
                response = await connection.post(f"{self.settings.base_url}{call.path}", content=body)
        except httpx.ConnectTimeout:
            return Failure("retry", "did not accept a connection in time")
        except (TimeoutError, httpx.TimeoutException):
            return Failure("retry", f"did not answer within {timeout_s:g} s", may_be_billed=True)
        except (httpx.ConnectError, httpx.ProxyError) as error:
            return Failure("retry", "cannot be reached", str(error))
        except httpx.RequestError as error:
            return Failure("retry", "broke off before the whole answer was there", str(error), may_be_billed=True)
        answer = call.read(response.status_code, response.content, self.settings)
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
