"""How well texts match the words of a query: Okapi BM25 (Robertson and Zaragoza, 2009).

DuckDB's full-text extension is not part of its wheel and cannot be downloaded in closed networks; Arrow counts
matches in 100 000 short texts in tens of milliseconds a word.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_K1: Final = 1.2
_B: Final = 0.75
_BEFORE: Final = r"(?i)(?:^|[^\pL\pN])"  # RE2's \b knows ASCII only


def terms(query: str) -> list[str]:
    """The distinct words of a query in small letters; where a piece has none (``==``), the piece itself."""
    found: list[str] = []
    for piece in query.lower().split():
        found += re.findall(r"\w+", piece) or [piece]
    return list(dict.fromkeys(found))


def bm25(texts: pa.Array, query: str) -> NDArray[np.float64]:
    """Scores of ``texts`` (``[n]`` strings, no nulls): float64 ``[n]``, 0 where no term is in the text.

    Letters match in either case. A term matches words that begin with it, so that ``import`` finds
    ``imports``; one without letters or digits matches wherever it stands.
    """
    n = len(texts)
    scores = np.zeros(n, np.float64)
    if not n:
        return scores
    lengths = _counted(texts, r"[\pL\pN]+")
    norm = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()), 1.0))
    for term in terms(query):
        pattern = _BEFORE + re.escape(term) if re.search(r"\w", term) else re.escape(term)
        counts = _counted(texts, pattern)
        n_with = int((counts > 0).sum())
        rarity = np.log1p((n - n_with + 0.5) / (n_with + 0.5))
        scores += rarity * counts * (_K1 + 1) / (counts + norm)
    return scores


def _counted(texts: pa.Array, pattern: str) -> NDArray[np.float64]:
    options = pc.MatchSubstringOptions(pattern)
    return pc.call_function("count_substring_regex", [texts], options).to_numpy(zero_copy_only=False).astype(np.float64)
