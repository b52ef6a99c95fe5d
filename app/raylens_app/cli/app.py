"""``raylens app``: the analyst's front end in a browser."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from raylens_app.cli.output import note
from raylens_app.cli.state import state_of

PORT: Final = 8501


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("app", rich_help_panel="Look")(app_)


def app_(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Where to listen; elsewhere than on this machine, browsers have to log in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Likewise.")] = PORT,
    services: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the services are. Default: RAYLENS_URL, else those of the workspace."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Another name by which browsers reach this machine."),
    ] = None,
) -> None:
    """Browse features, explanations and scores of this workspace in a browser, until Ctrl-C.

    It reads the workspace itself; texts of your own are read by the services (raylens serve up). It listens on this
    machine alone. Elsewhere each browser session has to name RAYLENS_API_TOKEN; where that is not set, the token is
    made, printed once, and kept in a file that only you can read.
    """
    from raylens.net.api_token import find_or_make_token, token_file
    from raylens_app.web.launch import LOOPBACK, serve
    from raylens_app.web.settings import AppSettings

    state = state_of(context)
    login = host not in LOOPBACK
    if login:
        token, is_new = find_or_make_token()
        note(f"{host} is more than this machine: each browser session has to name the API token first.")
        if is_new:
            note(f"it is {token}, kept in {token_file()}")
        note("the token travels as it is: put TLS in front of this port before others can reach it.")
    settings = AppSettings(state.workspace, services, login=login)
    serve(settings, host, port, names or (), lambda url: note(f"{state.workspace} at {url}; Ctrl-C ends it"))
    note("the app has ended")
