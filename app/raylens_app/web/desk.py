"""What every page works with: the workspace's readers, which all sessions share, and where the services are.

Nothing of it belongs to a session. What is kept is keyed by what lies in the workspace (a generation, the files of
findings), so that a merge, an explanation or a label shows at the next look, whoever made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import streamlit as st

from raylens.catalog import Catalog
from raylens.catalog.support import supported_models
from raylens.catalog.user import find_user_file
from raylens.errors import InputError, UnknownNameError
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.contents import Contents, contents
from raylens.store.phrases import Embed
from raylens.store.runs import RunRecord
from raylens.store.workspace import Workspace
from raylens_app.web.services import Services
from raylens_app.web.settings import AppSettings

_RUNS_S: Final = 2.0
_CONTENTS_S: Final = 10.0
_OPEN_S: Final = 5.0


@dataclass(frozen=True)
class Desk:
    """A workspace at hand.

    Attributes:
        workspace: Which.
        settings: Of the app.
        catalog: Which SAEs fit which models, with the workspace's own rows.
        features: Lists, pages and windows of features; opened once for all sessions.
        services: Where texts are read and models are run.
    """

    workspace: Workspace
    settings: AppSettings
    catalog: Catalog
    features: WorkspaceFeatures
    services: Services

    @property
    def has_features(self) -> bool:
        """Whether a cache can be read."""
        try:
            return bool(self.features.readables())
        except UnknownNameError:
            return False

    @cached_property
    def supported_models(self) -> list[dict[str, object]]:
        """The catalogue, as ``GET /api/v1/sae/supported-models`` gives it (A0.07)."""
        return supported_models(self.catalog)

    def contents(self) -> Contents:
        """What is in the workspace, counted; at most some seconds old, and anew after each merge."""
        return _contents(self.workspace.url, self.features.own.generations(), self.workspace)

    def runs(self) -> tuple[RunRecord, ...]:
        """All runs, the newest first, as they were at most two seconds ago."""
        return _runs(self.workspace.url, self.workspace)

    def embedding(self) -> Embed | None:
        """The bundled sentence embedding, in NumPy; None where what reads it is not installed."""
        return _embedding()


def open_desk(settings: AppSettings) -> Desk:
    """The desk of the workspace that ``settings`` name.

    Raises:
        WorkspaceError: There is none, or it is of another version.
        InputError: The workspace's own catalogue, or its address, cannot be read.
    """
    _look(settings.workspace)
    return _opened(settings)


@st.cache_data(ttl=_OPEN_S, show_spinner=False, max_entries=8)
def _look(url: str) -> None:
    """Whether the workspace is there and of this version; looked at again and again, for it may be replaced."""
    Workspace.open(url)


def close_desks() -> None:
    """Let go of all that was opened, when the app ends."""
    st.cache_data.clear()
    st.cache_resource.clear()


@st.cache_resource(show_spinner="Opening the workspace …", max_entries=8, on_release=lambda desk: desk.features.close())
def _opened(settings: AppSettings) -> Desk:
    workspace = Workspace.open(settings.workspace)
    catalog = Catalog.load(find_user_file(None, workspace.url))
    features = WorkspaceFeatures(workspace, catalog)
    return Desk(workspace, settings, catalog, features, Services(workspace, settings.services))


@st.cache_data(ttl=_CONTENTS_S, show_spinner="Counting what is there …", max_entries=8)
def _contents(url: str, generations: tuple[tuple[str, str], ...], _workspace: Workspace) -> Contents:
    return contents(_workspace)


@st.cache_data(ttl=_RUNS_S, show_spinner=False, max_entries=8)
def _runs(url: str, _workspace: Workspace) -> tuple[RunRecord, ...]:
    return tuple(reversed(_workspace.runs()))


@st.cache_resource(show_spinner=False)
def _embedding() -> Embed | None:
    from raylens.bundle.embedding import embed

    try:
        embed(["word"])
    except (ModuleNotFoundError, InputError):
        return None
    return embed
