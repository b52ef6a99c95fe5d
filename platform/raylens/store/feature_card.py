"""What is known of one feature, gathered once for the terminal, for HTTP and for tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.compute as pc

from raylens.ids import FeatureId, SaeId
from raylens.schema import histogram_edges
from raylens.store.examples import Activity, Example
from raylens.store.findings import FindingKind, findings_of
from raylens.store.labels import Label, Labels, Note, Words
from raylens.store.manifest import Kind
from raylens.store.reader import CacheReader
from raylens.store.selection import Readable
from raylens.store.workspace import CacheStore, Workspace

Row = Mapping[str, Any]

Find = Callable[[CacheStore, SaeId, FindingKind, int], Sequence[Row]]
"""As :func:`raylens.store.findings.findings_of`."""

_SHOWN: Final = ("value", "ci_low", "ci_high", "n", "n_failed")


@dataclass(frozen=True, slots=True)
class Explained:
    """What one explainer says of a feature.

    Attributes:
        row: Of ``schema.EXPLANATIONS``.
        figures: Rows of ``schema.SCORES`` about it, controls left out, in order of run.
    """

    row: Row
    figures: Sequence[Row]

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Figures by ``<scorer>.<metric>``; of one that was measured again the last."""
        return {f"{one['scorer']}.{one['metric']}": {key: one[key] for key in _SHOWN} for one in self.figures}

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        shown = ("explanation_id", "explanation", "explainer", "model", "rule", "run_id")
        return {**{key: self.row[key] for key in shown}, "scores": self.scores}


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
        explanations: What explainers say of it; the latest first.
        labels: What people say of it, in order of author.
        notes: Likewise, the oldest first.
    """

    one: Readable
    index: int
    n_tokens: int
    statistics: Row
    related: Mapping[str, Sequence[Row]]
    examples: Sequence[Example]
    url: str | None
    explanations: Sequence[Explained] = ()
    labels: Sequence[Label] = ()
    notes: Sequence[Note] = ()

    @property
    def words(self) -> dict[str, Any]:
        """What people say of it, as JSON shows it."""
        return _as_json(self.labels, self.notes)

    def logits(self, sign: str) -> list[dict[str, Any]]:
        """Tokens it promotes (``top``) or suppresses (``bottom``), the largest effect first."""
        rows = [row for row in self.related["logits"] if row["sign"] == sign]
        return [{key: row[key] for key in ("token", "token_id", "logit")} for row in rows]

    def relatives(self, table: str, key: str, measure: str) -> list[dict[str, Any]]:
        """Features of the same SAE beside it: ``neighbours`` or ``cofiring``."""
        return [
            {"id": self.one.short(row[key]), "feature": row[key], measure: row[measure]} for row in self.related[table]
        ]

    def said(self) -> list[dict[str, Any]]:
        """People's labels with the keys of explanations, and then what explainers say: whoever reads it sees both."""
        labels = [one for one in self.words["labels"] if one["label"] is not None]
        return [*map(_as_explanation, labels), *(one.document() for one in self.explanations)]

    def document(self) -> dict[str, Any]:
        """All of it, for ``--json``."""
        statistics = {key: value for key, value in self.statistics.items() if key not in {"feature", "histogram"}}
        histogram = {"edges": histogram_edges(), "counts": self.statistics["histogram"]}
        return {
            "id": self.one.short(self.index),
            "feature_id": str(FeatureId(self.one.sae, self.index)),
            "cache_id": self.one.cache_id,
            "sae": str(self.one.sae),
            "feature": self.index,
            "url": self.url,
            "explanations": self.said(),
            **self.words,
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
    workspace: Workspace,
    reader: CacheReader,
    one: Readable,
    index: int,
    activities: Sequence[Activity] = (),
    *,
    find: Find = findings_of,
    words: Words | None = None,
) -> Card:
    """Read everything that is shown of a feature.

    Args:
        workspace: Where.
        reader: The cache.
        one: The SAE in it.
        index: Which feature.
        activities: Windows to show.
        find: What explainers and scorers wrote, for who has it at hand.
        words: What people say, likewise.

    Raises:
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    cache = workspace.cache(one.cache_id)
    spec = cache.saes().get(one.sae, {}).get("spec", {})
    neuronpedia = spec.get("neuronpedia_id")
    words = words or Labels(workspace).read()
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
        explanations=explained(cache, one.sae, index, find),
        labels=words.labels_of(one.sae, index),
        notes=words.notes_of(one.sae, index),
    )


def explained(cache: CacheStore, sae: SaeId, index: int, find: Find = findings_of) -> list[Explained]:
    """Each explanation of a feature with what scorers gave it; the latest first."""
    rows = [row for row in find(cache, sae, "explanations", index) if row["status"] == "ok"]
    scores = [row for row in find(cache, sae, "scores", index) if row["control"] is None]
    scores.sort(key=lambda row: row["run_id"] or "")
    return [
        Explained(row, [one for one in scores if one["explanation_id"] == row["explanation_id"]])
        for row in sorted(rows, key=lambda row: (row["created_at"] is not None, row["created_at"]), reverse=True)
    ]


def promoted(reader: CacheReader, sae: SaeId, features: Iterable[int], n: int) -> dict[int, list[str]]:
    """The ``n`` tokens whose logits each feature raises most; a feature of which that was not made is left out."""
    rows = reader.rows_of("logits", sae, features, ["feature", "sign", "rank", "token"])
    found: dict[int, list[str]] = {}
    if rows is None:
        return found
    top = rows.filter(pc.field("sign") == "top")
    for row in top.sort_by([("feature", "ascending"), ("rank", "ascending")]).to_pylist():
        tokens = found.setdefault(int(row["feature"]), [])
        if len(tokens) < n:
            tokens.append(str(row["token"]))
    return found


def words_of(words: Words, sae: SaeId, index: int) -> dict[str, Any]:
    """What people say of one feature, as JSON shows it: ``labels`` and ``notes``."""
    return _as_json(words.labels_of(sae, index), words.notes_of(sae, index))


def _as_json(labels: Sequence[Label], notes: Sequence[Note]) -> dict[str, Any]:
    return {"labels": [_label(one) for one in labels], "notes": [_note(one) for one in notes]}


def _label(one: Label) -> dict[str, Any]:
    return {
        "label_id": one.label_id,
        "label": one.label,
        "type": "human",
        "author": one.author,
        "starred": one.starred,
        "updated_at": one.at,
    }


def _note(one: Note) -> dict[str, Any]:
    return {"note_id": one.note_id, "note": one.note, "author": one.author, "created_at": one.at}


def _as_explanation(label: Row) -> dict[str, Any]:
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


def _of_feature(reader: CacheReader, one: Readable, kind: Kind, index: int) -> list[dict[str, Any]]:
    rows = reader.rows_of(kind, one.sae, [index])
    return [] if rows is None else rows.sort_by("rank").to_pylist()
