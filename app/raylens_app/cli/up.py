"""``raylens up`` and ``raylens ui``: services and app together, and both end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raylens.errors import InputError
from raylens.home import from_home
from raylens_app.cli.app import PORT as APP_PORT
from raylens_app.cli.detached import start_detached
from raylens_app.cli.output import note
from raylens_app.cli.serve import absolute
from raylens_app.cli.state import State, state_of

if TYPE_CHECKING:
    from raylens.store.standing import Standing
    from raylens_serve.settings import ServeSettings

SERVICES_PORT: Final = 8000
_DOWN_S: Final = 60.0
_APP_ENDS_S: Final = 20.0

Host = Annotated[str, typer.Option(help="Where the app listens; elsewhere than on this machine, browsers log in.")]
Port = Annotated[int, typer.Option(min=1, max=65_535, help="Of the app.")]
ServicesPort = Annotated[int, typer.Option(min=1, max=65_535, help="Of the services, on this machine.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("up", rich_help_panel="Services")(up)
    app.command("ui", rich_help_panel="Workbench")(ui)


def up(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="M", help="A model to serve; again for more. [default: raylens/pico]"),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = APP_PORT,
    services_port: ServicesPort = SERVICES_PORT,
) -> None:
    """Start services and app on this workspace, until Ctrl-C.

    Services that are up already are used, and left up. Without a model the embedded one is served with its SAEs.
    """
    from raylens_serve.settings import ModelSettings, ServeSettings

    served = tuple(ModelSettings(model=absolute(one)) for one in model or ())
    settings = ServeSettings(models=served) if served else ServeSettings()
    _together(state_of(context), settings, host, port, services_port, "", given=bool(model))


def ui(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="M", help="Bundle, folder or hub id.")
    ] = "raylens/pico",
    sae_dir: Annotated[
        list[Path] | None,
        typer.Option("--sae-dir", metavar="DIR", help="An SAE's folder, or one that holds several; again for more."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = APP_PORT,
    services_port: ServicesPort = SERVICES_PORT,
) -> None:
    """Open the workbench on a model and SAEs of your own: services, app, and the address of its page.

    Without --sae-dir the model's SAEs are those that the catalogue knows.
    """
    from raylens_serve.settings import ModelSettings, ServeSettings

    saes = tuple(dict.fromkeys(one for folder in sae_dir or () for one in sae_folders(folder)))
    served = ModelSettings(model=absolute(model), saes=saes or None)
    _together(state_of(context), ServeSettings(models=(served,)), host, port, services_port, "/workbench", given=True)


def sae_folders(folder: Path) -> list[str]:
    """An SAE's folder, or those in a folder of several.

    Raises:
        InputError: It is no folder, or none of an SAE.
    """
    folder = from_home(folder).absolute()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", hint="name one that an SAE lies in: --sae-dir.")
    if _is_sae(folder):
        return [str(folder)]
    found = sorted(str(one) for one in folder.iterdir() if one.is_dir() and _is_sae(one))
    if not found:
        raise InputError(
            f"{folder} holds no SAE: no cfg.json, params.npz or config.json with weights.",
            hint="name a folder in SAELens, Gemma-Scope, sparsify or dictionary_learning format; raylens convert turns "
            "pickles into one.",
        )
    return found


def _is_sae(folder: Path) -> bool:
    """Whether a folder looks like an SAE's; what it is, is found out when it is loaded."""
    weights = [one for kind in ("*.safetensors", "*.npz") for one in folder.glob(kind)]
    return bool(weights) and any((folder / name).is_file() for name in ("cfg.json", "config.json", "params.npz"))


def _together(
    state: State, settings: ServeSettings, host: str, port: int, services_port: int, page: str, *, given: bool
) -> None:
    from raylens.store.standing import end, read_standing
    from raylens_app.web.launch import address, require_free

    require_free(host, port)  # before services are started for nothing
    workspace = state.open_workspace(create=True)
    standing = read_standing(workspace.files)
    mine = standing is None
    if standing is None:
        require_free("127.0.0.1", services_port, "services", "--services-port")
        standing = _started(state, settings, services_port)
    elif given:
        raise InputError(
            f"services of {workspace.url} are up already at {standing.url}, with models of their own.",
            hint="end them with raylens serve down, or load the model on the Workbench page of raylens app.",
        )
    else:
        note(f"the services at {standing.url} are up already, and are left up")
    try:
        note(f"services at {standing.url}; open {address(host, port)}{page}")
        code = _app(state, host, port, standing.url)
    finally:
        if mine:
            note("ending the services")
            end(workspace.files, _DOWN_S)
    raise typer.Exit(code)


def _started(state: State, settings: ServeSettings, port: int) -> Standing:
    from raylens.net.api_token import find_or_make_token, token_file
    from raylens_serve.config_file import HOST, ServeFile
    from raylens_serve.ray_environment import prepare_ray

    prepare_ray(None)
    token, is_new = find_or_make_token()
    if is_new:
        note(f"clients send Authorization: Bearer {token}; it is kept in {token_file()}")
    file = ServeFile(settings.model_copy(update={"workspace": state.workspace}), HOST, port, {})
    return start_detached(state, file, None, note)


def _app(state: State, host: str, port: int, services: str) -> int:
    """The app in a process of its own, until it ends or this one is told to."""
    words: Sequence[str] = ["--workspace", state.workspace, "app", "--host", host, "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "raylens", *words, "--services", services], env=os.environ)

    def stop(_number: int, _frame: FrameType | None) -> None:
        process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(_APP_ENDS_S)
        for number, handler in before.items():
            signal.signal(number, handler)
