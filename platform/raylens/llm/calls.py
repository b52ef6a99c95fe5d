"""The two things an endpoint is asked, behind one face: limits, retries, budget and cache are the same for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from raylens.chat import Reply, Request
from raylens.llm.echo import losses_body, read_losses
from raylens.llm.protocol import Dialect, Failure, adapted, body_of, read_answer
from raylens.llm.replies import losses_key, request_key
from raylens.llm.settings import EndpointSettings
from raylens.llm.spend import worst_case_usd


class Call(Protocol):
    """One POST, and how to read what comes back."""

    @property
    def path(self) -> str:
        """Below the base URL."""
        ...

    def key(self, settings: EndpointSettings) -> str:
        """What its answer is kept under."""
        ...

    def body(self, settings: EndpointSettings, dialect: Dialect) -> dict[str, Any]:
        """The JSON to send."""
        ...

    def read(self, status: int, content: bytes, settings: EndpointSettings) -> Reply | Failure:
        """What came back."""
        ...

    def adapted(self, dialect: Dialect, failure: Failure) -> Dialect | None:
        """How to send it instead, where ``failure`` says that the endpoint does not take it like this."""
        ...

    def worst_case_usd(self, settings: EndpointSettings) -> float:
        """The most it can cost."""
        ...

    def is_worth_keeping(self, reply: Reply) -> bool:
        """Whether a rerun should get this answer again."""
        ...


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A question, and its answer in words."""

    request: Request

    @property
    def path(self) -> str:
        return "/chat/completions"

    def key(self, settings: EndpointSettings) -> str:
        return request_key(settings, self.request)

    def body(self, settings: EndpointSettings, dialect: Dialect) -> dict[str, Any]:
        return body_of(self.request, settings, dialect)

    def read(self, status: int, content: bytes, settings: EndpointSettings) -> Reply | Failure:
        return read_answer(status, content, self.request, settings)

    def adapted(self, dialect: Dialect, failure: Failure) -> Dialect | None:
        return adapted(dialect, failure, self.request)

    def worst_case_usd(self, settings: EndpointSettings) -> float:
        return worst_case_usd([message.content for message in self.request.messages], self.request.max_tokens, settings)

    def is_worth_keeping(self, reply: Reply) -> bool:
        return bool(reply.text)


@dataclass(frozen=True, slots=True)
class LossesCall:
    """A text, and how probable each of its tokens was after a context: a reply without words, a row a token."""

    context: str
    text: str

    @property
    def path(self) -> str:
        return "/completions"

    def key(self, settings: EndpointSettings) -> str:
        return losses_key(settings, self.context, self.text)

    def body(self, settings: EndpointSettings, dialect: Dialect) -> dict[str, Any]:
        return losses_body(self.context, self.text, settings)

    def read(self, status: int, content: bytes, settings: EndpointSettings) -> Reply | Failure:
        return read_losses(status, content, self.context, self.text, settings)

    def adapted(self, dialect: Dialect, failure: Failure) -> Dialect | None:
        return None

    def worst_case_usd(self, settings: EndpointSettings) -> float:
        return worst_case_usd([self.context, self.text], 1, settings)

    def is_worth_keeping(self, reply: Reply) -> bool:
        return reply.logprobs is not None
