"""What a run may write down about itself: plain JSON values, and no secret.

Run records lie in the workspace, which is shared and queried with SQL; tokens must not end there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from numbers import Number

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORD = re.compile(r".*(?:key|secret|password|passwd|passphrase|credential|authorization|cookie)s?")
_TOKEN_WORD = re.compile(r".*tokens?")
_SECRET_TEXT = (
    (re.compile(r"(?<=://)[^/@\s]+@"), "***@"),  # user and password in an address
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]{16,}"), r"\1 ***"),
    (re.compile(r"(?i)([?&](?:x-amz-)?(?:token|key|secret|signature|credential|security-token)=)[^&\s]+"), r"\1***"),
    (re.compile(r"\b(?:hf_[A-Za-z0-9]{30,}|(?:sk-|gh[pousr]_)[\w-]{20,})"), "***"),  # Hugging Face, OpenAI, GitHub
    (re.compile(r"\bA[KS]IA[A-Z0-9]{16}\b"), "***"),  # AWS
)

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


def is_secret(name: str, value: object) -> bool:
    """Whether a setting of that name may hold a secret.

    Numbers under ``…token…`` are counts or ids (``n_tokens``), which are kept.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if any(_SECRET_WORD.fullmatch(word) for word in words):
        return True
    return any(_TOKEN_WORD.fullmatch(word) for word in words) and not _is_count(value)


def scrub(text: str) -> str:
    """``text`` with what looks like a credential replaced by ``***``."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def plain(value: object) -> Plain:
    """``value`` as JSON can hold it, settings that may be secret left out; what JSON lacks becomes its ``str``."""
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return plain_settings(value)
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(one) for one in value]
    if isinstance(value, Number) and callable(item := getattr(value, "item", None)):
        return plain(item())  # NumPy's own integers and floats
    return scrub(str(value))


def plain_settings(values: Mapping[str, object]) -> dict[str, Plain]:
    """:func:`plain` of each setting that is no secret."""
    return {str(name): plain(one) for name, one in values.items() if not is_secret(str(name), one)}


def _is_count(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return all(isinstance(one, Number) for one in value)
    return isinstance(value, Number)
