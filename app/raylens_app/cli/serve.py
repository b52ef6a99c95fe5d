"""``raylens serve up|down|status``: the platform behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.home import from_home
from raylens_app.cli.detached import READY, start_detached
from raylens_app.cli.output import note, print_json
from raylens_app.cli.state import Address, State, state_of

if TYPE_CHECKING:
    from raylens.store.standing import Standing
    from raylens_serve.config_file import ServeFile

_DOWN_S: Final = 60.0
_READY_S: Final = 10.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

group = typer.Typer(help="Serve models, features, traces and audits over HTTP, on Ray Serve.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(group, name="serve", rich_help_panel="Services")


@group.command("up")
def up(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A config file, as serve run takes it.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen. [default: 127.0.0.1]", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Likewise. [default: 8000]", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="M", help="A model to serve; again for more. [default: raylens/pico]"),
    ] = None,
    explainer: Annotated[
        str | None,
        typer.Option("--explainer-model", metavar="M", help="Serve chats of this model (OpenAI-compatible)."),
    ] = None,
    address: Address = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once they answer, and leave them up.")] = False,
    as_json: Json = False,
) -> None:
    """Start the services and hold them up until Ctrl-C; they then finish what they accepted.

    Without a config they serve the embedded model with its SAEs. Clients send Authorization: Bearer with
    RAYLENS_API_TOKEN; where that is not set, a token is made at the first start, printed once, and kept in a file
    that only you can read.
    """
    from raylens.net.api_token import find_or_make_token, token_file
    from raylens_serve.ray_environment import prepare_ray

    prepare_ray(address)
    state = state_of(context)
    file = _file(state, config, host, port, model, explainer)
    token, is_new = find_or_make_token()
    if is_new:
        note(f"clients send Authorization: Bearer {token}; it is kept in {token_file()}")
    if file.host not in _LOOPBACK and (as_json or not detach):  # what is detached says it itself
        note("the token travels as it is: put TLS in front of this port before others can reach it.")
    say = _nothing if as_json else note
    if detach:
        _say(start_detached(state, file, address, say), as_json)
        return
    say(f"starting the services of {file.settings.workspace_url}")
    from raylens_serve.lifecycle import hold_up  # takes seconds

    hold_up(file, address, lambda standing: _say(standing, as_json), say)
    note("the services have ended")


@group.command("down")
def down(context: typer.Context, as_json: Json = False) -> None:
    """End the services of this workspace; they finish what they accepted."""
    from raylens.store.standing import end

    ended = end(state_of(context).open_workspace().files, _DOWN_S)
    if as_json:
        print_json({"url": ended.url, "up": False})
    else:
        note(f"the services at {ended.url} have ended")


@group.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Whether services of this workspace are up, and how their parts are; exit code 1 where they do not answer."""
    from raylens.client import Client
    from raylens.net.api_token import find_token
    from raylens.store.standing import read_standing

    standing = read_standing(state_of(context).open_workspace().files)
    said = None
    if standing is not None:
        with Client(standing.url, find_token(), timeout_s=_READY_S) as client:
            said = client.readiness()
    ready = said is not None and said.ready
    if as_json:
        parts = said.model_dump(mode="json") if said else None
        print_json(
            {"up": standing is not None, "ready": ready, "url": standing.url if standing else None, "said": parts}
        )
    elif standing is None:
        note("no services are up; raylens serve up starts them.")
    else:
        note(f"{standing.url}: {'ready' if ready else 'not ready'}")
        for name, part in sorted(said.parts.items()) if said else ():
            figures = ", ".join(f"{key} {value}" for key, value in part.said.items())
            note(f"  {name}: {'ready' if part.ready else 'not ready'}{f' ({figures})' if figures else ''}")
    if not ready:
        raise typer.Exit(1)


def _file(
    state: State,
    config: Path | None,
    host: str | None,
    port: int | None,
    models: list[str] | None,
    explainer: str | None,
) -> ServeFile:
    from raylens_serve.config_file import HOST, PORT, ServeFile, read_config
    from raylens_serve.settings import ExplainerSettings, ModelSettings, ServeSettings

    file = read_config(config) if config else ServeFile(ServeSettings(), HOST, PORT, {})
    changes: dict[str, Any] = {} if file.settings.workspace else {"workspace": state.workspace}
    if models:
        changes["models"] = tuple(ModelSettings(model=absolute(one)) for one in models)
    if explainer:
        changes["explainer"] = ExplainerSettings(model=absolute(explainer))
    settings = file.settings.model_copy(update=changes)
    return ServeFile(settings, host or file.host, port or file.port, file.http)


def absolute(model: str) -> str:
    """Replicas run in other folders: a folder is named by its whole path."""
    path = from_home(model)
    return str(path.absolute()) if path.is_dir() else model


def _say(standing: Standing, as_json: bool) -> None:
    if as_json:
        print_json({"url": standing.url, "up": True, "ray": standing.address})
    else:
        note(f"{READY}{standing.url}; raylens serve down ends the services")


def _nothing(_: str) -> None:
    """What programs are told on the way."""
