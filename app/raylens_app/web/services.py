"""The HTTP services of a workspace: where they are, how they are, and what starts them where they are down."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from threading import Lock
from typing import Final

import streamlit as st

from raylens.api.system import Readiness
from raylens.client import Client
from raylens.client.http import DEFAULT_URL, URL_VARIABLE
from raylens.errors import RaylensError, RunError
from raylens.net.api_token import find_token
from raylens.store.standing import read_standing
from raylens.store.workspace import Workspace
from raylens_app.web.plain import plain

_ANSWER_S: Final = 120.0
_LOOK_S: Final = 2.0
_KEPT_S: Final = 4.0

START: Final = "raylens --workspace {workspace} serve up --detach"


@dataclass(frozen=True, slots=True)
class Health:
    """How the services are.

    Attributes:
        url: Where they are looked for.
        said: What they say of themselves; None where they do not answer.
        problem: Why they cannot be asked although they are there (a wrong token), one sentence; else empty.
        hint: What to do then.
    """

    url: str
    said: Readiness | None
    problem: str = ""
    hint: str = ""

    @property
    def ready(self) -> bool:
        """Whether they can be asked."""
        return self.said is not None and self.said.ready


class Services:
    """The services of one workspace, for all sessions.

    Args:
        workspace: Whose.
        url: Where they are; None to look at ``RAYLENS_URL``, the workspace, and this machine's usual port, as the
            command line does.
    """

    def __init__(self, workspace: Workspace, url: str | None) -> None:
        self._workspace, self._given = workspace, url
        self._turn = Lock()
        self._known: tuple[float, Health] | None = None

    @property
    def url(self) -> str:
        """Where they are looked for."""
        if given := self._given or os.environ.get(URL_VARIABLE, "").strip():
            return given
        standing = read_standing(self._workspace.files)
        return standing.url if standing is not None else DEFAULT_URL

    def client(self, *, timeout_s: float = _ANSWER_S) -> Client:
        """A client of them, for one block: ``with services.client() as client``.

        Raises:
            InputError: The token cannot be used.
        """
        return Client(self.url, find_token(), timeout_s=timeout_s)

    def health(self) -> Health:
        """How they are, or were a few seconds ago."""
        with self._turn:
            if self._known is None or time.monotonic() > self._known[0] + _KEPT_S:
                found = self._look()
                self._known = time.monotonic(), found
            return self._known[1]

    def start_command(self) -> str:
        """What starts them."""
        return START.format(workspace=self._workspace.url)

    def _look(self) -> Health:
        url = self.url
        try:
            with self.client(timeout_s=_LOOK_S) as client:
                return Health(url, client.readiness())
        except RaylensError as error:
            return Health(url, None, error.message, error.hint)


def down(services: Services, error: RaylensError | None = None) -> None:
    """Say on the page that something needs the services, and how they are started."""
    health = services.health()
    # Of services that answer, a RunError is what went wrong there: no memory, a full disk.
    if error is not None and (health.said is not None or not isinstance(error, RunError)):
        st.error(f"{plain(error.message)}  \n{plain(error.hint)}", icon=":material/error:")
        return
    if health.problem:
        st.error(f"{plain(health.problem)}  \n{plain(health.hint)}", icon=":material/error:")
        return
    st.warning(f"The services do not answer at {plain(health.url)}. This starts them:", icon=":material/power_off:")
    st.code(services.start_command(), language="bash", wrap_lines=True)
