"""Features of a cache a page at a time, in any order: one row each, with the best that is said of it.

The rows of an SAE are put together once, in DuckDB, and stay there while nothing is merged, explained, scored or said;
a page is then a query. 131 072 features with an explanation and three scores each take about 100 MB and, once, some
seconds; after that a page takes about 15 ms.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens import schema
from raylens.api.extraction import Bucket
from raylens.ids import SaeId
from raylens.labels.buckets import bucket_of
from raylens.labels.own_features import OwnFeatures
from raylens.labels.page_shapes import HEADLINES
from raylens.store.findings import REMEDY, FindingKind, stamped
from raylens.store.kept import Kept
from raylens.store.parquet import TableFile

_HELD: Final = 16
"""SAEs whose rows are held at a time."""

SORTS: Final = {
    "density": "density",
    "max": "max_activation",
    "mean": "mean_activation",
    "windows": "n_windows",
    "score": "score",
    "index": "feature",
}
"""Names of orders, and the column of each."""

_STATISTICS: Final = ("feature", "n_active", "n_windows", "density", "mean_activation", "max_activation")
_FINDINGS: Final[dict[FindingKind, tuple[str, ...]]] = {
    "explanations": ("feature", "explanation_id", "run_id", "explainer", "model", "explanation", "status"),
    "scores": (
        *("feature", "explanation_id", "run_id", "scorer", "judge", "control", "metric"),
        *("value", "ci_low", "ci_high", "n", "n_failed"),
    ),
}

# Of equal figures that of the last run counts, of a scorer's metrics its headline, of explanations the one with the
# best mean and of these the shortest: as raylens.store.findings.latest_of, raylens.labels.page_shapes and
# raylens.labels.best have it for one feature.
_ROWS: Final = """
CREATE TABLE {name} AS
WITH said AS (
    SELECT * FROM e WHERE explanation_id IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY feature, explanation_id ORDER BY coalesce(run_id, '') DESC, explanation DESC NULLS LAST
    ) = 1
), measured AS (
    SELECT * REPLACE (coalesce(judge, '') AS judge) FROM s
    QUALIFY row_number() OVER (
        PARTITION BY feature, explanation_id, scorer, judge, control, metric
        ORDER BY coalesce(run_id, '') DESC, value DESC NULLS LAST
    ) = 1
), headlines AS (
    SELECT * FROM measured WHERE control IS NULL AND value IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY feature, explanation_id, scorer, judge
        ORDER BY coalesce(nullif(list_position($headlines, metric), 0), 99), metric
    ) = 1
), scored AS (
    SELECT feature, explanation_id, avg(value) AS score,
        list({{'scorer': scorer, 'judge': nullif(judge, ''), 'metric': metric, 'value': value, 'ci_low': ci_low,
            'ci_high': ci_high, 'n': n, 'n_failed': n_failed}} ORDER BY scorer, judge) AS scores
    FROM headlines GROUP BY feature, explanation_id
), best AS (
    SELECT feature, explanation_id, explainer, model, explanation, score, scores,
        count(*) OVER (PARTITION BY feature) AS n_explanations
    FROM said LEFT JOIN scored USING (feature, explanation_id)
    WHERE status = 'ok' AND explanation <> ''
    QUALIFY row_number() OVER (
        PARTITION BY feature
        ORDER BY score DESC NULLS LAST, length(explanation), explanation, explainer, coalesce(model, ''), explanation_id
    ) = 1
)
SELECT t.*, best.* EXCLUDE (feature, model, n_explanations), coalesce(best.n_explanations, 0) AS n_explanations,
    p.label, p.author, coalesce(p.starred, false) AS starred, coalesce(b.bucket, 'unknown') AS bucket
FROM t LEFT JOIN best USING (feature) LEFT JOIN p USING (feature)
    LEFT JOIN b ON b.text = coalesce(p.label, best.explanation)
"""

_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "python_enable_replacements": False,
    "enable_external_access": False,
}
_PEOPLE: Final = pa.schema(
    [("feature", pa.int32()), ("label", pa.string()), ("author", pa.string()), ("starred", pa.bool_())]
)
_BUCKETS: Final = pa.schema([("text", pa.string()), ("bucket", pa.string())])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which features, and in which order; what is None does not matter.

    Attributes:
        min_density: Fire on at least this share of tokens.
        max_density: On at most this one.
        min_score: Mean score of the best explanation.
        explained: Whether an explainer or a person says something.
        dead: Whether it never fires.
        bucket: Of what is said.
        sort: Of :data:`SORTS`; what has no value comes last, equal ones in order of SAE and index.
        descending: Largest first.
    """

    min_density: float | None = None
    max_density: float | None = None
    min_score: float | None = None
    explained: bool | None = None
    dead: bool | None = None
    bucket: Bucket | None = None
    sort: str = "density"
    descending: bool = True

    def clause(self) -> tuple[str, list[Any]]:
        """As SQL, with its parameters."""
        said = "(explanation IS NOT NULL OR label IS NOT NULL)"
        chosen: list[tuple[str, list[Any]]] = [
            ("density >= ?", [self.min_density] if self.min_density is not None else []),
            ("density <= ?", [self.max_density] if self.max_density is not None else []),
            ("score >= ?", [self.min_score] if self.min_score is not None else []),
            ("bucket = ?", [self.bucket] if self.bucket is not None else []),
            (f"{said} = ?", [self.explained] if self.explained is not None else []),
            ("(n_active = 0) = ?", [self.dead] if self.dead is not None else []),
        ]
        kept = [(text, values) for text, values in chosen if values]
        return " AND ".join(text for text, _ in kept) or "true", [one for _, values in kept for one in values]


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows of an SAE in DuckDB, by the name of a table; ``names`` are the tables that there are of it."""

    rows: Kept[str]
    names: list[str]


class FeatureTables:
    """The lists; safe to use from several threads.

    Args:
        own: The workspace's features.
        look_every_s: Seconds within which nobody looks for what is new.
    """

    def __init__(self, own: OwnFeatures, look_every_s: float = 0.0) -> None:
        self._own, self._look_every_s = own, look_every_s
        self._turn = threading.Lock()
        self._opened: duckdb.DuckDBPyConnection | None = None
        self._numbers = count()
        self._tables: OrderedDict[tuple[str, SaeId], _Table] = OrderedDict()

    def page(
        self, cache_id: str, saes: Sequence[SaeId], wanted: Wanted, limit: int, offset: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Rows of a page, each with its ``sae`` as a number of ``saes``, and how many features there are in all.

        Raises:
            UnknownNameError: The cache, or an SAE in it, does not exist.
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        clause, values = wanted.clause()
        with self._turn:
            found = f"FROM ({self._union(cache_id, saes)}) WHERE {clause}"
            direction = "DESC" if wanted.descending else "ASC"
            order = f"ORDER BY {SORTS[wanted.sort]} {direction} NULLS LAST, sae, feature"
            [[total]] = self._database.sql(f"SELECT count(*) {found}", params=values).fetchall()
            rows = self._database.sql(f"SELECT * {found} {order} LIMIT ? OFFSET ?", params=[*values, limit, offset])
            return rows.to_arrow_table().to_pylist(), int(total)

    def rows_of(
        self, cache_id: str, saes: Sequence[SaeId], features: Iterable[tuple[int, int]]
    ) -> list[dict[str, Any]]:
        """Rows as :meth:`page` gives them, of features named by (number of ``saes``, index), in their order.

        Raises:
            UnknownNameError, DamagedFileError: As :meth:`page`.
        """
        wanted = list(features)
        with self._turn:
            these = "(sae, feature) IN (SELECT unnest(?), unnest(?))"
            query = f"SELECT * FROM ({self._union(cache_id, saes)}) WHERE {these}"
            columns = [[sae for sae, _ in wanted], [feature for _, feature in wanted]]
            rows = self._database.sql(query, params=columns).to_arrow_table().to_pylist()
        by_name = {(row["sae"], row["feature"]): row for row in rows}
        return [by_name[name] for name in wanted if name in by_name]

    def matching(self, cache_id: str, saes: Sequence[SaeId], wanted: Wanted) -> dict[SaeId, NDArray[np.int64]]:
        """Indices of the features that are wanted, ascending, by SAE; raises as :meth:`page`."""
        clause, values = wanted.clause()
        with self._turn:
            query = f"SELECT sae, feature FROM ({self._union(cache_id, saes)}) WHERE {clause} ORDER BY sae, feature"
            found = self._database.sql(query, params=values).to_arrow_table()
        place, feature = found["sae"].to_numpy(), found["feature"].to_numpy().astype(np.int64)
        return {sae: feature[place == number] for number, sae in enumerate(saes)}

    def sample(
        self, cache_id: str, saes: Sequence[SaeId], wanted: Wanted, most: int, *, with_f1: bool = False
    ) -> tuple[list[dict[str, Any]], int]:
        """At most ``most`` of the features that are wanted, always the same ones, and how many there are in all.

        Args:
            cache_id: Of which cache.
            saes: Of which SAEs.
            wanted: Which features; their order does not matter.
            most: Rows at most: what a chart can show.
            with_f1: Only features whose explanation has an F1.

        Returns:
            Rows with ``sae`` (a number of ``saes``), ``feature``, ``density``, ``max_activation``, ``score``, ``f1``
            (mean over scorers), ``said`` (label, else explanation) and ``bucket``.

        Raises:
            UnknownNameError, DamagedFileError: As :meth:`page`.
        """
        clause, values = wanted.clause()
        f1 = "list_avg([x.value FOR x IN scores IF x.metric = 'f1'])"
        columns = f"sae, feature, density, max_activation, score, {f1} AS f1, bucket"
        columns += ", coalesce(label, explanation) AS said"
        with self._turn:
            found = f"FROM (SELECT {columns} FROM ({self._union(cache_id, saes)}) WHERE {clause})"
            found += " WHERE f1 IS NOT NULL" if with_f1 else ""
            [[total]] = self._database.sql(f"SELECT count(*) {found}", params=values).fetchall()
            some = f"SELECT * {found} ORDER BY hash(sae, feature), sae, feature LIMIT ?"
            return self._database.sql(some, params=[*values, most]).to_arrow_table().to_pylist(), int(total)

    def look(self) -> None:
        """Look for what is new at the next call."""
        with self._turn:
            for table in self._tables.values():
                table.rows.look()

    def close(self) -> None:
        """Let go of all rows; they are put together again where they are asked for again."""
        with self._turn:
            self._tables.clear()
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    @property
    def _database(self) -> duckdb.DuckDBPyConnection:
        if self._opened is None:
            self._opened = duckdb.connect(":memory:", config=_SETTINGS)
        return self._opened

    def _union(self, cache_id: str, saes: Sequence[SaeId]) -> str:
        """A query for all rows of SAEs of a cache, each with its ``sae`` as a number of ``saes``."""
        names = [self._table(cache_id, sae, max(_HELD, len(saes))) for sae in saes]
        return " UNION ALL ".join(f"SELECT {place} AS sae, * FROM {name}" for place, name in enumerate(names))

    def _table(self, cache_id: str, sae: SaeId, most: int) -> str:
        """The name of the table with the rows of an SAE as they are now; beside ``most - 1`` others at most."""
        key = (cache_id, sae)
        table = self._tables.pop(key, None)
        if table is None:
            while len(self._tables) >= most:
                self._drop(self._tables.popitem(last=False)[1].names)
            names: list[str] = []
            state = partial(self._state, cache_id, sae)
            table = _Table(Kept(state, partial(self._made, cache_id, sae, names), self._look_every_s), names)
        self._tables[key] = table
        return table.rows.get()

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            self._database.execute(f"DROP TABLE IF EXISTS {name}")

    def _state(self, cache_id: str, sae: SaeId) -> Hashable:
        cache = self._own.workspace.cache(cache_id)
        files = [frozenset(stamped(cache, sae, kind).items()) for kind in _FINDINGS]
        return self._own.reader(cache_id).manifest.generation, *files, self._own.labels.state()

    def _made(self, cache_id: str, sae: SaeId, names: list[str]) -> str:
        """The name of a new table with the rows of an SAE; the one before is dropped."""
        statistics = self._own.reader(cache_id).table("feature_stats", sae, _STATISTICS)
        assert statistics is not None, "every merged SAE has statistics"
        explanations, scores = (self._found(cache_id, sae, kind) for kind in _FINDINGS)
        people = self._people(sae)
        texts = {*explanations["explanation"].to_pylist(), *people["label"].to_pylist()} - {None}
        buckets = [{"text": text, "bucket": bucket_of(text)} for text in texts]
        parts = {"t": statistics.select(_STATISTICS), "e": explanations, "s": scores, "p": people}
        for name, table in (parts | {"b": pa.Table.from_pylist(buckets, _BUCKETS)}).items():
            self._database.register(name, table)
        made = f"features_{next(self._numbers)}"
        try:
            self._database.execute(_ROWS.format(name=made), {"headlines": list(HEADLINES)})
        finally:
            for name in (*parts, "b"):
                self._database.unregister(name)
        self._drop(names)
        names[:] = [made]
        return made

    def _found(self, cache_id: str, sae: SaeId, kind: FindingKind) -> pa.Table:
        cache, columns = self._own.workspace.cache(cache_id), _FINDINGS[kind]
        whole = schema.EXPLANATIONS if kind == "explanations" else schema.SCORES
        tables = [pa.schema([whole.field(name) for name in columns]).empty_table()]
        for path in sorted(stamped(cache, sae, kind)):
            with TableFile(cache.files, path, remedy=REMEDY) as file:
                tables.append(file.read(columns=columns).select(columns).cast(tables[0].schema))
        return pa.concat_tables(tables)

    def _people(self, sae: SaeId) -> pa.Table:
        """One row a feature of which somebody says something: the last label, and whether it is starred."""
        said: dict[int, dict[str, Any]] = {}
        for one in sorted(self._own.labels.read().labels_of(sae), key=lambda one: one.at):
            row = said.setdefault(one.feature, {"feature": one.feature, "starred": False})
            row["starred"] |= one.starred
            if one.label is not None:
                row |= {"label": one.label, "author": one.author}
        return pa.Table.from_pylist(list(said.values()), _PEOPLE)
