"""What is known of one feature, gathered once for the terminal and for ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raylens.ids import FeatureId

if TYPE_CHECKING:
    from raylens.store.examples import Activity, Example
    from raylens.store.manifest import Kind
    from raylens.store.reader import CacheReader
    from raylens.store.workspace import CacheStore, Workspace
    from raylens_app.cli.selection import Readable


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of one feature.

    Attributes:
        one: Its SAE and cache.
        index: Which of the SAE's features.
        n_tokens: Text tokens of the cache: what the density is a share of.
        statistics: Its row of ``feature_stats``.
        related: Its rows of ``logits``, ``neighbours`` and ``cofiring``, by rank; none where not made.
        examples: Windows it fires in.
        url: Its page on Neuronpedia, where its SAE has one.
        explanations: What explainers say of it, each with its ``scores``; the latest first.
        words: What people say of it: ``labels`` and ``notes``.
    """

    one: Readable
    index: int
    n_tokens: int
    statistics: Mapping[str, Any]
    related: Mapping[str, Sequence[Mapping[str, Any]]]
    examples: Sequence[Example]
    url: str | None
    explanations: Sequence[Mapping[str, Any]] = ()
    words: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=lambda: {"labels": (), "notes": ()})

    def logits(self, sign: str) -> list[dict[str, Any]]:
        """Tokens it promotes (``top``) or suppresses (``bottom``), the largest effect first."""
        rows = [row for row in self.related["logits"] if row["sign"] == sign]
        return [{key: row[key] for key in ("token", "token_id", "logit")} for row in rows]

    def relatives(self, table: str, key: str, measure: str) -> list[dict[str, Any]]:
        """Features of the same SAE beside it: ``neighbours`` or ``cofiring``."""
        return [
            {"id": self.one.short(row[key]), "feature": row[key], measure: row[measure]} for row in self.related[table]
        ]

    def _labels(self) -> list[Mapping[str, Any]]:
        return [one for one in self.words["labels"] if one["label"] is not None]

    def document(self) -> dict[str, Any]:
        """All of it, for ``--json``."""
        from raylens.schema import histogram_edges

        statistics = {key: value for key, value in self.statistics.items() if key not in {"feature", "histogram"}}
        histogram = {"edges": histogram_edges(), "counts": self.statistics["histogram"]}
        return {
            "id": self.one.short(self.index),
            "feature_id": str(FeatureId(self.one.sae, self.index)),
            "cache_id": self.one.cache_id,
            "sae": str(self.one.sae),
            "feature": self.index,
            "url": self.url,
            "explanations": [*map(_as_explanation, self._labels()), *self.explanations],
            "labels": self.words["labels"],
            "notes": self.words["notes"],
            "statistics": {**statistics, "n_tokens": self.n_tokens, "histogram": histogram},
            "logits": {"top": self.logits("top"), "bottom": self.logits("bottom")},
            "neighbours": self.relatives("neighbours", "neighbour", "cosine"),
            "cofiring": self.relatives("cofiring", "other", "jaccard"),
            "windows": [
                {
                    "window_id": example.window_id,
                    "doc_id": example.doc_id,
                    "source": example.source,
                    "path": example.path,
                    "peak": example.peak,
                    "tokens": example.tokens,
                    "activations": example.activations,
                }
                for example in self.examples
            ],
        }


def read_card(
    workspace: Workspace, reader: CacheReader, one: Readable, index: int, activities: Sequence[Activity]
) -> Card:
    """Read everything that is shown of a feature, with the windows of ``activities``."""
    from raylens.store.labels import Labels
    from raylens_app.cli.label import words_of

    spec = workspace.cache(one.cache_id).saes().get(one.sae, {}).get("spec", {})
    neuronpedia = spec.get("neuronpedia_id")
    return Card(
        one=one,
        index=index,
        n_tokens=int(reader.manifest.sae_totals[str(one.sae)]["n_text_tokens"]),
        statistics=reader.feature(one.sae, index),
        related={
            "logits": _of_feature(reader, one, "logits", index),
            "neighbours": _of_feature(reader, one, "neighbours", index),
            "cofiring": _of_feature(reader, one, "cofiring", index),
        },
        examples=reader.examples(activities),
        url=f"https://www.neuronpedia.org/{neuronpedia}/{index}" if neuronpedia else None,
        explanations=_explanations(workspace.cache(one.cache_id), one, index),
        words=words_of(Labels(workspace).read(), one.sae, index),
    )


def _as_explanation(label: Mapping[str, Any]) -> dict[str, Any]:
    """A person's label with the keys of an explanation, so that whoever reads the list sees both."""
    return {
        "explanation_id": label["label_id"],
        "explanation": label["label"],
        "explainer": label["type"],
        "author": label["author"],
        "model": None,
        "rule": None,
        "run_id": None,
        "scores": {},
    }


def _explanations(cache: CacheStore, one: Readable, index: int) -> list[dict[str, Any]]:
    """Each explanation with what scorers gave it; a metric that was measured again counts as it was last."""
    from raylens.store.findings import findings_of

    rows = [row for row in findings_of(cache, one.sae, "explanations", index) if row["status"] == "ok"]
    scores = [row for row in findings_of(cache, one.sae, "scores", index) if row["control"] is None]
    scores.sort(key=lambda row: row["run_id"])
    shown = ("value", "ci_low", "ci_high", "n", "n_failed")
    return [
        {
            **{key: row[key] for key in ("explanation_id", "explanation", "explainer", "model", "rule", "run_id")},
            "scores": {
                f"{score['scorer']}.{score['metric']}": {key: score[key] for key in shown}
                for score in scores
                if score["explanation_id"] == row["explanation_id"]
            },
        }
        for row in sorted(rows, key=lambda row: row["created_at"], reverse=True)
    ]


def _of_feature(reader: CacheReader, one: Readable, kind: Kind, index: int) -> list[dict[str, Any]]:
    rows = reader.rows_of(kind, one.sae, [index])
    return [] if rows is None else rows.sort_by("rank").to_pylist()
