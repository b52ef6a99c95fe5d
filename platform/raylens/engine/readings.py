"""What one forward pass over a prompt and its answer says, kept in arrays: read once, compared with many candidates.

Of a reference model's next-token distributions only the likeliest tokens are kept, so that a prompt takes kilobytes
rather than a vocabulary a position. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from raylens.audit.pooling import PromptCodes
from raylens.errors import DamagedFileError

T = TypeVar("T")

_VERSION: Final = 1
_NONE: Final = -1


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt, and what was written after it.

    Attributes:
        ids: All of it, what the tokenizer puts before a text included.
        answer_start: Where the answer begins, the text's length for an empty one; None where nothing was asked.
    """

    ids: tuple[int, ...]
    answer_start: int | None = None

    def __post_init__(self) -> None:
        """Refuse an answer outside the text."""
        if self.answer_start is not None and not 0 <= self.answer_start <= len(self.ids):
            raise ValueError(f"an answer at {self.answer_start} of {len(self.ids)} tokens")

    @property
    def n_prompt(self) -> int:
        """Positions of the prompt."""
        return len(self.ids) if self.answer_start is None else self.answer_start


@dataclass(frozen=True, slots=True, eq=False)
class NextTokens:
    """The likeliest next tokens after each position of a prompt, and what is left for all others.

    Attributes:
        ids: int32 ``[positions, kept]``, the likeliest first.
        log_probs: float32 ``[positions, kept]``, nats.
        rest: float32 ``[positions]``: log-probability of all other tokens together; −inf where there are none.
    """

    ids: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    rest: NDArray[np.float32]

    def kl_to(self, log_probs: NDArray[np.float32], rest: NDArray[np.float32]) -> NDArray[np.float64]:
        """KL(self ‖ other) in nats of the partition {each kept token, all others}: float64 ``[positions]``.

        Merging outcomes never raises a divergence (the data-processing inequality), so this is a lower bound of the
        KL of the whole distributions, and equal to it where every token is kept. What it leaves out is how the two
        differ *among* the tokens that the reference finds least likely.

        Args:
            log_probs: The other's log-probabilities of the same tokens, ``[positions, kept]``.
            rest: Its log-probability of all others, ``[positions]``.
        """
        p = np.concatenate([self.log_probs, self.rest[:, None]], axis=1).astype(np.float64)
        q = np.concatenate([log_probs, rest[:, None]], axis=1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
        return np.maximum(terms.sum(axis=1), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class PromptReading:
    """What was read of one prompt.

    Attributes:
        codes: Of the prompt and its answer; None without an SAE.
        next_tokens: Of a reference, after each position of the prompt.
        kl: Of a candidate: mean of :meth:`NextTokens.kl_to` over the prompt's positions, nats a token; 0 of an
            empty prompt.
    """

    codes: PromptCodes | None
    next_tokens: NextTokens | None = None
    kl: float | None = None


def to_bytes(readings: Sequence[PromptReading]) -> bytes:
    """Readings as one safetensors blob; the same readings give the same bytes.

    Raises:
        ValueError: Some have codes, next tokens or a divergence, and others not.
    """
    arrays: dict[str, NDArray[Any]] = {"version": np.array([_VERSION, len(readings)], np.int64)}
    codes = _all_or_none("codes", [reading.codes for reading in readings])
    if codes is not None:
        answers = [code.answer or (_NONE, _NONE) for code in codes]
        arrays |= {
            "codes.starts": _starts([len(code.position) for code in codes]),
            "codes.position": _joined([code.position for code in codes], np.int32),
            "codes.feature": _joined([code.feature for code in codes], np.int32),
            "codes.activation": _joined([code.activation for code in codes], np.float32),
            "codes.n_positions": np.array([code.n_positions for code in codes], np.int64),
            "codes.answer": np.array(answers, np.int64).reshape(-1, 2),
        }
    tops = _all_or_none("next tokens", [reading.next_tokens for reading in readings])
    if tops is not None:
        arrays |= {
            "next.starts": _starts([len(top.ids) for top in tops]),
            "next.ids": np.concatenate([top.ids for top in tops]),
            "next.log_probs": np.concatenate([top.log_probs for top in tops]),
            "next.rest": np.concatenate([top.rest for top in tops]),
        }
    kls = _all_or_none("a divergence", [reading.kl for reading in readings])
    if kls is not None:
        arrays["kl"] = np.array(kls, np.float64)
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def from_bytes(blob: bytes) -> list[PromptReading]:
    """What :func:`to_bytes` wrote.

    Raises:
        DamagedFileError: They are not such bytes, or truncated.
    """
    try:
        arrays = load(blob)
        version, n = arrays["version"].tolist()
        if version != _VERSION:
            raise ValueError(f"version {version}")
        codes = _codes(arrays, n) if "codes.starts" in arrays else [None] * n
        tops = _tops(arrays, n) if "next.starts" in arrays else [None] * n
        kls = arrays["kl"].tolist() if "kl" in arrays else [None] * n
        return [PromptReading(*parts) for parts in zip(codes, tops, kls, strict=True)]
    except (SafetensorError, KeyError, ValueError, IndexError, TypeError) as error:
        why = " ".join(str(error).split())[:120]
        raise DamagedFileError(
            f"stored readings of prompts cannot be read ({type(error).__name__}: {why}).",
            hint="remove them; the same audit makes them again.",
        ) from error


def _codes(arrays: dict[str, NDArray[Any]], n: int) -> list[PromptCodes]:
    starts = arrays["codes.starts"].tolist()
    found = []
    for at in range(n):
        part = slice(starts[at], starts[at + 1])
        low, high = arrays["codes.answer"][at].tolist()
        found.append(
            PromptCodes(
                position=arrays["codes.position"][part],
                feature=arrays["codes.feature"][part],
                activation=arrays["codes.activation"][part],
                n_positions=int(arrays["codes.n_positions"][at]),
                answer=None if low == _NONE else (low, high),
            )
        )
    return found


def _tops(arrays: dict[str, NDArray[Any]], n: int) -> list[NextTokens]:
    starts = arrays["next.starts"].tolist()
    parts = [slice(starts[at], starts[at + 1]) for at in range(n)]
    return [NextTokens(*(arrays[f"next.{name}"][part] for name in ("ids", "log_probs", "rest"))) for part in parts]


def _all_or_none(what: str, values: list[T | None]) -> list[T] | None:
    known = [value for value in values if value is not None]
    if known and len(known) < len(values):
        raise ValueError(f"some readings have {what} and others not")
    return known or None


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)
