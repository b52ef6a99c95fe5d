"""Features: lists, pages, searches, texts of your own."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from raylens.api.feature_texts import ActivateAnswer, FeatureWindows
from raylens.api.feature_words import FeatureWords
from raylens.api.features import (
    Comparison,
    FeatureExplanations,
    FeatureHits,
    FeatureList,
    FeaturePage,
    FeatureScores,
)
from raylens.api.saes import Saes
from raylens.client.http import Http


class Features:
    """Methods about features; made by :class:`raylens.client.Client`.

    A feature is ``<sae>/<index>``, or ``f_3_17`` where that names one. ``cache`` is an id or a name; by default the one
    that was merged last.
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    def saes(self) -> Saes:
        """SAEs in caches, and those that the catalogue has for their models."""
        return self._http.get("/api/v1/saes", Saes)

    def list(self, **filters: Any) -> FeatureList:
        """One page of features; filters are those of ``GET /api/v1/features``: ``sae``, ``sort``, ``explained`` …"""
        return self._http.get("/api/v1/features", FeatureList, filters)

    def search(self, query: str, **options: Any) -> FeatureHits:
        """Features by what is said of them: ``mode`` is ``meaning`` or ``words``."""
        return self._http.get("/api/v1/features/search", FeatureHits, {"q": query, **options})

    def compare(self, *features: str, cache: str | None = None) -> Comparison:
        """Two or more features side by side."""
        return self._http.get("/api/v1/features/compare", Comparison, {"feature": features, "cache": cache})

    def page(self, feature: str, cache: str | None = None) -> FeaturePage:
        """All that is known of a feature but its windows."""
        return self._http.get(_path(feature), FeaturePage, {"cache": cache})

    def windows(self, feature: str, **options: Any) -> FeatureWindows:
        """Windows in which it fires: ``kind`` is ``top``, ``quantile`` or ``interval``."""
        return self._http.get(f"{_path(feature)}/examples", FeatureWindows, options)

    def explanations(self, feature: str, cache: str | None = None) -> FeatureExplanations:
        """What explainers say of it, with scores."""
        return self._http.get(f"{_path(feature)}/explanations", FeatureExplanations, {"cache": cache})

    def scores(self, feature: str, cache: str | None = None) -> FeatureScores:
        """How well that holds on text that explainers did not see."""
        return self._http.get(f"{_path(feature)}/scores", FeatureScores, {"cache": cache})

    def words(self, feature: str, cache: str | None = None) -> FeatureWords:
        """What people say of it."""
        return self._http.get(f"{_path(feature)}/labels", FeatureWords, {"cache": cache})

    def say(self, feature: str, **said: Any) -> FeatureWords:
        """Say something of it: see :class:`raylens.api.feature_words.LabelRequest`."""
        return self._http.post(f"{_path(feature)}/labels", FeatureWords, said)

    def activate(self, feature: str, text: str, **options: Any) -> ActivateAnswer:
        """Its activation on each token of a text of your own."""
        return self._http.post(f"{_path(feature)}/activate", ActivateAnswer, {"text": text, **options})


def _path(feature: str) -> str:
    return f"/api/v1/features/{quote(feature, safe='/')}"
