"""Requests to the services, and their refusals as the errors they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from raylens import errors
from raylens.errors import InputError, OverloadedError, RaylensError, RunError

URL_VARIABLE: Final = "RAYLENS_URL"
DEFAULT_URL: Final = "http://127.0.0.1:8000"

T = TypeVar("T")
Params = Mapping[str, object]
Headers = Mapping[str, str] | None


class Http:
    """A connection to the services.

    Args:
        url: Where they are.
        token: Sent with every request; never shown.
        timeout_s: For one answer.
        transport: Of httpx, for tests.
    """

    def __init__(
        self, url: str, token: str | None, timeout_s: float = 300.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            # The services are on this machine or named: no proxy of the environment stands between.
            trust_env=False,
            transport=transport,
        )

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def get(
        self,
        path: str,
        answer: type[T] | TypeAdapter[T],
        params: Params | None = None,
        *,
        also: frozenset[int] = frozenset(),
        headers: Headers = None,
    ) -> T:
        """One answer; with a status of ``also`` it is one too."""
        return self._asked("GET", path, answer, also, params=params, headers=headers)

    def post(
        self,
        path: str,
        answer: type[T] | TypeAdapter[T],
        body: BaseModel | Mapping[str, Any],
        headers: Headers = None,
    ) -> T:
        """One answer to a body."""
        said = body.model_dump(mode="json") if isinstance(body, BaseModel) else dict(body)
        return self._asked("POST", path, answer, json=said, headers=headers)

    def put(self, path: str, answer: type[T] | TypeAdapter[T], body: Mapping[str, Any], headers: Headers = None) -> T:
        """One answer to what something is to be from now on."""
        return self._asked("PUT", path, answer, json=dict(body), headers=headers)

    def delete(
        self, path: str, answer: type[T] | TypeAdapter[T], params: Params | None = None, headers: Headers = None
    ) -> T:
        """Delete, and what is said of it."""
        return self._asked("DELETE", path, answer, params=params, headers=headers)

    def drop(self, path: str, headers: Headers = None) -> None:
        """Delete what nothing is said of."""
        self._sent("DELETE", path, headers=headers)

    def text(self, path: str, params: Params | None = None) -> str:
        """A file, as text."""
        return self._sent("GET", path, params=params).text

    def lines(self, path: str, params: Params | None = None) -> Iterator[str]:
        """Lines as they come."""
        try:
            with self._client.stream("GET", path, params=_plain(params)) as response:
                if response.is_error:
                    response.read()
                    raise refusal(response)
                yield from response.iter_lines()
        except httpx.HTTPError as error:
            raise self._unreached(error) from error

    def _asked(
        self,
        method: str,
        path: str,
        answer: type[T] | TypeAdapter[T],
        also: frozenset[int] = frozenset(),
        **sent: Any,
    ) -> T:
        response = self._sent(method, path, also, **sent)
        adapter = answer if isinstance(answer, TypeAdapter) else TypeAdapter(answer)
        try:
            return adapter.validate_json(response.content)
        except ValidationError as error:
            raise RunError(
                f"{self.url}{path} answered what this version does not understand.",
                hint="bring client and services to the same version of RayLens.",
            ) from error

    def _sent(self, method: str, path: str, also: frozenset[int] = frozenset(), **sent: Any) -> httpx.Response:
        if "params" in sent:
            sent["params"] = _plain(sent["params"])
        try:
            response = self._client.request(method, path, **sent)
            self._client.cookies.clear()  # a session is named with each request: several may share this connection
        except httpx.HTTPError as error:
            raise self._unreached(error) from error
        if response.is_error and response.status_code not in also:
            raise refusal(response)
        return response

    def _unreached(self, error: httpx.HTTPError) -> RaylensError:
        slow = isinstance(error, httpx.TimeoutException)
        return RunError(
            f"the services at {self.url} {'took too long to answer' if slow else 'cannot be reached'}.",
            hint=f"raylens serve status says whether they are up; {URL_VARIABLE} names another address.",
        )


def refusal(response: httpx.Response) -> RaylensError:
    """The error that a response tells of, of the class that the services raised."""
    try:
        said = response.json()
    except ValueError:
        said = {}
    if not isinstance(said, dict) or not isinstance(said.get("error"), str):
        hint = "is that the address of RayLens's services?"
        return RunError(f"{response.request.url} answered with status {response.status_code}.", hint=hint)
    kind = getattr(errors, str(said.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, RaylensError)):
        kind = OverloadedError if response.status_code == 503 else InputError
    return kind(said["error"], hint=str(said.get("hint") or "see the log of the services."))


def _plain(params: Params | None) -> dict[str, Any]:
    """Query parameters without those that are not set."""
    return {name: value for name, value in (params or {}).items() if value is not None}
