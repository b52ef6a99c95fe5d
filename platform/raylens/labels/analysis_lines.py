"""Lines of a feature analysis in the shapes of Neuronpedia's export files, and what they say, checked.

Keys are Neuronpedia's; what it has no key for (how many tokens a feature fires on, token ids, documents, how an
explanation was made) stands under ``raylens``. What is read back is taken from Neuronpedia's keys where these say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from raylens.labels import page_shapes
from raylens.labels.exports import index_of
from raylens.labels.names import NeuronpediaId
from raylens.schema import HISTOGRAM_BINS, histogram_edges
from raylens.store.examples import Example

_OWN_OF_EXPLANATIONS: Final = (
    "pass",
    "run_id",
    "explainer",
    "prompt_hash",
    "rule",
    "status",
    "error",
    "n_examples",
    "trimmed",
)
_EDGES: Final = histogram_edges()[:-1]

Row = Mapping[str, Any]


def feature_line(
    source: NeuronpediaId, hook: str, stats: Row, logits: Sequence[Row], near: Sequence[Row], scores: Sequence[Row]
) -> dict[str, Any]:
    """A feature's page without explanations and texts.

    Args:
        source: Model and source.
        hook: Where the SAE reads.
        stats: Row of ``schema.FEATURE_STATS``.
        logits: Of ``schema.LOGITS``, in order of rank.
        near: Of ``schema.NEIGHBOURS``, likewise.
        scores: Of ``schema.SCORES``, with their pass.
    """
    ids = {sign: [row["token_id"] for row in logits if row["sign"] == sign] for sign in ("top", "bottom")}
    own = {key: stats[key] for key in ("n_active", "n_windows", "mean_activation")}
    return {
        **_about(source, stats["feature"]),
        "hookName": hook,
        "maxActApprox": stats["max_activation"] or 0.0,
        "frac_nonzero": stats["density"],
        **page_shapes.histogram(stats["histogram"]),
        **page_shapes.logits(logits),
        **page_shapes.neighbours(near),
        "vector": [],
        "raylens": {**own, "logit_ids": ids, "scores": [_without(row, "feature") for row in scores]},
    }


def text_line(source: NeuronpediaId, feature: int, example: Example, window: Row, document: Row) -> dict[str, Any]:
    """A window that a feature fires in.

    Args:
        source: Model and source.
        feature: Which.
        example: The window as people read it.
        window: Row of ``schema.WINDOWS``.
        document: Row of ``schema.DOCUMENTS``.
    """
    lead = window["text"][: window["token_offsets"][0]]
    own = {"start": window["start"], "token_ids": window["token_ids"], "lead": lead, "document": document}
    return {**_about(source, feature), **page_shapes.activation(example), "raylens": own}


def explanation_line(source: NeuronpediaId, row: Row, scores: Sequence[Row]) -> dict[str, Any]:
    """What an explainer says, with its figures; ``scores`` are those of the feature."""
    (said,) = page_shapes.explanations([row], scores)
    return {**_about(source, row["feature"]), **said, "raylens": {key: row[key] for key in _OWN_OF_EXPLANATIONS}}


def _about(source: NeuronpediaId, feature: int) -> dict[str, Any]:
    return {"modelId": source.model, "layer": source.source, "index": str(feature)}


def _without(row: Row, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


class _Said(BaseModel):
    """Of these types; keys that Neuronpedia has besides are none of our business."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Own(BaseModel):
    """Under ``raylens``: these keys alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Int32 = Annotated[int, Field(ge=0, lt=2**31)]
Place = Annotated[int, Field(ge=0, lt=2**15)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=1_000_000)]
Index = Annotated[str, AfterValidator(lambda text: str(index_of(text)))]


class _Logits(_Own):
    top: list[Int32]
    bottom: list[Int32]


class _Score(_Own):
    number: Place = Field(alias="pass")
    explanation_id: Text
    run_id: Text | None
    explainer: Text
    scorer: Text
    judge: Text | None
    control: Text | None
    metric: Text
    value: Finite | None
    ci_low: Finite | None
    ci_high: Finite | None
    n: Int32 | None
    n_failed: Int32 | None


class _OwnOfFeature(_Own):
    n_active: Annotated[int, Field(ge=0, lt=2**62)]
    n_windows: Annotated[int, Field(ge=0, lt=2**62)]
    mean_activation: Finite | None
    logit_ids: _Logits
    scores: list[_Score]


class _Line(_Said):
    modelId: str  # noqa: N815 - Neuronpedia's names
    layer: str
    index: Index

    @property
    def feature(self) -> int:
        """Which."""
        return int(self.index)


class FeatureLine(_Line):
    """A line of ``features``."""

    maxActApprox: Finite  # noqa: N815
    frac_nonzero: Finite
    freq_hist_data_bar_heights: Annotated[list[Annotated[int, Field(ge=0, lt=2**62)]], Field(max_length=HISTOGRAM_BINS)]
    freq_hist_data_bar_values: list[Finite]
    pos_str: list[Text]
    pos_values: list[Finite]
    neg_str: list[Text]
    neg_values: list[Finite]
    topkCosSimIndices: list[Int32]  # noqa: N815
    topkCosSimValues: list[Finite]  # noqa: N815
    raylens: _OwnOfFeature

    def stats(self) -> dict[str, Any]:
        """Row of ``schema.FEATURE_STATS``.

        Raises:
            ValueError: Bars lie where no bin begins.
        """
        heights, edges = self.freq_hist_data_bar_heights, self.freq_hist_data_bar_values
        counts = np.zeros(HISTOGRAM_BINS, np.int64)
        first = int(np.argmin(np.abs(_EDGES - edges[0]))) if edges else 0
        if len(heights) != len(edges) or not np.allclose(_EDGES[first : first + len(edges)], edges, rtol=1e-9, atol=0):
            raise ValueError("freq_hist_data_bar_values: are no bins of RayLens")
        counts[first : first + len(heights)] = heights
        own = self.raylens
        return {
            "feature": self.feature,
            "n_active": own.n_active,
            "n_windows": own.n_windows,
            "density": self.frac_nonzero,
            "mean_activation": own.mean_activation,
            "max_activation": self.maxActApprox if own.mean_activation is not None else None,
            "histogram": counts.tolist(),
        }

    def logits(self) -> list[dict[str, Any]]:
        """Rows of ``schema.LOGITS``.

        Raises:
            ValueError: Tokens and values are not of one number.
        """
        ids, rows = self.raylens.logit_ids, []
        signs = (("top", ids.top, self.pos_str, self.pos_values), ("bottom", ids.bottom, self.neg_str, self.neg_values))
        for sign, *columns in signs:
            if len({len(one) for one in columns}) != 1:
                raise ValueError(f"{'pos' if sign == 'top' else 'neg'}_values: not one for each token and its id")
            for rank, (token_id, token, value) in enumerate(zip(*columns, strict=True)):
                row = {"feature": self.feature, "sign": sign, "rank": rank, "token_id": token_id}
                rows.append({**row, "token": token, "logit": value})
        return rows

    def neighbours(self) -> list[dict[str, Any]]:
        """Rows of ``schema.NEIGHBOURS``.

        Raises:
            ValueError: Features and cosines are not of one number.
        """
        if len(self.topkCosSimIndices) != len(self.topkCosSimValues):
            raise ValueError("topkCosSimValues: not one for each feature")
        pairs = zip(self.topkCosSimIndices, self.topkCosSimValues, strict=True)
        return [
            {"feature": self.feature, "rank": rank, "neighbour": other, "cosine": cosine}
            for rank, (other, cosine) in enumerate(pairs)
        ]

    def scores(self) -> list[dict[str, Any]]:
        """Rows of ``schema.SCORES``, with their pass."""
        return [{"feature": self.feature, **one.model_dump(by_alias=True)} for one in self.raylens.scores]


class _Document(_Own):
    doc_id: Int32
    source: Text
    domain: Text | None
    path: Text | None
    split: Text | None
    n_tokens: Int32


class _OwnOfText(_Own):
    start: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    token_ids: Annotated[list[Int32], Field(min_length=1, max_length=2**15 - 1)]
    lead: Text
    document: _Document


class TextLine(_Line):
    """A line of ``activations``."""

    tokens: list[Text]
    values: list[Finite]
    maxValue: Finite  # noqa: N815
    dataIndex: Index  # noqa: N815
    raylens: _OwnOfText

    def window(self) -> dict[str, Any]:
        """Row of ``schema.WINDOWS``.

        Raises:
            ValueError: Tokens, values and ids are not of one number.
        """
        if not len(self.tokens) == len(self.values) == len(self.raylens.token_ids):
            raise ValueError("values: not one for each token and its id")
        own = self.raylens
        starts = np.cumsum([len(own.lead), *map(len, self.tokens[:-1])]).tolist()
        return {
            "window_id": int(self.dataIndex),
            "doc_id": own.document.doc_id,
            "start": own.start,
            "token_ids": own.token_ids,
            "token_offsets": starts,
            "text": own.lead + "".join(self.tokens),
        }

    def document(self) -> dict[str, Any]:
        """Row of ``schema.DOCUMENTS``."""
        return self.raylens.document.model_dump()


class _OwnOfExplanation(_Own):
    number: Place = Field(alias="pass")
    run_id: Text | None
    explainer: Text
    prompt_hash: Text | None
    rule: Text | None
    status: Text
    error: Text | None
    n_examples: Int32 | None
    trimmed: bool | None


class ExplanationLine(_Line):
    """A line of ``explanations``."""

    id: Text | None
    description: Text | None
    explanationModelName: Text | None  # noqa: N815
    createdAt: Text | None  # noqa: N815
    raylens: _OwnOfExplanation

    def explanation(self) -> dict[str, Any]:
        """Row of ``schema.EXPLANATIONS``, with its pass.

        Raises:
            ValueError: ``createdAt`` is no time.
        """
        try:
            at = datetime.fromisoformat(self.createdAt).astimezone(UTC) if self.createdAt else None
        except ValueError as error:
            raise ValueError("createdAt: is no time") from error
        return {
            "feature": self.feature,
            "explanation_id": self.id,
            "model": self.explanationModelName,
            "explanation": self.description,
            "created_at": at,
            **self.raylens.model_dump(by_alias=True),
        }
