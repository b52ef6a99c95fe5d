"""Streamlit's own scripts, styles and fonts, answered from memory.

A browser that has never seen the app asks for more than a hundred of them before its first page is there, most of a
few hundred bytes. From files, through Streamlit's middleware and threads, each takes this process some milliseconds,
which was more than half of the time of that page. Their names hold hashes of their content, so that no browser asks
twice.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Final

import streamlit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER: Final = Path(streamlit.__file__).parent / "static" / "static"
_PREFIX: Final = "/static/"
_KINDS: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".woff2": "font/woff2",
    ".woff": "font/woff",
    ".ttf": "font/ttf",
}
"""Not what the machine takes them for: a browser runs no script that is said to be plain text."""
_KEEP: Final = b"public, immutable, max-age=31536000"


class Assets:
    """ASGI middleware: what lies in a folder is answered at once, everything else by the app.

    Args:
        app: Answers everything else.
        folder: With files that never change; each is read when it is first asked for, and kept.
    """

    def __init__(self, app: ASGIApp, folder: Path = FOLDER) -> None:
        self._app = app
        # What is asked for is looked up here and never joined to a path.
        self._paths = {
            f"{_PREFIX}{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()
        }
        self._kept: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET and HEAD of a file that is known."""
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or path not in self._paths:
            await self._app(scope, receive, send)
            return
        if path not in self._kept:
            self._kept[path] = _read(self._paths[path])
        body, headers = self._kept[path]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] == "GET" else b""})


def _read(path: Path) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    body = path.read_bytes()
    kind = _KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = {
        b"content-type": kind.encode(),
        b"content-length": str(len(body)).encode(),
        b"cache-control": _KEEP,
        b"x-content-type-options": b"nosniff",
    }
    return body, list(headers.items())
