"""A model of one's own (provider ``offline``): asked where it is served already, else run by actors of the job.

Services of the same workspace (``raylens serve up --explainer-model``) hold the model in memory, so it is not loaded
a second time. Where there are none, or they serve another model, the job's own actors stay the better way: there is
one on every GPU of the job's cluster, they end with the job, and texts that are scored after one context share what
the model keeps of it.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from raylens.api.openai_answers import Models
from raylens.chat import Reply, Request
from raylens.engine.models import locate
from raylens.errors import RaylensError
from raylens.llm.asker import Asker
from raylens.llm.client import ChatClient
from raylens.llm.replies import ReplyCache
from raylens.llm.settings import EndpointSettings, OfflineSettings
from raylens.llm.spend import Usage
from raylens.net.api_token import find_token
from raylens.store.standing import Standing
from raylens_jobs.offline import OfflineClient

_log = logging.getLogger(__name__)

_PROBE_S: Final = 5.0
_ANSWER_S: Final = 900.0
"""Many questions wait at the services; nothing is lost by waiting with them."""


class OwnModelClient:
    """An :class:`raylens.llm.asker.Asker` that decides when it is opened who answers.

    Args:
        settings: Which model, and how it would be loaded.
        standing: Services that are up.
        cache: Where answers are kept.
    """

    def __init__(self, settings: OfflineSettings, standing: Standing, *, cache: ReplyCache | None = None) -> None:
        self.settings = settings
        self._standing = standing
        self._cache = cache
        self._asker: Asker | None = None

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an OwnModelClient is not pickled: send its settings, and open one where it is used")

    async def __aenter__(self) -> Self:
        """Find out whether the services have this model.

        Raises:
            InputError: The model cannot be found, or not run; see :class:`raylens_jobs.offline.OfflineClient`.
        """
        endpoint = await asyncio.to_thread(served_endpoint, self.settings, self._standing)
        own = ChatClient(endpoint, cache=self._cache) if endpoint else OfflineClient(self.settings, cache=self._cache)
        self._asker = await own.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is still under way."""
        await self._opened().__aexit__(kind, error, trace)

    async def ask(self, request: Request) -> Reply:
        """See :meth:`raylens.llm.asker.Asker.ask`."""
        return await self._opened().ask(request)

    async def forget(self, request: Request) -> None:
        """See :meth:`raylens.llm.asker.Asker.forget`."""
        await self._opened().forget(request)

    async def losses(self, context: str, text: str) -> NDArray[np.float64]:
        """See :meth:`raylens.llm.asker.Asker.losses`."""
        return await self._opened().losses(context, text)

    @property
    def usage(self) -> Usage:
        """Questions and tokens so far."""
        return Usage() if self._asker is None else self._asker.usage

    def _opened(self) -> Asker:
        if self._asker is None:
            raise RuntimeError("open the client first: async with OwnModelClient(…) as client")
        return self._asker


def served_endpoint(settings: OfflineSettings, standing: Standing) -> EndpointSettings | None:
    """How to ask the services for this very model: the same files, in the same precision; None where they lack it.

    Raises:
        UnknownNameError, InputError, HubUnreachableError: There is no such model.
    """
    files = locate(settings.model, revision=settings.revision, weights=False)
    base_url = f"{standing.url}/v1"
    for model in _served(base_url).data:
        same = model.revision == files.revision and model.quantization == settings.quantization
        if same and settings.dtype in ("auto", model.dtype):
            _log.info("%s is asked at %s, which serves it", settings.model, base_url)
            values: dict[str, Any] = {"max_model_len": settings.max_model_len, "timeout_s": _ANSWER_S}
            values |= {"max_concurrency": settings.max_concurrency}
            return EndpointSettings.of({"provider": "raylens", "base_url": base_url, "model": model.id, **values})
    _log.info("%s is not served at %s: it is loaded for this run", settings.model, base_url)
    return None


def _served(base_url: str) -> Models:
    """What can be asked there; nothing where nobody answers."""
    try:
        headers = {"Authorization": f"Bearer {find_token()}"}
        answer = httpx.get(f"{base_url}/models", headers=headers, timeout=_PROBE_S)
        return Models.model_validate_json(answer.content) if answer.status_code == 200 else Models(data=())
    except (httpx.HTTPError, ValidationError, RaylensError) as error:
        _log.info("%s does not answer: %s", base_url, error)
        return Models(data=())
