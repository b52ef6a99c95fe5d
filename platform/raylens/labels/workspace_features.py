"""A workspace's features for who is asked about them all day: what is opened and read once stays at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.catalog import Catalog
from raylens.errors import UnknownNameError
from raylens.ids import FeatureId, SaeId
from raylens.labels.feature_list import FeatureTables, Wanted
from raylens.labels.feature_pairs import Overlap, decoder_cosine, overlap
from raylens.labels.own_features import Own, OwnFeatures
from raylens.schema import HISTOGRAM_BINS
from raylens.search.features import Found, search
from raylens.store.examples import Example
from raylens.store.feature_card import Card, read_card
from raylens.store.kept import Kept
from raylens.store.labels import Words
from raylens.store.phrases import Embed
from raylens.store.reader import CacheReader
from raylens.store.selection import Readable, feature_of_any_cache, of_sae, one_feature, readables
from raylens.store.workspace import Workspace

LOOK_EVERY_S: Final = 1.0
"""Seconds within which nobody looks for what others merged, explained or scored."""

_SEED: Final = 0


class WorkspaceFeatures:
    """Lists, pages and windows of features; safe to use from several threads.

    Args:
        workspace: Where.
        catalog: Which SAEs there are besides.
        look_every_s: Seconds within which nobody looks for what is new; what is said through this object is seen at
            once.
    """

    def __init__(self, workspace: Workspace, catalog: Catalog, look_every_s: float = LOOK_EVERY_S) -> None:
        self.workspace, self.catalog = workspace, catalog
        self.own = OwnFeatures(workspace, catalog, look_every_s=look_every_s)
        self._tables = FeatureTables(self.own, look_every_s)
        self._readables = Kept(self.own.generations, lambda: readables(workspace), look_every_s)

    # ------------------------------------------------------------------ which

    def readables(self) -> list[Readable]:
        """Every SAE of every cache, the cache merged last coming last.

        Raises:
            UnknownNameError: There is none yet.
        """
        return self._readables.get()

    def chosen(self, sae: str | None, cache: str | None) -> list[Readable]:
        """SAEs of one cache: of the one named, else of the one merged last that holds ``sae``, else of the last one.

        Raises:
            UnknownNameError: There is no such cache or SAE, or several SAEs are called so.
        """
        there = self._of_cache(cache)
        there = there if sae is None else of_sae(there, sae)
        return [one for one in there if one.cache_id == there[-1].cache_id]

    def find(self, name: str, cache: str | None = None) -> tuple[Readable, int]:
        """The feature that ``<sae>/<index>`` or ``f_<layer>_<index>`` names, of the cache merged last that holds it.

        Raises:
            InputError: It is neither, or names several features, which are listed.
            UnknownNameError: There is no such feature or cache.
        """
        there = self._of_cache(cache)
        return feature_of_any_cache(there, name) if cache is None else one_feature(there, name, cache_option="cache=")

    def own_of(self, one: Readable) -> Own:
        """What else is known of an SAE of a cache."""
        return next(own for own in self.own.held(one.sae) if own.cache_id == one.cache_id)

    def model_of(self, own: Own) -> str:
        """The one name of the model that an SAE belongs to; empty where nobody says."""
        entry = self.catalog.get(own.sae)
        return entry.model if entry is not None else own.model and self.catalog.aliases.canonical(own.model)

    def reader(self, one: Readable) -> CacheReader:
        """The reader of its cache."""
        return self.own.reader(one.cache_id)

    # ------------------------------------------------------------------ what

    def page(
        self, chosen: Sequence[Readable], wanted: Wanted, limit: int, offset: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Features of SAEs of one cache: see :meth:`raylens.labels.feature_list.FeatureTables.page`."""
        return self._tables.page(chosen[0].cache_id, [one.sae for one in chosen], wanted, limit, offset)

    def rows_of(self, chosen: Sequence[Readable], features: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
        """Rows of given features: see :meth:`raylens.labels.feature_list.FeatureTables.rows_of`."""
        return self._tables.rows_of(chosen[0].cache_id, [one.sae for one in chosen], features)

    def matching(self, chosen: Sequence[Readable], wanted: Wanted) -> dict[SaeId, NDArray[np.int64]]:
        """Indices of wanted features: see :meth:`raylens.labels.feature_list.FeatureTables.matching`."""
        return self._tables.matching(chosen[0].cache_id, [one.sae for one in chosen], wanted)

    def sample(
        self, chosen: Sequence[Readable], wanted: Wanted, most: int, *, with_f1: bool = False
    ) -> tuple[list[dict[str, Any]], int]:
        """Some of the wanted features: see :meth:`raylens.labels.feature_list.FeatureTables.sample`."""
        return self._tables.sample(chosen[0].cache_id, [one.sae for one in chosen], wanted, most, with_f1=with_f1)

    def histograms(self, one: Readable, indices: Sequence[int]) -> NDArray[np.int64]:
        """Counts of activations ``[len(indices), HISTOGRAM_BINS]`` (:func:`raylens.schema.histogram_edges`)."""
        table = self.reader(one).rows_of("feature_stats", one.sae, indices, ["feature", "histogram"])
        found = {} if table is None else dict(zip(*table.to_pydict().values(), strict=True))
        return np.array([found.get(index, [0] * HISTOGRAM_BINS) for index in indices], np.int64)

    def map_of(self, one: Readable, indices: Sequence[int]) -> dict[int, tuple[float, float]]:
        """Places of features on the map of decoder directions; those of which none was made are left out."""
        table = self.reader(one).rows_of("map", one.sae, indices, ["feature", "x", "y"])
        return (
            {}
            if table is None
            else {feature: (x, y) for feature, x, y in zip(*table.to_pydict().values(), strict=True)}
        )

    def search(
        self,
        chosen: Sequence[Readable],
        query: str,
        embed: Embed | None,
        limit: int,
        offset: int,
        among: Mapping[SaeId, NDArray[np.integer]] | None = None,
    ) -> Found:
        """Features of SAEs of one cache by what is said of them: see :func:`raylens.search.features.search`."""
        cache, saes = self.workspace.cache(chosen[0].cache_id), [one.sae for one in chosen]
        return search(self.workspace, cache, saes, query, embed, limit=limit, offset=offset, among=among)

    def card(self, one: Readable, index: int) -> Card:
        """All that is known of a feature but its windows: see :func:`raylens.store.feature_card.read_card`."""
        return read_card(self.workspace, self.reader(one), one, index, find=self.own.find, words=self.own.labels.read())

    def largest(self, one: Readable, index: int) -> float:
        """The largest activation of a feature in its cache; 0 where it never fires there."""
        peaks = self.reader(one).peaks(one.sae, index)
        return float(peaks[0]) if len(peaks) else 0.0

    def measured(self, one: Readable, index: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of ``schema.EXPLANATIONS`` and ``schema.SCORES`` about a feature, those of controls among them."""
        cache = self.workspace.cache(one.cache_id)
        return self.own.find(cache, one.sae, "explanations", index), self.own.find(cache, one.sae, "scores", index)

    def windows(
        self, one: Readable, index: int, low: float, high: float, n: int, *, sampled: bool = False
    ) -> list[Example]:
        """Windows with ``low <= peak < high``, the highest or a sample of all: see :class:`CacheReader`."""
        reader = self.reader(one)
        return reader.examples(reader.windows_in_interval(one.sae, index, low, high, n, _SEED if sampled else None))

    def pair(self, first: tuple[Readable, int], second: tuple[Readable, int]) -> tuple[float | None, Overlap | None]:
        """Cosine of the decoder rows of two features, and how they overlap in a cache that holds both; see there."""
        (one, index), (other, other_index) = first, second
        names = FeatureId(one.sae, index), FeatureId(other.sae, other_index)
        both = {each.cache_id for each in self.own.held(one.sae)} & {each.cache_id for each in self.own.held(other.sae)}
        held = [each.cache_id for each in self.own.held(one.sae) if each.cache_id in both]
        cache = one.cache_id if one.cache_id in both else held[-1] if held else None
        whole = cache is not None and self.own.reader(cache).holds_all
        shared = overlap(self.own.reader(cache), *names) if cache is not None and whole else None
        return decoder_cosine(*names, self.catalog), shared

    def say(self, feature: FeatureId, author: str, **what: Any) -> Words:
        """Write what a person says, and return all that people say now: see :meth:`raylens.store.labels.Labels.say`."""
        self.own.labels.say(feature, author, **what)
        self._tables.look()
        return self.own.labels.read()

    def holds(self, sae: SaeId) -> bool:
        """Whether a cache holds an SAE."""
        return bool(self.own.held(sae))

    def close(self) -> None:
        """Let go of files and rows."""
        self._tables.close()
        self.own.close()

    def _of_cache(self, cache: str | None) -> list[Readable]:
        if cache is None:
            return self.readables()
        cache_id = self.workspace.resolve_cache(cache).cache_id
        found = [one for one in self.readables() if one.cache_id == cache_id]
        if not found:
            raise UnknownNameError(
                f"cache {cache_id} holds nothing to read yet.", hint="its first merge has not finished."
            )
        return found
