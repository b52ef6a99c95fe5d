"""The HTTP server: Streamlit's application with what stands before it, until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from starlette.middleware import Middleware
from streamlit.starlette import App

from raylens_app.web.http.assets import Assets
from raylens_app.web.http.wrong_paths import WrongPaths

_END_S: Final = 5.0
"""After a signal: sessions are told, and what still works is left then."""


def hold_up(script: Path, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve a script of Streamlit's until SIGINT or SIGTERM.

    Args:
        script: What each session runs.
        host: Where to listen.
        port: Likewise.
        ready: Called once it answers.
    """
    app = App(script, middleware=[Middleware(Assets), Middleware(WrongPaths)])
    config = uvicorn.Config(app, host, port, access_log=False, log_config=None, ws="websockets-sansio")
    asyncio.run(_Server(config, ready).serve())


class _Server(uvicorn.Server):
    """Says when it is ready, and has an end: Streamlit's own ``run`` does neither.

    Args:
        config: What to serve, and where.
        ready: Called once it answers.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at the first signal, and with exit code 0: uvicorn would raise it again when all is closed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        # A page that still works, or a browser that does not let go, must not hold the end up.
        late = threading.Timer(_END_S, os._exit, [0])
        late.daemon = True
        late.start()
        self.should_exit = True
