"""What ``raylens app`` tells its pages, through the environment of the one process they run in."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final, Self

_WORKSPACE: Final = "RAYLENS_APP_WORKSPACE"
_SERVICES: Final = "RAYLENS_APP_SERVICES"
_LOGIN: Final = "RAYLENS_APP_LOGIN"


@dataclass(frozen=True, slots=True)
class AppSettings:
    """Settings of one running app.

    Attributes:
        workspace: A folder or URL.
        services: Where the services are; None to look at ``RAYLENS_URL``, the workspace and the usual port.
        login: Whether sessions have to name the API token first.
    """

    workspace: str
    services: str | None = None
    login: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What the launcher wrote; without a launcher what ``raylens`` itself would take."""
        workspace = environment.get(_WORKSPACE) or environment.get("RAYLENS_WORKSPACE") or "./raylens-data"
        return cls(workspace, environment.get(_SERVICES) or None, environment.get(_LOGIN) == "1")

    def write(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Tell the pages of this process."""
        environment[_WORKSPACE] = self.workspace
        environment[_SERVICES] = self.services or ""
        environment[_LOGIN] = "1" if self.login else ""
