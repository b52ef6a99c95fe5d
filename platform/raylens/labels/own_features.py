"""The workspace's own features as Neuronpedia's API gives a feature, from what caches, explainers and people left.

What Neuronpedia has and a cache does not is there and empty: the histogram of all logits, the effect on the loss.
Histogram bins are those of the store (:func:`raylens.schema.histogram_edges`), each by its lower edge.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from raylens.catalog import Catalog
from raylens.ids import SaeId, digest
from raylens.labels.names import NeuronpediaId, label_source, local_source
from raylens.schema import histogram_edges
from raylens.store.examples import Example
from raylens.store.findings import findings_of, passes
from raylens.store.labels import HUMAN, Labels
from raylens.store.manifest import Kind
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace

N_EXAMPLES: Final = 20
_TYPE_PREFIX: Final = "raylens_"
_HEADLINES: Final = ("f1", "balanced_accuracy", "auc", "correlation")
"""Of the metrics of a scorer, the first that it has is its score; without any, the first by name."""


@dataclass(frozen=True, slots=True)
class Own:
    """One SAE of one cache, and the name its features go by.

    Attributes:
        source: Its Neuronpedia id, or one of the same form.
        sae: Which SAE.
        cache_id: In which cache; of several the one merged last.
        d_sae: Number of latents.
        hook: The tensor it reads, as the store has it.
    """

    source: NeuronpediaId
    sae: SaeId
    cache_id: str
    d_sae: int
    hook: str


class OwnFeatures:
    """Pages of a workspace's own features; safe to use from several threads.

    Args:
        workspace: Where.
        catalog: For Neuronpedia ids.
        given: A config's mapping, SAE id → ``<model>/<source>``.
    """

    def __init__(self, workspace: Workspace, catalog: Catalog, given: Mapping[str, str] | None = None) -> None:
        self._workspace, self._catalog, self._given = workspace, catalog, given
        self._turn = threading.Lock()
        self._merged: dict[str, str] = {}
        self._held: tuple[Own, ...] = ()
        self._own: dict[NeuronpediaId, Own] = {}
        self._readers: dict[str, CacheReader] = {}

    def sources(self) -> dict[NeuronpediaId, Own]:
        """Every SAE that can be read now, by the name its features go by.

        An SAE of several caches is read in the one merged last; where two SAEs share one Neuronpedia id (sae-lens
        lists some weights twice), the one merged last counts.

        Raises:
            DamagedFileError: A manifest cannot be read.
        """
        merged = {
            one: generation
            for one in self._workspace.caches()
            if (generation := self._workspace.cache(one).generation()) is not None
        }
        with self._turn:
            if merged != self._merged:
                for reader in self._readers.values():
                    reader.close()
                self._readers.clear()
                self._held = tuple(
                    one for cache_id in sorted(merged, key=merged.__getitem__) for one in self._of_cache(cache_id)
                )
                self._own = {one.source: one for one in self._held}
                self._merged = merged
            return self._own

    def held(self, sae: SaeId) -> tuple[Own, ...]:
        """An SAE in every cache that holds it, the one merged last coming last; raises as :meth:`sources`."""
        self.sources()
        return tuple(one for one in self._held if one.sae == sae)

    def page(self, source: NeuronpediaId, index: int, n_examples: int = N_EXAMPLES) -> dict[str, Any] | None:
        """One feature's page, with ``explanations``; None where no cache has it.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        own = self.sources().get(source)
        if own is None or not 0 <= index < own.d_sae:
            return None
        reader = self._reader(own.cache_id)
        statistics: dict[str, Any] = dict(reader.feature(own.sae, index))
        return {
            "modelId": source.model,
            "layer": source.source,
            "index": str(index),
            "hookName": own.hook,
            "maxActApprox": statistics["max_activation"] or 0.0,
            "frac_nonzero": statistics["density"],
            **_histogram(statistics["histogram"]),
            **_logits(_rows(reader, "logits", own.sae, index)),
            **_neighbours(_rows(reader, "neighbours", own.sae, index)),
            "vector": [],
            "activations": [
                _activation(one)
                for one in reader.examples(reader.top_windows(own.sae, index, n_examples) if n_examples else [])
            ],
            "explanations": list(self._explanations(own, index)),
        }

    def explanations(self, source: NeuronpediaId, index: int) -> list[dict[str, Any]]:
        """What explainers and people say of one feature, as on its page; empty where no cache has it."""
        own = self.sources().get(source)
        return [] if own is None else self.explanations_in(own, index)

    def explanations_in(self, own: Own, index: int) -> list[dict[str, Any]]:
        """What explainers in one cache, and people, say of one feature, as on its page."""
        return list(self._explanations(own, index))

    def explained(self, source: NeuronpediaId) -> list[int]:
        """Features of which an explainer or a person says something, ascending; empty where no cache has the SAE."""
        own = self.sources().get(source)
        return [] if own is None else self.explained_in(own)

    def explained_in(self, own: Own) -> list[int]:
        """Features of which an explainer in one cache, or a person, says something, ascending."""
        found: set[int] = set()
        for one in passes(self._workspace.cache(own.cache_id), own.sae, "explanations"):
            rows = one.read(["feature", "status"]).to_pydict()
            found.update(
                feature for feature, status in zip(rows["feature"], rows["status"], strict=True) if status == "ok"
            )
        labelled = Labels(self._workspace).read().labels_of(own.sae)
        found.update(one.feature for one in labelled if one.label is not None)
        return sorted(found)

    def _reader(self, cache_id: str) -> CacheReader:
        with self._turn:
            if cache_id not in self._readers:
                self._readers[cache_id] = CacheReader(self._workspace, cache_id)
            return self._readers[cache_id]

    def _of_cache(self, cache_id: str) -> Iterator[Own]:
        cache = self._workspace.cache(cache_id)
        manifest = cache.manifest()
        if manifest is None:
            return
        model, known = str(cache.info().get("model") or ""), cache.saes()
        for text, totals in manifest.sae_totals.items():
            sae = SaeId.parse(text)
            spec = known.get(sae, {}).get("spec")
            spec = spec if isinstance(spec, dict) else {}
            layer = spec.get("layer")
            name = label_source(sae, self._catalog, given=self._given, own=spec.get("neuronpedia_id"))
            name = name or local_source(sae, model, layer if isinstance(layer, int) else None)
            yield Own(name, sae, cache_id, int(totals["d_sae"]), str(spec.get("hook") or ""))

    def _explanations(self, own: Own, index: int) -> Iterator[dict[str, Any]]:
        cache = self._workspace.cache(own.cache_id)
        scores = [
            row
            for row in findings_of(cache, own.sae, "scores", index)
            if row["control"] is None and row["value"] is not None
        ]
        for row in findings_of(cache, own.sae, "explanations", index):
            if row["status"] != "ok" or not row["explanation"]:
                continue
            yield {
                "id": row["explanation_id"],
                "description": row["explanation"],
                "typeName": f"{_TYPE_PREFIX}{row['explainer']}",
                "explanationModelName": row["model"],
                "authorName": None,
                "createdAt": row["created_at"].isoformat() if row["created_at"] else None,
                "scores": _scores(one for one in scores if one["explanation_id"] == row["explanation_id"]),
            }
        for one in Labels(self._workspace).read().labels_of(own.sae, index):
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


def _rows(reader: CacheReader, kind: Kind, sae: SaeId, index: int) -> list[dict[str, Any]]:
    rows = reader.rows_of(kind, sae, [index])
    return [] if rows is None else rows.sort_by("rank").to_pylist()


def _histogram(counts: Iterable[int]) -> dict[str, Any]:
    """From the first to the last bin that holds something."""
    heights = np.array(list(counts), np.int64)
    there = np.flatnonzero(heights)
    kept = slice(there[0], there[-1] + 1) if len(there) else slice(0, 0)
    return {
        "freq_hist_data_bar_heights": heights[kept].tolist(),
        "freq_hist_data_bar_values": histogram_edges()[:-1][kept].tolist(),
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
    }


def _logits(rows: list[dict[str, Any]]) -> dict[str, Any]:
    top = [row for row in rows if row["sign"] == "top"]
    bottom = [row for row in rows if row["sign"] == "bottom"]
    return {
        "pos_str": [row["token"] for row in top],
        "pos_values": [row["logit"] for row in top],
        "neg_str": [row["token"] for row in bottom],
        "neg_values": [row["logit"] for row in bottom],
    }


def _neighbours(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "topkCosSimIndices": [row["neighbour"] for row in rows],
        "topkCosSimValues": [row["cosine"] for row in rows],
    }


def _activation(example: Example) -> dict[str, Any]:
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
        headline = next((name for name in _HEADLINES if name in figures), min(figures))
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
                "explanationScoreTypeName": f"{_TYPE_PREFIX}{scorer}",
                "explanationScoreModelName": judge or None,
                "jsonDetails": json.dumps(details),
                "createdAt": None,
            }
        )
    return found
