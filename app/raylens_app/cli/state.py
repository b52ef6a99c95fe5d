"""What the global options say, handed to every command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from raylens.store.workspace import Workspace

DEFAULT_WORKSPACE: Final = "./raylens-data"


def _with_token(address: str | None) -> str | None:
    """Ray reads whether it shall send a token as it is imported, which commands do after their options are read."""
    from raylens.net.ray_access import bring_token

    bring_token(address)
    return address


def address_option(
    about: str = "A running Ray cluster, e.g. ray://head:10001 or auto.", panel: str | None = None
) -> Any:
    """``--address`` of a command that runs on Ray, with which goes this user's token for that cluster."""
    return typer.Option("--address", help=about, callback=_with_token, rich_help_panel=panel)


Address = Annotated[str | None, address_option("A running Ray cluster, e.g. ray://head:10001 or auto.")]

RunId = Annotated[
    str | None, typer.Option(hidden=True, help="Of the run's record, given by whoever waits for the run: services.")
]


@dataclass(frozen=True, slots=True)
class State:
    """The global options of one command line."""

    workspace: str = DEFAULT_WORKSPACE
    verbose: bool = False

    def open_workspace(self, *, create: bool = False) -> Workspace:
        """The workspace that ``--workspace`` names.

        Raises:
            WorkspaceError: it is missing (and ``create`` is false), or of another schema version.
        """
        from raylens.store.workspace import Workspace

        return Workspace.open(self.workspace, create=create)

    def workspace_option(self) -> str:
        """What a command line needs to name this workspace again: nothing, or the option with a space before it."""
        return "" if self.workspace == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(self.workspace)}"


def state_of(context: typer.Context) -> State:
    """The global options of the running command; defaults where a command is called without the app."""
    state = context.find_object(State)
    return state if state is not None else State()
