"""How commands reach the services of a workspace."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from raylens.errors import WorkspaceError

if TYPE_CHECKING:
    from raylens.client import Client
    from raylens_app.cli.state import State


def client_of(state: State) -> Client:
    """The services at ``RAYLENS_URL``, else those of the workspace, else those of this machine's usual port.

    Raises:
        InputError: The token cannot be used.
    """
    from raylens.client import Client
    from raylens.client.http import DEFAULT_URL, URL_VARIABLE
    from raylens.net.api_token import find_token
    from raylens.store.standing import read_standing

    url = os.environ.get(URL_VARIABLE, "").strip()
    if not url:
        with suppress(WorkspaceError):
            standing = read_standing(state.open_workspace().files)
            url = standing.url if standing is not None else ""
    return Client(url or DEFAULT_URL, find_token())
