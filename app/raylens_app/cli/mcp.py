"""``raylens mcp``: the tools of RayLens for language models, over stdio or HTTP."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import UnknownNameError
from raylens_app.cli.output import note
from raylens_app.cli.state import state_of

if TYPE_CHECKING:
    from raylens.store.audit_store import AuditStore

DEFAULT_SESSION: Final = "mcp"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Transport(StrEnum):
    """How a client reaches the server."""

    STDIO = "stdio"
    HTTP = "http"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("mcp", rich_help_panel="Audit")(mcp)


def mcp(
    context: typer.Context,
    transport: Annotated[
        Transport, typer.Option("--transport", help="stdio: a client starts this command. http: it asks a port.")
    ] = Transport.STDIO,
    host: Annotated[str, typer.Option(help="Of http: where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of http; 0 for any that is free.")] = 8766,
    names: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Of http: a name by which others reach this machine."),
    ] = None,
    session: Annotated[
        str, typer.Option("--session", metavar="NAME", help="Where calls are noted and audits are kept.")
    ] = DEFAULT_SESSION,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no tool that runs a model.")] = False,
) -> None:
    """Serve audits, features, labels and SQL of this workspace as MCP tools.

    Paths that a client names lie inside RAYLENS_BASE_DIR (default: the current folder). Every call is noted in
    audits/SESSION/tool_calls.jsonl. Over http, clients send Authorization: Bearer with RAYLENS_API_TOKEN; where that
    is not set, a token is made and printed once to stderr.
    """
    import anyio

    from raylens.store.audit_store import AuditStore
    from raylens.store.base_dir import base_dir
    from raylens_app.mcp.desk import Desk
    from raylens_app.mcp.http import HttpServer, token_of
    from raylens_app.mcp.server import build, serve_stdio

    workspace = state_of(context).open_workspace(create=not read_only)
    desk = Desk(workspace, AuditStore(workspace.files), session, base_dir(), read_only=read_only)
    asked = {"transport": transport.value, "read_only": read_only, "base_dir": str(desk.base)}
    _begin(desk.audits, session, asked)
    if transport is Transport.STDIO:
        note(f"serving {workspace.url} over stdio, session {session}, base directory {desk.base}")
        anyio.run(serve_stdio, build(desk, secret=os.environ.get("RAYLENS_API_TOKEN") or None))
        return
    token, is_new = token_of(os.environ)
    server = HttpServer(build(desk, secret=token), token, host=host, port=port, names=names or ())
    note(f"serving {workspace.url} at {server.url}, session {session}, base directory {desk.base}; Ctrl-C ends it")
    if is_new:
        note(f"clients send Authorization: Bearer {token}")
    if host not in _LOOPBACK:
        note("the token travels as it is: put TLS in front of this port before others can reach it.")
    anyio.run(server.serve)


def _begin(audits: AuditStore, session: str, asked: dict[str, Any]) -> None:
    """Open the session; one that is there keeps what it says it was asked for."""
    try:
        audits.config(session)
    except UnknownNameError:
        audits.create_session(session, asked)
