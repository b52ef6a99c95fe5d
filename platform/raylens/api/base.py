"""Two kinds of JSON: what is asked, where an unknown key is an error, and what is answered, where it is not."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Asked(BaseModel):
    """A request. An unknown key is refused: it would be a wish that nobody grants."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """A response. A client ignores keys that it does not know: a newer server may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Answer):
    """Why a request was refused, or failed.

    Attributes:
        error: What is wrong, where; one sentence.
        hint: What to do instead.
        kind: The class of error in :mod:`raylens.errors`.
    """

    error: str
    hint: str = ""
    kind: str = "InputError"
