"""A key in memory."""

from __future__ import annotations

from raylens.errors import InputError


class Secret:
    """A key, or none, that is neither shown nor pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str | None) -> None:
        self._text = text

    def __bool__(self) -> bool:
        return self._text is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'***' if self else None})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key is not pickled: the process that needs it reads its own environment")


def checked_key(text: str, variable: str) -> str:
    """``text``, which an environment variable holds as a key.

    Raises:
        InputError: It cannot stand in a header; the error does not repeat it.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InputError(
            f"{variable} holds no key: there are spaces, control or non-ASCII characters in it.",
            hint=f"set {variable} to the key alone, without quotes or 'Bearer'.",
        )
    return text
