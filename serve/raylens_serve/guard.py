"""What every request passes before anything is done for it: token, size, and how much is under way."""

from __future__ import annotations

import hmac
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raylens_serve.openai_errors import is_openai, openai_problem
from raylens_serve.problems import RETRY_S, problem
from raylens_serve.settings import Limits

OPEN: Final = frozenset({"/healthz"})
"""What answers without a token: it says that the process lives, and nothing else."""


class Guard:
    """ASGI middleware.

    Args:
        app: What is guarded.
        token: What ``Authorization: Bearer`` must carry; also taken as ``x-api-key``, as Neuronpedia's clients send it.
        limits: Sizes.
    """

    def __init__(self, app: ASGIApp, token: str, limits: Limits) -> None:
        self._app, self._token, self._limits = app, token.encode(), limits
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 4401, "reason": "the token is missing or wrong"})
                return
            await refusal(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, self._bounded(receive) if scope["type"] == "http" else receive, send)
        except _TooLargeError:
            await self._too_large(scope)(scope, receive, send)
        finally:
            self._under_way -= 1

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refused = openai_problem if is_openai(scope["path"]) else problem
        if not self._is_known(headers):
            said = refused(
                401, "Authorization is missing or wrong.", "send 'Authorization: Bearer' and the token.", "InputError"
            )
            said.headers["WWW-Authenticate"] = 'Bearer realm="raylens"'
            return said
        if self._under_way >= self._limits.concurrent:
            return refused(503, "too many requests are under way.", f"try again in {RETRY_S} s.", "OverloadedError")
        length = headers.get(b"content-length", b"")
        if length and (not length.isdigit() or int(length) > self._limits.body_bytes):
            return self._too_large(scope)
        return None

    def _is_known(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(sent.strip(), self._token):
            return True
        return hmac.compare_digest(headers.get(b"x-api-key", b""), self._token)

    def _bounded(self, receive: Receive) -> Receive:
        """Counts what comes, where the length was not said, or not truly."""
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._limits.body_bytes:
                    raise _TooLargeError(413, _too_large_said(self._limits.body_bytes))
            return message

        return counted

    def _too_large(self, scope: Scope) -> ASGIApp:
        refused = openai_problem if is_openai(scope["path"]) else problem
        return refused(413, f"{_too_large_said(self._limits.body_bytes)}.", "send less at a time.")


def _too_large_said(limit: int) -> str:
    return f"the request has more than {limit:,} bytes"


class _TooLargeError(HTTPException):
    """The body is larger than is taken; of a kind that FastAPI, which reads bodies, does not take for bad JSON."""
