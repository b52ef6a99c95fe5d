"""Language models behind OpenAI-compatible endpoints: one async client, with limits, a budget and a reply cache.

``settings`` says which endpoint and how much of it (never the key), ``client`` asks, ``protocol`` is
the wire format, ``pace`` decides when to send, ``spend`` counts and stops, ``replies`` keeps answers,
and ``errors`` tells apart what a caller does about a failure.
"""

from __future__ import annotations

from raylens.llm.client import ChatClient
from raylens.llm.errors import (
    BudgetReached,
    ContextTooLongError,
    EndpointRefusedError,
    EndpointUnavailableError,
    RequestRefusedError,
)
from raylens.llm.replies import ReplyCache
from raylens.llm.settings import EndpointSettings, Prices
from raylens.llm.spend import Usage

__all__ = [
    "BudgetReached",
    "ChatClient",
    "ContextTooLongError",
    "EndpointRefusedError",
    "EndpointSettings",
    "EndpointUnavailableError",
    "Prices",
    "ReplyCache",
    "RequestRefusedError",
    "Usage",
]
