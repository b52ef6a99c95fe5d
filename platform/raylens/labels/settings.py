"""Where labels are asked for, and how much: address, mode and limits.

The key is never part of the settings, so that they can be stored, logged and shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator

from raylens.config import Config
from raylens.errors import InputError
from raylens.net.address import is_local, is_plain, may_send_key
from raylens.net.secret import Secret, checked_key

Mode = Literal["cache_only", "remote_fallback"]
MODES: Final[tuple[Mode, ...]] = ("cache_only", "remote_fallback")

BASE_URL_VARIABLE: Final = "NEURONPEDIA_BASE_URL"
MODE_VARIABLE: Final = "NEURONPEDIA_EXPLANATIONS_MODE"
ENABLED_VARIABLE: Final = "RAYLENS_NEURONPEDIA_ENABLED"
KEY_VARIABLE: Final = "NEURONPEDIA_API_KEY"
PUBLIC_URL: Final = "https://www.neuronpedia.org/api"

_YES: Final = frozenset({"true", "1", "yes", "on"})
_NO: Final = frozenset({"false", "0", "no", "off", ""})
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LabelSettings(Config):
    """How labels are looked up."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = PUBLIC_URL
    """Up to and with ``/api``."""
    mode: Mode = "cache_only"
    """``cache_only`` asks nobody, whatever is missing; ``remote_fallback`` asks for what is missing and keeps it."""
    timeout_s: _Positive = 3.0
    """For one whole answer."""
    lru_size: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    """Features whose explanations stay in memory."""
    max_concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests under way at a time."""
    max_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    """Of one answer, unpacked; a larger one is refused."""
    max_wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Asked to wait longer than this after too many requests, a run asks no more."""
    max_waits: Annotated[int, Field(ge=0, le=1000)] = 3
    """Times in a row that a run waits as it is asked to, before it asks no more."""
    remembered_s: _Positive = 60.0
    """How long a feature that no answer came for is not asked for again."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        problem = "it must be http://HOST/api or https://HOST/api, without user, password, '?' or '#'"
        if not is_plain(url):
            raise ValueError(problem)
        plain = url.rstrip("/")
        return plain if plain.endswith("/api") else f"{plain}/api"

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, mode: Mode | None = None, base_url: str | None = None
    ) -> Self:
        """Address and mode from ``NEURONPEDIA_BASE_URL`` and ``NEURONPEDIA_EXPLANATIONS_MODE``, unless they are given.

        Raises:
            InputError: One of them has no possible value.
        """
        values: dict[str, object] = {}
        if address := base_url or environment.get(BASE_URL_VARIABLE, "").strip():
            values["base_url"] = address
        if chosen := mode or environment.get(MODE_VARIABLE, "").strip():
            if chosen not in MODES:
                raise InputError(f"{MODE_VARIABLE} is {chosen!r}.", hint=f"set it to {' or '.join(MODES)}.")
            values["mode"] = chosen
        return cls.of(values)

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine or on its own network, by its name alone."""
        return is_local(self.base_url)

    @property
    def may_send_key(self) -> bool:
        """Only where nobody on the way can read it: over https, or on the own network."""
        return may_send_key(self.base_url)


def is_enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether services may ask Neuronpedia for labels (A0.13): as ``RAYLENS_NEURONPEDIA_ENABLED`` says; else not.

    Raises:
        InputError: The variable is neither a yes nor a no.
    """
    said = environment.get(ENABLED_VARIABLE, "").strip().lower()
    if said in _YES or said in _NO:
        return said in _YES
    raise InputError(f"{ENABLED_VARIABLE} is {said!r}.", hint="set it to true or false.")


class ApiKey(Secret):
    """The key for ``x-api-key``, neither shown nor pickled."""

    __slots__ = ()

    @classmethod
    def from_environment(cls, settings: LabelSettings, environment: Mapping[str, str] = os.environ) -> Self:
        """The key of ``NEURONPEDIA_API_KEY``; none where it is not set, or others could read it on the way.

        Raises:
            InputError: The variable holds no possible key.
        """
        text = environment.get(KEY_VARIABLE, "").strip()
        if not text or not settings.may_send_key:
            return cls(None)
        return cls(checked_key(text, KEY_VARIABLE))

    def headers(self) -> dict[str, str]:
        """What authorises a request."""
        return {"x-api-key": self._text} if self._text else {}
