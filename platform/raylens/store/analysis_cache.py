"""Feature analyses out of a cache, and into one of their own.

An analysis that is taken in becomes a cache that holds its windows alone, under an id that its content gives: nothing
that the workspace made itself is touched, and the same analysis is taken in once. It has no shards, so that nothing
merges it anew from what is a part: statistics stay those of the cache that they were counted in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa

from raylens.errors import InputError, UnknownNameError
from raylens.ids import SaeId, cache_id
from raylens.schema import ACTIVATIONS, EXPLANATIONS, SCORES
from raylens.store import parquet
from raylens.store.analysis import MOST_TOP, NOTE, TABLES, Analysis, AnalysisHeader, Pass
from raylens.store.compact import WINDOWS_PER_FILE
from raylens.store.findings import FindingKind, Findings, passes
from raylens.store.housekeeping import remove_unfinished
from raylens.store.manifest import FileEntry, Kind, Manifest, new_generation
from raylens.store.merge import whole_windows
from raylens.store.parts import part
from raylens.store.publish import write_feature_table
from raylens.store.ranges import feature_ranges
from raylens.store.reader import CacheReader
from raylens.store.redact import plain_settings
from raylens.store.workspace import CacheStore, Workspace

_OF_FEATURES: Final[tuple[Kind, ...]] = ("logits", "neighbours", "encoder_neighbours", "cofiring", "map")
_KINDS: Final[tuple[FindingKind, ...]] = ("explanations", "scores")


def read_from_cache(workspace: Workspace, name: str, sae: SaeId, top: int) -> Analysis:
    """All that a cache says of the features of one SAE.

    Args:
        workspace: Where.
        name: Of the cache.
        sae: Which SAE.
        top: Windows of each feature, the strongest.

    Raises:
        UnknownNameError: There is no such cache, or it does not hold the SAE.
        InputError: ``top`` is out of range.
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """
    if not 1 <= top <= MOST_TOP:
        raise InputError(f"{top} windows of a feature are too few or too many.", hint=f"ask for 1 to {MOST_TOP:,}.")
    reader = CacheReader(workspace, name)
    d_sae = reader.d_sae(sae)
    try:
        activations = _strongest(reader, sae, d_sae, top)
        used, places = np.unique(activations["window_id"].to_numpy(), return_inverse=True)
        windows = reader.windows(used.tolist()) if len(used) else TABLES["windows"].empty_table()
        documents, owners = np.unique(windows["doc_id"].to_numpy(), return_inverse=True)
        tables = {
            "activations": _replaced(activations, "window_id", places),
            "windows": _replaced(_replaced(windows, "window_id", np.arange(len(used))), "doc_id", owners),
            "documents": _replaced(
                reader.documents(TABLES["documents"].names).take(pa.array(documents)),
                "doc_id",
                np.arange(len(documents)),
            ),
        }
        for kind in ("feature_stats", *_OF_FEATURES):
            table = reader.table(cast(Kind, kind), sae)
            if table is not None:
                tables[kind] = table
    finally:
        reader.close()
    found, said = _findings(reader.cache, sae)
    tables = {name: table.cast(TABLES[name]).combine_chunks() for name, table in (tables | said).items()}
    return Analysis(_header(reader, sae, d_sae, top, found), tables)


def write_to_cache(workspace: Workspace, analysis: Analysis, owner: str, name: str | None = None) -> tuple[str, bool]:
    """Take an analysis in, as a cache of its own.

    Args:
        workspace: Where to.
        analysis: Checked (:mod:`raylens.store.analysis_checks`).
        owner: The run that does it.
        name: What to call the cache; by default nothing.

    Returns:
        The cache's id, and whether it is new.

    Raises:
        BusyError: Another run takes the same in.
        DiskFullError: No space; nothing is left.
    """
    header = analysis.header
    identity = {"imported": NOTE, "content": analysis.content(), "pack": header.packed}
    cache = workspace.cache(cache_id(identity))
    with cache.lock(owner) as lock:
        if cache.exists():
            return cache.cache_id, False
        try:
            entries = list(_files(cache, analysis, cache.cache_id))
            for number, one in enumerate(header.passes):
                _write_pass(cache, header.sae_id, one, analysis.tables[one.kind], number)
            cache.write_sae(header.sae_id, {"spec": header.spec})
            cache.publish(_manifest(cache, analysis, entries), lock)
            info = header.model_dump(mode="json")
            own = {key: info[key] for key in ("model", "revision", "ctx_len", "prefix_ids")}
            texts = [f"analysis of cache {header.cache_name or header.cache_id}"]
            # What makes the cache exist: last.
            cache.write_info({"identity": identity, **own, "texts": texts, "name": name, NOTE: info})
        except BaseException:
            remove_unfinished(cache)
            raise
    return cache.cache_id, True


def _strongest(reader: CacheReader, sae: SaeId, d_sae: int, top: int) -> pa.Table:
    """Rows of the strongest windows of each feature, in the order of a merged file."""
    columns: list[list[np.ndarray]] = [[] for _ in ACTIVATIONS]
    for feature in range(d_sae):
        for one in reader.top_windows(sae, feature, top):
            n = len(one.positions)
            row = (np.full(n, feature), np.full(n, one.peak), np.full(n, one.window_id), one.positions, one.activations)
            for column, values in zip(columns, row, strict=True):
                column.append(values)
    return pa.table(
        {
            field.name: np.concatenate(column or [np.zeros(0)]).astype(field.type.to_pandas_dtype())
            for field, column in zip(ACTIVATIONS, columns, strict=True)
        },
        schema=ACTIVATIONS,
    )


def _replaced(table: pa.Table, column: str, values: np.ndarray) -> pa.Table:
    place = table.schema.get_field_index(column)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


def _findings(cache: CacheStore, sae: SaeId) -> tuple[list[Pass], dict[str, pa.Table]]:
    """Passes in an order that their settings give, and their rows."""
    listed: list[Pass] = []
    tables: dict[str, pa.Table] = {}
    for kind in _KINDS:
        found = [(plain_settings(one.settings), one) for one in passes(cache, sae, kind)]
        rows: list[pa.Table] = [TABLES[kind].empty_table()]
        for settings, one in sorted(found, key=lambda pair: json.dumps(pair[0], sort_keys=True)):
            table = one.read()
            if table.num_rows:
                this = Pass(kind=kind, settings=dict(settings))
                if this not in listed:  # two may differ in nothing but what is secret
                    listed.append(this)
                number = pa.array(np.full(table.num_rows, listed.index(this), np.int16))
                rows.append(table.add_column(0, TABLES[kind].field(0), number).cast(TABLES[kind]))
        tables[kind] = pa.concat_tables(rows)
    return listed, tables


def _header(reader: CacheReader, sae: SaeId, d_sae: int, top: int, found: list[Pass]) -> AnalysisHeader:
    before = reader.info.get(NOTE)
    if before is not None:  # taken in: figures stay those of the cache that they were counted in
        header = AnalysisHeader.model_validate_json(json.dumps(before))
        return header.model_copy(update={"top": min(top, header.top), "passes": found})
    info, known = reader.info, reader.cache.saes().get(sae)
    if known is None:
        raise UnknownNameError.among("SAE of this cache", str(sae), map(str, reader.saes))
    totals = reader.manifest.sae_totals[str(sae)]
    model, revision, ctx_len = (info.get(key) for key in ("model", "revision", "ctx_len"))
    return AnalysisHeader(
        sae=str(sae),
        d_sae=d_sae,
        spec=plain_settings(known.get("spec") or {}),
        model=str(model) if model else None,
        revision=str(revision) if revision else None,
        ctx_len=int(ctx_len) if ctx_len else None,
        prefix_ids=[int(one) for one in info.get("prefix_ids") or ()],
        packed=bool((info.get("identity") or {}).get("pack")),
        cache_id=reader.cache_id,
        cache_name=str(info.get("name") or "")[:200],
        n_windows=int(totals["n_windows"]),
        n_text_tokens=int(totals["n_text_tokens"]),
        n_special_tokens=int(totals["n_special_tokens"]),
        n_activations=int(totals["n_activations"]),
        top=top,
        passes=found,
    )


def _files(cache: CacheStore, analysis: Analysis, made_from: str) -> Iterator[FileEntry]:
    tables, sae, folder = analysis.tables, analysis.header.sae, cache.generation_folder(made_from)
    for index, first in enumerate(range(0, tables["windows"].num_rows, WINDOWS_PER_FILE)):
        rows = tables["windows"].slice(first, WINDOWS_PER_FILE)
        ends = {"window_first": first, "window_last": first + rows.num_rows - 1}
        with part(cache, f"{folder}/windows/{index:04d}.parquet", parquet.WINDOWS, kind="windows", **ends) as writer:
            writer.append(rows)
        yield writer.entry
    with part(cache, f"{folder}/documents.parquet", parquet.DOCUMENTS, kind="documents") as writer:
        writer.append(tables["documents"])
    yield writer.entry
    features = tables["activations"]["feature"].to_numpy()
    for index, (low, high) in enumerate(feature_ranges(analysis.header.d_sae)):
        first, last = np.searchsorted(features, [low, high]).tolist()
        bounds: dict[str, Any] = {"sae": sae, "feature_first": low, "feature_last": high - 1}
        path = f"{folder}/activations/{index:04d}.parquet"
        with part(cache, path, parquet.ACTIVATIONS, kind="activations", **bounds) as writer:
            rows = tables["activations"].slice(first, last - first)
            for group in whole_windows([rows], parquet.ACTIVATIONS.group_rows):
                writer.group(group)
        yield writer.entry
    path = f"{folder}/feature_stats.parquet"
    with part(cache, path, parquet.FEATURE_STATS, kind="feature_stats", sae=sae) as writer:
        writer.append(tables["feature_stats"])
    yield writer.entry
    for kind in _OF_FEATURES:
        if kind in tables:
            yield write_feature_table(cache, SaeId.parse(sae), kind, tables[kind], {NOTE: made_from})


def _write_pass(cache: CacheStore, sae: SaeId, one: Pass, table: pa.Table, number: int) -> None:
    rows = table.filter(pa.array(table["pass"].to_numpy() == number))
    found = Findings(cache, sae, one.kind, one.settings)
    found.begin()
    columns = EXPLANATIONS if one.kind == "explanations" else SCORES
    if rows.num_rows:
        found.write(np.unique(rows["feature"].to_numpy()).tolist(), rows.select(columns.names))


def _manifest(cache: CacheStore, analysis: Analysis, entries: list[FileEntry]) -> Manifest:
    header, tables = analysis.header, analysis.tables
    now = datetime.now(UTC)
    counts: dict[str, int | float] = {
        "n_windows": tables["windows"].num_rows,
        "n_text_tokens": header.n_text_tokens,
        "n_special_tokens": header.n_special_tokens,
    }
    of_sae = counts | {"d_sae": header.d_sae, "n_activations": tables["activations"].num_rows}
    return Manifest(
        generation=new_generation(now),
        created_at=now,
        cache_id=cache.cache_id,
        entries=tuple(entries),
        totals=counts | {"n_documents": tables["documents"].num_rows},
        sae_totals={header.sae: of_sae},
    )
