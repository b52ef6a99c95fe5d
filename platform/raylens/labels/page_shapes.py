"""What a workspace stores, in the shapes of Neuronpedia's API.

What Neuronpedia has and a cache does not is there and empty: the histogram of all logits, the effect on the loss.
Histogram bins are those of the store (:func:`raylens.schema.histogram_edges`), each by its lower edge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from raylens.ids import digest
from raylens.schema import histogram_edges
from raylens.store.examples import Example
from raylens.store.labels import HUMAN, Label

TYPE_PREFIX: Final = "raylens_"
HEADLINES: Final = ("f1", "balanced_accuracy", "auc", "correlation")
"""Of the metrics of a scorer, the first that it has is its score; without any, the first by name."""


def explanations(rows: Iterable[Mapping[str, Any]], scores: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Explanations with their scores, of rows of ``schema.EXPLANATIONS`` and ``schema.SCORES``."""
    figures = [one for one in scores if one["control"] is None and one["value"] is not None]
    for row in rows:
        yield {
            "id": row["explanation_id"],
            "description": row["explanation"],
            "typeName": f"{TYPE_PREFIX}{row['explainer']}",
            "explanationModelName": row["model"],
            "authorName": None,
            "createdAt": row["created_at"].isoformat() if row["created_at"] else None,
            "scores": _scores(one for one in figures if one["explanation_id"] == row["explanation_id"]),
        }


def labels(said: Iterable[Label]) -> Iterator[dict[str, Any]]:
    """People's labels, as explanations of type ``human``."""
    for one in said:
        if one.label is not None:
            yield {
                "id": one.label_id,
                "description": one.label,
                "typeName": HUMAN,
                "explanationModelName": None,
                "authorName": one.author,
                "createdAt": one.at.isoformat(),
                "scores": [],
            }


def histogram(counts: Iterable[int]) -> dict[str, Any]:
    """Counts of activations ``[HISTOGRAM_BINS]``, from the first to the last bin that holds something."""
    heights = np.array(list(counts), np.int64)
    there = np.flatnonzero(heights)
    kept = slice(there[0], there[-1] + 1) if len(there) else slice(0, 0)
    return {
        "freq_hist_data_bar_heights": heights[kept].tolist(),
        "freq_hist_data_bar_values": histogram_edges()[:-1][kept].tolist(),
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
    }


def logits(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tokens with the largest and the smallest logits, of rows of ``schema.LOGITS`` in order of rank."""
    top = [row for row in rows if row["sign"] == "top"]
    bottom = [row for row in rows if row["sign"] == "bottom"]
    return {
        "pos_str": [row["token"] for row in top],
        "pos_values": [row["logit"] for row in top],
        "neg_str": [row["token"] for row in bottom],
        "neg_values": [row["logit"] for row in bottom],
    }


def neighbours(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Nearest features, of rows of ``schema.NEIGHBOURS`` in order of rank."""
    return {
        "topkCosSimIndices": [row["neighbour"] for row in rows],
        "topkCosSimValues": [row["cosine"] for row in rows],
    }


def activation(example: Example) -> dict[str, Any]:
    """One window of text."""
    values = example.activations.tolist()
    # The strongest token of the text, as the window's peak is; special tokens are empty pieces of it.
    peak = max(range(len(values)), key=lambda place: (bool(example.tokens[place]), values[place]), default=0)
    return {
        "tokens": list(example.tokens),
        "values": values,
        "maxValue": example.peak,
        "maxValueTokenIndex": peak,
        "minValue": min(values, default=0.0),
        "binMin": None,
        "binMax": None,
        "binContains": None,
        "dataSource": f"{example.source}:{example.path}" if example.path else example.source,
        "dataIndex": str(example.window_id),
        "lossValues": [],
    }


def _scores(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One score a scorer, as Neuronpedia has them: its headline figure, and all others beside it."""
    by_scorer: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_scorer.setdefault((row["scorer"], row["judge"] or ""), {})[row["metric"]] = row
    found: list[dict[str, Any]] = []
    for (scorer, judge), figures in sorted(by_scorer.items()):
        headline = next((name for name in HEADLINES if name in figures), min(figures))
        row = figures[headline]
        details = {
            "metric": headline,
            **{name: row[name] for name in ("ci_low", "ci_high", "n", "n_failed")},
            "metrics": {name: figures[name]["value"] for name in sorted(figures)},
        }
        found.append(
            {
                "id": f"{row['explanation_id']}-{scorer}" + (f"-{digest(judge)[:8]}" if judge else ""),
                "value": row["value"],
                "explanationScoreTypeName": f"{TYPE_PREFIX}{scorer}",
                "explanationScoreModelName": judge or None,
                "jsonDetails": json.dumps(details),
                "createdAt": None,
            }
        )
    return found
