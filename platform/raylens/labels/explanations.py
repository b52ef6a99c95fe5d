"""A feature's page and its explanations, read from JSON that somebody else wrote.

Field names are those of Neuronpedia's API (``GET /api/feature/{modelId}/{source}/{index}``) and of its export files.
Nothing in them is trusted: a page that is of another feature, or whose explanations are no list of objects with a
description, is refused as a whole, and text comes out in one line of bounded length without control characters.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from raylens.ids import digest
from raylens.labels.names import NeuronpediaId

DESCRIPTION_LIMIT: Final = 2000
"""Characters of a description; a longer one ends in ``…``."""

_WORD_LIMIT: Final = 200
# Weights and sentence embeddings: the SAE and the bundle have them, and they are most of a page's bytes.
_LEFT_OUT: Final = frozenset({"vector", "embedding", "explanations"})
# As people's own labels (raylens.store.labels): of format characters only joiners, so that no text turns round.
_CONTROLS: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS: Final = "\u200c\u200d"


class ShapeError(ValueError):
    """JSON that is not what it should be; the message ends a sentence that begins with who sent it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one explainer says of one feature.

    Attributes:
        description: One line.
        type_name: Neuronpedia's name of the method, as ``oai_token-act-pair``; empty where it does not say.
        model: The language model that wrote it.
        score: Mean of the scores that came with it; None without any.
        explanation_id: 16 hex of type, model and description: the same text from two origins is one explanation.
        payload: As it came, embeddings left out.
    """

    description: str
    type_name: str
    model: str | None
    score: float | None
    explanation_id: str
    payload: Mapping[str, Any]

    @property
    def source_id(self) -> str:
        """What its source calls it: of the workspace's explainers the ``explanation_id`` of the view; may be empty."""
        return _word(self.payload.get("id"))


@dataclass(frozen=True, slots=True)
class Page:
    """What Neuronpedia says of one feature.

    Attributes:
        payload: Its fields without the explanations, and without what the SAE's weights say better.
        explanations: Those that say something.
    """

    payload: Mapping[str, Any]
    explanations: tuple[Explanation, ...]


def parse_json(data: bytes | str) -> Any:
    """The value of JSON text, with nothing in it that could not be written again.

    What no JSON number can be (NaN, infinities, 1e999) becomes null, halves of surrogate pairs U+FFFD.

    Raises:
        ShapeError: It is no JSON, or nested deeper than Python follows.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        if "\\u" not in text and not isinstance(data, str):
            return value  # decoded strictly, so that only an escape could have spelt half a pair
        return json.loads(_whole(json.dumps(value, ensure_ascii=False)))
    except (ValueError, RecursionError) as error:
        raise ShapeError("is no JSON") from error


def as_json(value: object) -> str:
    """Compact JSON of what :func:`parse_json` gave, keys in order."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def read_page(value: Any, source: NeuronpediaId, index: int) -> Page:
    """The page of one feature, as the API gives it.

    Raises:
        ShapeError: It is of another feature, or not of that form.
    """
    if not isinstance(value, dict):
        raise ShapeError("is no JSON object")
    said = (value.get("modelId"), value.get("layer"), str(value.get("index")))
    if said != (source.model, source.source, str(index)):
        raise ShapeError(f"is the page of another feature than {source}/{index}")
    explanations = value.get("explanations")
    if not isinstance(explanations, list):
        raise ShapeError("has no list of explanations")
    found = []
    for one in explanations:
        if not isinstance(one, dict) or not isinstance(one.get("description"), str | None):
            raise ShapeError("has explanations that are no objects with a description")
        if (read := read_explanation(one)) is not None:
            found.append(read)
    return Page(page_payload(value), tuple(found))


def page_payload(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a page that are kept."""
    return {str(name): one for name, one in value.items() if name not in _LEFT_OUT}


def read_explanation(value: Any) -> Explanation | None:
    """One explanation, of a page or a line of an export; None where it says nothing."""
    if not isinstance(value, Mapping) or not isinstance(value.get("description"), str):
        return None
    description = one_line(value["description"], DESCRIPTION_LIMIT)
    if not description:
        return None
    type_name, model = _word(value.get("typeName")), _word(value.get("explanationModelName")) or None
    identity = digest({"type": type_name, "model": model, "description": description})[:16]
    payload = {str(name): one for name, one in value.items() if name not in _LEFT_OUT}
    return Explanation(description, type_name, model, score_of(value), identity, payload)


def score_of(explanation: Mapping[str, Any]) -> float | None:
    """Mean of an explanation's scores: ``scores`` or ``score``, a number, an object with ``value``, or a list of them.

    Scorers differ, and a mean does not favour an explanation for having been scored more often. None without any
    finite number.
    """
    values = [*_numbers(explanation.get("scores")), *_numbers(explanation.get("score"))]
    return math.fsum(values) / len(values) if values else None


def _numbers(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        return _numbers(value["value"]) if "value" in value else [one for it in value.values() for one in _plain(it)]
    if isinstance(value, list | tuple):
        return [one for it in value for one in (_numbers(it) if isinstance(it, Mapping) else _plain(it))]
    return _plain(value)


def _plain(value: Any) -> list[float]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return []
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return []
    return [number] if math.isfinite(number) and abs(number) < 1e9 else []


def one_line(text: str, limit: int) -> str:
    """``text`` in one line of at most ``limit`` characters, without what would steer a terminal."""
    printable = "".join(
        " " if unicodedata.category(one) in _CONTROLS and one not in _JOINERS else one for one in text[: 4 * limit]
    )
    line = " ".join(printable.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _word(value: Any) -> str:
    return one_line(value, _WORD_LIMIT) if isinstance(value, str) else ""


def _whole(text: str) -> str:
    """Surrogate pairs as the characters they stand for, and halves of one as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
