"""Chat models: what asks them, whichever they are, and the client of those behind OpenAI-compatible endpoints.

``asker`` is what every chat model can be asked. ``settings`` says which one (never the key), ``client`` asks an
endpoint, ``calls`` are the two things it asks, ``protocol`` and ``echo`` their wire formats, ``pace`` decides when
to send, ``spend`` counts and stops, ``once`` asks no question twice, ``replies`` keeps answers, and ``errors``
tells apart what a caller does about a failure.
"""

from __future__ import annotations

from raylens.llm.asker import Asker
from raylens.llm.client import ChatClient
from raylens.llm.errors import (
    BudgetReached,
    ContextTooLongError,
    EndpointRefusedError,
    EndpointUnavailableError,
    RequestRefusedError,
)
from raylens.llm.replies import ReplyCache
from raylens.llm.settings import ChatSettings, EndpointSettings, OfflineSettings, Prices
from raylens.llm.spend import Usage

__all__ = [
    "Asker",
    "BudgetReached",
    "ChatClient",
    "ChatSettings",
    "ContextTooLongError",
    "EndpointRefusedError",
    "EndpointSettings",
    "EndpointUnavailableError",
    "OfflineSettings",
    "Prices",
    "ReplyCache",
    "RequestRefusedError",
    "Usage",
]
