"""The score card of one pass: how good the explanations of an SAE are, beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from raylens.score.aggregate import FeatureScore, by_density, mean, median, per_sae
from raylens.score.metrics import Metric
from raylens.store.findings import Findings
from raylens.store.reader import CacheReader

Values = Mapping[int, float | None]
_CONTROL: Final = "shuffled"
_YES_OR_NO: Final = "is_concept"
"""Of such a figure the share counts; a median would be 0 or 1."""


def score_card(reader: CacheReader, scores: Findings) -> dict[str, list[dict[str, Any]]]:
    """Figures over all features of a pass, as JSON values.

    Returns:
        ``figures``: a row a scorer and metric, with its median over features, the interval of that, ``n`` features
        with a value, ``n_without_value``, and the median of the shuffled control.
        ``aggregates``: a row a scorer that says yes or no, and an aggregate of
        :func:`raylens.score.aggregate.per_sae`: means, medians, frequency-weighted F1, and the rates of A1.02's good
        features (``good_rate`` only where something is known about concepts).
        ``by_density``: a row a scorer and band of density in which there are features: their median F1.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    values: dict[tuple[str, str], dict[str | None, dict[int, float | None]]] = {}
    for row in scores.each(["feature", "scorer", "metric", "control", "value"]):
        of_metric = values.setdefault((row["scorer"], row["metric"]), {})
        of_metric.setdefault(row["control"], {})[row["feature"]] = row["value"]
    density = _density(reader, scores)
    concept = values.get(("concept", _YES_OR_NO), {}).get(None, {})
    aggregates: list[dict[str, Any]] = []
    if concept:
        share = mean(_YES_OR_NO, list(concept.values()))
        aggregates.append({"scorer": "concept", "metric": share.name, **_plain(share)})
    bands: list[dict[str, Any]] = []
    for scorer in dict.fromkeys(scorer for scorer, metric in values if metric == "f1"):
        parts = [values.get((scorer, metric), {}).get(None, {}) for metric in ("f1", "precision", "recall")]
        features = _features(parts, density, concept)
        found = [one for one in per_sae(features) if concept or one.name != "good_rate"]
        aggregates += [{"scorer": scorer, "metric": one.name, **_plain(one)} for one in found]
        for low, high, members in by_density(features):
            if members:
                f1 = median("f1", [one.f1 for one in members])
                bands.append({"scorer": scorer, "density_above": low, "density_to": high, **_plain(f1)})
    return {
        "figures": [
            _figure(scorer, metric, list(by.get(None, {}).values()), list(by.get(_CONTROL, {}).values()))
            for (scorer, metric), by in values.items()
            if metric != _YES_OR_NO
        ],
        "aggregates": aggregates,
        "by_density": bands,
    }


def _density(reader: CacheReader, scores: Findings) -> dict[int, float]:
    stats = reader.table("feature_stats", scores.sae, ["feature", "density"])
    assert stats is not None  # a merge makes them before anything can be explained
    return dict(zip(stats["feature"].to_pylist(), stats["density"].to_pylist(), strict=True))


def _features(parts: Sequence[Values], density: Mapping[int, float], concept: Values) -> list[FeatureScore]:
    f1, precision, recall = parts
    return [
        FeatureScore(
            f1[feature],
            precision.get(feature),
            recall.get(feature),
            density.get(feature, 0.0),
            None if (said := concept.get(feature)) is None else said > 0.5,
        )
        for feature in f1
    ]


def _figure(
    scorer: str, metric: str, own: Sequence[float | None], shuffled: Sequence[float | None]
) -> dict[str, Any]:  # fmt: skip
    found, control = median(metric, own), median(metric, shuffled)
    return {
        "scorer": scorer,
        "metric": metric,
        "median": found.value,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "n": found.n,
        "n_without_value": found.n_failed,
        "shuffled": control.value,
    }


def _plain(metric: Metric) -> dict[str, Any]:
    return {
        "value": metric.value,
        "ci_low": metric.ci_low,
        "ci_high": metric.ci_high,
        "n": metric.n,
        "n_without_value": metric.n_failed,
    }
