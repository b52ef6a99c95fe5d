"""The server behind ``raylens app``: Streamlit in this process, so that nothing is left when it ends.

What is set here cannot be changed by a ``config.toml`` that lies about: no statistics are sent, no address is asked of
anybody, tracebacks stay in the log, and files are not watched.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from raylens.errors import InputError, RaylensError
from raylens_app.web.settings import AppSettings

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
SCRIPT: Final = Path(__file__).parent / "script" / "main.py"
"""What Streamlit runs. In a folder of its own: a folder ``pages`` beside it Streamlit would take for pages itself."""


def serve(settings: AppSettings, host: str, port: int, names: Sequence[str], ready: Callable[[str], None]) -> None:
    """Serve the app until SIGINT or SIGTERM.

    Args:
        settings: What the pages are told.
        host: Where to listen.
        port: Likewise.
        names: Other names by which browsers reach this machine.
        ready: Told the address once it answers.

    Raises:
        InputError: The port is taken, or the address is none of this machine's.
    """
    require_free(host, port)
    settings.write()
    from streamlit import net_util
    from streamlit.web import bootstrap

    from raylens_app.web.http.server import hold_up

    # Streamlit would ask a host on the internet for its own address to compare origins with; --allow-host names those.
    net_util.get_external_ip = lambda: None
    bootstrap.load_config_options(server_options(host, port, names))
    # Before anybody is told the address: the first page would wait for it.
    import raylens_app.web.frame
    import raylens_app.web.pages.home  # noqa: F401
    from raylens_app.web.desk import close_desks

    def begin() -> None:
        ready(address(host, port))
        threading.Thread(target=warm, args=(settings,), name="raylens-app-warm", daemon=True).start()

    hold_up(SCRIPT, host, port, begin)
    close_desks()


def warm(settings: AppSettings) -> None:
    """Have at hand what the first pages show: rows of the features merged last, and what draws charts.

    What cannot be read is said by the page that needs it.
    """
    import importlib

    from raylens.labels.feature_list import Wanted
    from raylens_app.web.desk import open_desk
    from raylens_app.web.registry import PAGES

    with suppress(RaylensError):
        desk = open_desk(settings)
        if desk.has_features:
            desk.features.page(desk.features.chosen(None, None), Wanted(), 1, 0)
    for page in PAGES:
        importlib.import_module(f"raylens_app.web.pages.{page.name}")
    importlib.import_module("raylens_app.web.charts")


def server_options(host: str, port: int, names: Sequence[str]) -> dict[str, object]:
    """Streamlit's settings, by name of setting."""
    from raylens_app.web.theme import streamlit_options

    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.corsAllowedOrigins": [f"http://{name}:{port}" for name in names],
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "viewer",
        "global.developmentMode": False,
        # Other filters set the list back to its first page.
        "global.disableWidgetStateDuplicationWarning": True,
        "logger.hideWelcomeMessage": True,
        "logger.level": "error",
        "runner.magicEnabled": False,
        **streamlit_options(),
    }


def address(host: str, port: int) -> str:
    """The address to open in a browser."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    return f"http://{shown}:{port}"


def require_free(host: str, port: int, what: str = "the app", option: str = "--port") -> None:
    """Refuse a port that is taken.

    Args:
        host: Where to listen.
        port: Likewise.
        what: Is to listen there.
        option: Names another port.

    Raises:
        InputError: It is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{what} cannot listen on {host}:{port}: {reason}.", hint=f"name another with {option} or --host."
        ) from error
