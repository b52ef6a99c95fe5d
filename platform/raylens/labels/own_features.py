"""The workspace's own features as Neuronpedia's API gives a feature, from what caches, explainers and people left."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raylens.catalog import Catalog
from raylens.ids import SaeId
from raylens.labels.names import NeuronpediaId, label_source, local_source
from raylens.labels.page_shapes import activation, explanations, histogram, labels, logits, neighbours
from raylens.store.findings import FindingKind, passes
from raylens.store.findings_index import FindingsIndex
from raylens.store.kept import Kept
from raylens.store.labels import Labels
from raylens.store.manifest import Kind
from raylens.store.reader import CacheReader
from raylens.store.workspace import CacheStore, Workspace

N_EXAMPLES: Final = 20


@dataclass(frozen=True, slots=True)
class Own:
    """One SAE of one cache, and the name its features go by.

    Attributes:
        source: Its Neuronpedia id, or one of the same form.
        elsewhere: Its Neuronpedia id; None where it has none.
        sae: Which SAE.
        model: That it was read from, as its cache names it.
        layer: Where, if that is known.
        cache_id: In which cache; of several the one merged last.
        d_sae: Number of latents.
        hook: The tensor it reads, as the store has it.
    """

    source: NeuronpediaId
    elsewhere: NeuronpediaId | None
    sae: SaeId
    model: str
    layer: int | None
    cache_id: str
    d_sae: int
    hook: str


class OwnFeatures:
    """Pages of a workspace's own features; safe to use from several threads.

    Args:
        workspace: Where.
        catalog: For Neuronpedia ids.
        given: A config's mapping, SAE id → ``<model>/<source>``.
        look_every_s: Seconds within which nobody looks for new caches and findings; what people say is seen at once.
    """

    def __init__(
        self,
        workspace: Workspace,
        catalog: Catalog,
        given: Mapping[str, str] | None = None,
        *,
        look_every_s: float = 0.0,
    ) -> None:
        self.workspace, self.catalog = workspace, catalog
        self.labels = Labels(workspace)
        """What people say."""
        self._given, self._look_every_s = given, look_every_s
        self._turn = threading.Lock()
        self._held = Kept(self.generations, self._open, look_every_s)
        self._readers: dict[str, CacheReader] = {}
        self._indices: dict[tuple[str, SaeId, FindingKind], FindingsIndex] = {}

    def sources(self) -> dict[NeuronpediaId, Own]:
        """Every SAE that can be read now, by the name its features go by.

        An SAE of several caches is read in the one merged last; where two SAEs share one Neuronpedia id (sae-lens
        lists some weights twice), the one merged last counts.

        Raises:
            DamagedFileError: A manifest cannot be read.
        """
        return {one.source: one for one in self._held.get()}

    def of_cache(self, cache_id: str) -> tuple[Own, ...]:
        """The SAEs of one cache; raises as :meth:`sources`."""
        return tuple(one for one in self._held.get() if one.cache_id == cache_id)

    def held(self, sae: SaeId) -> tuple[Own, ...]:
        """An SAE in every cache that holds it, the one merged last coming last; raises as :meth:`sources`."""
        return tuple(one for one in self._held.get() if one.sae == sae)

    def generations(self) -> tuple[tuple[str, str], ...]:
        """Caches that can be read, with their generations; the one merged last coming last."""
        found = ((one, self.workspace.cache(one).generation()) for one in self.workspace.caches())
        merged = [(one, generation) for one, generation in found if generation is not None]
        return tuple(sorted(merged, key=lambda pair: pair[1]))

    def reader(self, cache_id: str) -> CacheReader:
        """The reader of a cache's last generation, kept open; raises as :class:`CacheReader`."""
        self._held.get()
        with self._turn:
            if cache_id not in self._readers:
                self._readers[cache_id] = CacheReader(self.workspace, cache_id)
            return self._readers[cache_id]

    def find(self, cache: CacheStore, sae: SaeId, kind: FindingKind, feature: int) -> list[dict[str, Any]]:
        """As :func:`raylens.store.findings.findings_of`, which reads everything anew."""
        return self._index(cache.cache_id, sae, kind).rows_of([feature])[feature]

    def page(self, source: NeuronpediaId, index: int, n_examples: int = N_EXAMPLES) -> dict[str, Any] | None:
        """One feature's page, as in :meth:`pages`; None where no cache has it."""
        return self.pages(source, [index], n_examples).get(index)

    def pages(
        self, source: NeuronpediaId, indices: Iterable[int], n_examples: int = N_EXAMPLES
    ) -> dict[int, dict[str, Any]]:
        """Pages of features, each with its ``explanations``; those that no cache has are left out.

        What is in one file is read once for all of them.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        own = self.sources().get(source)
        wanted = [] if own is None else sorted({index for index in indices if 0 <= index < own.d_sae})
        if own is None or not wanted:
            return {}
        reader = self.reader(own.cache_id)
        tops = {index: reader.top_windows(own.sae, index, n_examples) if n_examples else [] for index in wanted}
        examples = iter(reader.examples([one for top in tops.values() for one in top]))
        statistics = _rows(reader, "feature_stats", own.sae, wanted, "feature")
        logit_rows = _rows(reader, "logits", own.sae, wanted, "rank")
        near = _rows(reader, "neighbours", own.sae, wanted, "rank")
        said = self.explanations_in(own, wanted)
        return {
            index: {
                "modelId": source.model,
                "layer": source.source,
                "index": str(index),
                "hookName": own.hook,
                "maxActApprox": statistics[index][0]["max_activation"] or 0.0,
                "frac_nonzero": statistics[index][0]["density"],
                **histogram(statistics[index][0]["histogram"]),
                **logits(logit_rows[index]),
                **neighbours(near[index]),
                "vector": [],
                "activations": [activation(next(examples)) for _ in tops[index]],
                "explanations": said[index],
            }
            for index in wanted
        }

    def explanations(self, source: NeuronpediaId, index: int) -> list[dict[str, Any]]:
        """What explainers and people say of one feature, as on its page; empty where no cache has it."""
        own = self.sources().get(source)
        return [] if own is None else self.explanations_in(own, [index])[index]

    def explanations_in(self, own: Own, indices: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
        """What explainers in one cache, and people, say of features, as on their pages; each is in the answer.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        said = self._index(own.cache_id, own.sae, "explanations").rows_of(indices)
        usable = {
            index: [row for row in rows if row["status"] == "ok" and row["explanation"]] for index, rows in said.items()
        }
        scores = self._index(own.cache_id, own.sae, "scores").rows_of(index for index, rows in usable.items() if rows)
        words = self.labels.read()
        return {
            index: [*explanations(rows, scores.get(index, [])), *labels(words.labels_of(own.sae, index))]
            for index, rows in usable.items()
        }

    def explained(self, source: NeuronpediaId) -> list[int]:
        """Features of which an explainer or a person says something, ascending; empty where no cache has the SAE."""
        own = self.sources().get(source)
        return [] if own is None else self.explained_in(own)

    def explained_in(self, own: Own) -> list[int]:
        """Features of which an explainer in one cache, or a person, says something, ascending."""
        found: set[int] = set()
        for one in passes(self.workspace.cache(own.cache_id), own.sae, "explanations"):
            rows = one.read(["feature", "status"]).to_pydict()
            found.update(
                feature for feature, status in zip(rows["feature"], rows["status"], strict=True) if status == "ok"
            )
        labelled = self.labels.read().labels_of(own.sae)
        found.update(one.feature for one in labelled if one.label is not None)
        return sorted(found)

    def close(self) -> None:
        """Close what is open; it is opened again when it is used again."""
        with self._turn:
            for reader in self._readers.values():
                reader.close()

    def _open(self) -> tuple[Own, ...]:
        merged = self.generations()
        with self._turn:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
        return tuple(one for cache_id, _ in merged for one in self._of_cache(cache_id))

    def _index(self, cache_id: str, sae: SaeId, kind: FindingKind) -> FindingsIndex:
        key = (cache_id, sae, kind)
        with self._turn:
            if key not in self._indices:
                self._indices[key] = FindingsIndex(self.workspace.cache(cache_id), sae, kind, self._look_every_s)
            return self._indices[key]

    def _of_cache(self, cache_id: str) -> Iterator[Own]:
        cache = self.workspace.cache(cache_id)
        manifest = cache.manifest()
        if manifest is None:
            return
        model, known = str(cache.info().get("model") or ""), cache.saes()
        for text, totals in manifest.sae_totals.items():
            sae = SaeId.parse(text)
            spec = known.get(sae, {}).get("spec")
            spec = spec if isinstance(spec, dict) else {}
            layer = spec.get("layer") if isinstance(spec.get("layer"), int) else None
            elsewhere = label_source(sae, self.catalog, given=self._given, own=spec.get("neuronpedia_id"))
            name = elsewhere or local_source(sae, model, layer)
            hook = str(spec.get("hook") or "")
            yield Own(name, elsewhere, sae, model, layer, cache_id, int(totals["d_sae"]), hook)


def _rows(
    reader: CacheReader, kind: Kind, sae: SaeId, indices: Sequence[int], order: str
) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {index: [] for index in indices}
    rows = reader.rows_of(kind, sae, indices)
    for row in [] if rows is None else rows.sort_by(order).to_pylist():
        found[row["feature"]].append(row)
    return found
