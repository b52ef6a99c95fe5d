"""Which chat model to ask and how: an endpoint (everything except the key), or a model of one's own.

A key is never part of the settings, so that they can be stored, logged, sent to Ray workers and
printed in errors. It is read from the environment of the process that opens the client.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from raylens.config import Config, DType, Quantization
from raylens.errors import InputError
from raylens.net import api_token
from raylens.net.address import is_local, is_plain, may_send_key
from raylens.net.secret import Secret, checked_key
from raylens.store.redact import is_secret, scrub

Provider = Literal["openrouter", "openai", "raylens"]

BASE_URLS: Final[Mapping[Provider, str]] = {
    "openrouter": "https://openrouter.ai/api/v1",
    "openai": "https://api.openai.com/v1",
    "raylens": "http://127.0.0.1:8000/v1",
}
KEY_VARIABLES: Final[Mapping[Provider, str]] = {
    "openrouter": "OPENROUTER_API_KEY",
    "openai": "OPENAI_API_KEY",
    "raylens": api_token.VARIABLE,
}

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Prices(Config):
    """What the endpoint charges, in USD for a million tokens."""

    prompt_usd_per_million: _Amount
    completion_usd_per_million: _Amount

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD of one call."""
        whole = prompt_tokens * self.prompt_usd_per_million + completion_tokens * self.completion_usd_per_million
        return whole / 1_000_000


class EndpointSettings(Config):
    """One model behind one OpenAI-compatible chat endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider: Provider = "openai"
    """``openai`` is any endpoint that speaks its protocol: vLLM, Ollama, TGI, LM Studio …; ``raylens`` are services of
    one's own (``raylens serve up``)."""
    base_url: str = ""
    """Up to and with ``/v1``; where there is none, the provider's own."""
    model: Annotated[str, Field(min_length=1)]
    max_concurrency: Annotated[int, Field(ge=1, le=4096)] = 32
    """Calls under way at a time."""
    requests_per_minute: _Positive | None = None
    """Evenly spaced, retries included."""
    timeout_s: _Positive = 120.0
    """For one whole answer."""
    max_attempts: Annotated[int, Field(ge=1, le=50)] = 5
    max_wait_s: _Positive = 120.0
    """A ``Retry-After`` beyond this is not waited for: the call fails at once."""
    prices: Prices | None = None
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Tokens of prompt and answer together; for those who write prompts, the client does not count."""
    budget_usd: _Amount | None = None
    """Spent at most by one client, which is one open ``ChatClient`` in one process."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Requests sent at most by one client, retries included; 0 answers from the reply cache alone."""

    @model_validator(mode="before")
    @classmethod
    def _by_provider(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        provider = values.get("provider", "openai")
        # Raised past pydantic, whose own error would carry the values, the key among them.
        for name, value in values.items():
            if name not in cls.model_fields and is_secret(str(name), value):
                raise InputError(
                    f"an endpoint's settings hold no secret, and {scrub(str(name))} looks like one.",
                    hint=f"set {KEY_VARIABLES.get(provider, KEY_VARIABLES['openai'])} in the environment instead.",
                )
        if values.get("base_url") or provider not in BASE_URLS:
            return values
        return {**values, "base_url": BASE_URLS[provider]}

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        problem = "it must be http://HOST/PATH or https://HOST/PATH, without user, password, '?' or '#'"
        if not is_plain(url):
            raise ValueError(problem)
        return url.rstrip("/").removesuffix("/chat/completions")

    @model_validator(mode="after")
    def _budget_can_be_kept(self) -> Self:
        if self.budget_usd is not None and self.prices is None:
            raise InputError(
                f"a budget of ${self.budget_usd:g} cannot be kept without the prices of {self.model}.",
                hint="give prices in USD for a million prompt and completion tokens (0 where it is free), "
                "or limit the number of calls instead.",
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine or on its own network, by its name alone."""
        return is_local(self.base_url)

    @property
    def key_variable(self) -> str:
        """The environment variable that the key is read from."""
        return KEY_VARIABLES[self.provider]

    @property
    def may_send_key(self) -> bool:
        """Only where nobody on the way can read it: over https, or on the own network."""
        return may_send_key(self.base_url)


class OfflineSettings(Config):
    """One model that runs on this Ray cluster, with nothing asked of anybody else."""

    model: Annotated[str, Field(min_length=1)]
    """``raylens/pico``, a local folder that every node sees, or a hub id; its weights are safetensors."""
    provider: Literal["offline"] = "offline"
    revision: str | None = None
    dtype: DType = "auto"
    quantization: Quantization | None = None
    device: str = "auto"
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Tokens of prompt and answer together; less where the model takes less."""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Questions answered together by one copy of the model."""
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs used at most; by default all of the cluster."""
    gpus_per_copy: Annotated[int, Field(ge=1)] = 1
    """GPUs of one node that a copy's layers are spread over; fewer where there are fewer."""

    @property
    def max_concurrency(self) -> int:
        """Questions that are worth asking at a time."""
        return 4 * self.max_batch


ChatSettings = EndpointSettings | OfflineSettings
"""Both have ``model``, ``provider``, ``max_model_len`` and ``max_concurrency``."""


class Key(Secret):
    """An API key that is neither shown nor pickled."""

    __slots__ = ()

    @classmethod
    def from_environment(cls, settings: EndpointSettings) -> Key:
        """The key for ``settings``, or none where the endpoint is local and none is set.

        Raises:
            InputError: The variable is not set though a remote endpoint needs it, or holds no possible key.
        """
        variable = settings.key_variable
        if not settings.may_send_key:
            return cls(None)
        own = settings.provider == "raylens"  # its token may also be in a file
        text = (api_token.find_token() or "") if own else os.environ.get(variable, "").strip()
        if not text and not settings.is_local:
            raise InputError(
                f"{settings.base_url} needs a key, and {variable} is not set.",
                hint=f"set {variable} in the environment of every process that calls it "
                "(to any word, if that endpoint asks for none).",
            )
        return cls(checked_key(text, variable) or None)

    def headers(self) -> dict[str, str]:
        """What authorises a request."""
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}

    def hidden(self, text: str) -> str:
        """``text`` without this key, for endpoints that repeat what they were sent.

        Words like ``none`` or ``EMPTY``, set for endpoints that want no key, are no secret.
        """
        return text.replace(self._text, "***") if self._text and len(self._text) >= 16 else text
