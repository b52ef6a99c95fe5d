"""What the global options say, handed to every command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from raylens.store.workspace import Workspace

DEFAULT_WORKSPACE: Final = "./raylens-data"

Address = Annotated[str | None, typer.Option("--address", help="A running Ray cluster, e.g. auto or head:6379.")]
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
