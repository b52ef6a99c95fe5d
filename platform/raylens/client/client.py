"""The client: a group of methods for each noun of the API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from raylens.api.system import Readiness
from raylens.client.audits import Audits, Runs
from raylens.client.features import Features
from raylens.client.http import DEFAULT_URL, URL_VARIABLE, Http
from raylens.client.sae import Sae
from raylens.client.traces import Traces
from raylens.client.workbench import Workbench
from raylens.errors import InputError, RaylensError
from raylens.net.api_token import find_token


class Client:
    """Asks the services; a context manager.

    Every method raises what the services raise, of the same classes (:mod:`raylens.errors`), and RunError where they
    cannot be reached.

    Args:
        url: Where they are.
        token: What they want to see; none for what needs none.
        timeout_s: For one answer.
        transport: Of httpx, for tests.

    Attributes:
        sae: Models, features of spans and of texts.
        traces: Spans and traces.
        features: What is known of features.
        audits: Fine-tunes against their references.
        runs: What is under way, and what was.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout_s: float = 300.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = Http(url, token, timeout_s, transport)
        self.sae = Sae(self._http)
        self.traces = Traces(self._http)
        self.features = Features(self._http)
        self.audits = Audits(self._http)
        self.runs = Runs(self._http)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, *, timeout_s: float = 300.0) -> Self:
        """The services at ``RAYLENS_URL`` (by default this machine's), with the token of this user.

        Raises:
            InputError: The token cannot be used.
        """
        url = environment.get(URL_VARIABLE, "").strip() or DEFAULT_URL
        return cls(url, find_token(environment), timeout_s=timeout_s)

    def workbench(self, session: str | None = None) -> Workbench:
        """A session of the live workbench: the one of that name, or a new one."""
        return Workbench(self._http, session)

    @property
    def url(self) -> str:
        """Where the services are."""
        return self._http.url

    def readiness(self) -> Readiness | None:
        """Whether every part of the services answers, and what each says; None where they cannot be reached.

        Raises:
            InputError: The token is wrong.
        """
        try:
            return self._http.get("/readyz", Readiness, also=frozenset({503}))
        except InputError:
            raise
        except RaylensError:
            return None

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
