"""The server over streamable HTTP: for programs on this machine, with a token, and not for web pages.

It binds to 127.0.0.1 unless told otherwise. A request needs ``Authorization: Bearer <token>``; its ``Host`` must be a
name of this machine, and its ``Origin``, where a browser sends one, likewise: a page whose name was pointed here has
another one.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import uvicorn
from mcp.server.lowlevel.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Receive, Scope, Send

from raylens.errors import InputError
from raylens.net.secret import checked_key
from raylens_app.mcp.jobs import TOKEN_VARIABLE

PATH: Final = "/mcp"
DEFAULT_PORT: Final = 8766

_LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")
_SHORTEST: Final = 16
_MAX_BODY: Final = 2**20
_TOKEN_BYTES: Final = 32


def token_of(environment: Mapping[str, str]) -> tuple[str, bool]:
    """The token that clients need, and whether it was made here: that of ``RAYLENS_API_TOKEN``, else a new one.

    Raises:
        InputError: The variable holds what cannot be sent, or can be guessed.
    """
    given = environment.get(TOKEN_VARIABLE, "").strip()
    if not given:
        return secrets.token_urlsafe(_TOKEN_BYTES), True
    checked_key(given, TOKEN_VARIABLE)
    if len(given) < _SHORTEST:
        raise InputError(
            f"{TOKEN_VARIABLE} is shorter than {_SHORTEST} characters.",
            hint=f"set it to a long random one, or unset {TOKEN_VARIABLE}: one is made then.",
        )
    return given, False


class HttpServer:
    """The server on a port of its own.

    Args:
        server: What to serve.
        token: What clients must send.
        host: Where it listens.
        port: Where; 0 for any that is free.
        names: Names and addresses by which others reach it, for ``Host`` and ``Origin``; local ones are known.

    Raises:
        InputError: The address cannot be used.
    """

    def __init__(
        self,
        server: Server[Any],
        token: str,
        *,
        host: str = _LOCAL[0],
        port: int = DEFAULT_PORT,
        names: Sequence[str] = (),
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "it is no address"
            raise InputError(
                f"port {port} of {host} cannot be used: {reason.lower()}.",
                hint="name another one with --port, or 0 for any that is free.",
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self.host = f"[{host}]" if ":" in host else host
        known = dict.fromkeys([*_LOCAL, self.host, *names])
        app = server.streamable_http_app(
            streamable_http_path=PATH,
            max_request_body_size=_MAX_BODY,
            transport_security=TransportSecuritySettings(
                allowed_hosts=[form for name in known for form in (name, f"{name}:*")],
                allowed_origins=[
                    form for name in known for scheme in ("http", "https") for form in _origins(scheme, name)
                ],
            ),
        )
        config = uvicorn.Config(
            Guarded(app, token), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://{self.host}:{self.port}{PATH}"

    async def serve(self) -> None:
        """Serve until Ctrl-C."""
        if not logging.getLogger("raylens_app").isEnabledFor(logging.DEBUG):
            # It logs a trace of every request that ends because its client left, or because of Ctrl-C.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await self._server.serve(sockets=[self._socket])


class Guarded:
    """Lets requests pass that carry the token; answers 401 to all others, whatever they ask for.

    Args:
        app: What is guarded.
        token: The secret.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            sent = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(sent) == 1 and hmac.compare_digest(_scheme_as_written(sent[0]), self._expected):
                await self._app(scope, receive, send)
            else:
                await _refuse(send)


def _scheme_as_written(header: bytes) -> bytes:
    """The word ``Bearer`` counts in any case (RFC 9110)."""
    scheme, _, rest = header.partition(b" ")
    return b"Bearer " + rest.strip() if scheme.lower() == b"bearer" else header


def _origins(scheme: str, name: str) -> tuple[str, str]:
    return f"{scheme}://{name}", f"{scheme}://{name}:*"


async def _refuse(send: Send) -> None:
    said = f"Authorization is missing or wrong: it is 'Bearer' and the token, {TOKEN_VARIABLE} of the server."
    body = json.dumps({"error": said}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b'Bearer realm="raylens"'),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
