"""Addresses below a page lead to the page: Streamlit answers them with a page that finds none of its scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raylens_app.web.registry import PAGES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_NAMES: Final = frozenset(page.name for page in PAGES)


class WrongPaths:
    """ASGI middleware: ``/feature/17`` is ``/feature``, with the same parameters.

    Args:
        app: Answers everything else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Redirect, or let pass."""
        first, _, rest = scope.get("path", "").strip("/").partition("/")
        # Streamlit's own paths begin otherwise, and a page below a page asks for these there as well.
        if scope["type"] != "http" or first not in _NAMES or not rest or rest.startswith("_stcore/"):
            await self._app(scope, receive, send)
            return
        query = scope.get("query_string", b"")
        location = f"/{first}".encode() + (b"?" + query if query else b"")
        headers = [(b"location", location), (b"content-length", b"0"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
