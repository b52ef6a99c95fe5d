"""The end of a merge: one manifest of everything readers may open, and one switch to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, get_args

import pyarrow as pa

from raylens.errors import DamagedFileError, RunError
from raylens.ids import SaeId, digest
from raylens.store.lock import Lock
from raylens.store.manifest import FileEntry, Kind, Manifest, new_generation
from raylens.store.merge import SaeMerge
from raylens.store.parquet import TableFile, layout_of
from raylens.store.parts import made, part
from raylens.store.windows import WindowsShard
from raylens.store.workspace import CacheStore

_OF_FEATURES: Final = frozenset({"logits", "neighbours", "encoder_neighbours", "cofiring", "map"})


def feature_table(cache: CacheStore, sae: SaeId, kind: Kind, made_from: Mapping[str, object]) -> FileEntry | None:
    """The entry of a table written before by :func:`write_feature_table` from the same things, else None."""
    return made(cache, _table_path(cache, sae, kind, made_from))


def copied_feature_table(
    cache: CacheStore, others: Iterable[CacheStore], sae: SaeId, kind: Kind, made_from: Mapping[str, object]
) -> FileEntry | None:
    """As :func:`feature_table`, of a table that another cache has from the same things: it is copied to this one.

    Args:
        cache: Where to.
        others: Where it may be; one that is gone or damaged there is passed over.
        sae: Whose.
        kind: Which table.
        made_from: As for :func:`write_feature_table`.
    """
    for other in others:
        entry = feature_table(other, sae, kind, made_from)
        if entry is None:
            continue
        try:
            with TableFile(other.files, entry.path, remedy="merge that cache again.") as file:
                table = file.read()
        except DamagedFileError:
            continue
        return write_feature_table(cache, sae, kind, table, made_from)
    return None


def write_feature_table(
    cache: CacheStore, sae: SaeId, kind: Kind, table: pa.Table, made_from: Mapping[str, object]
) -> FileEntry:
    """Write a table about the features of one SAE (``logits``, ``neighbours`` …), to be given to :func:`finish_merge`.

    Args:
        cache: Where to.
        sae: Whose.
        kind: Which table; its schema is that of :mod:`raylens.schema`.
        table: Rows in feature order.
        made_from: What determines the table, JSON values: the SAE's fingerprint, the sampled shards …

    Raises:
        RunError: ``kind`` is not a table about single features.
    """
    if kind not in _OF_FEATURES:
        raise RunError(f"{kind} is not a table of features.", hint=f"there are {', '.join(sorted(_OF_FEATURES))}.")
    path = _table_path(cache, sae, kind, made_from)
    with part(cache, path, layout_of(table.schema), kind=kind, sae=str(sae)) as writer:
        writer.append(table)
    return writer.entry


def finish_merge(
    cache: CacheStore,
    lock: Lock,
    *,
    windows: Sequence[WindowsShard],
    merges: Sequence[SaeMerge],
    entries: Iterable[FileEntry],
) -> Manifest:
    """Make merged files what readers see, by one switch; until then they see what they saw.

    SAEs of the generation before that are not among ``merges`` stay as they were.

    Args:
        cache: Which cache.
        lock: Its lock, held by this run.
        windows: All shards of windows.
        merges: The SAEs that were merged.
        entries: Of all files of this merge: windows, documents, and everything of ``merges``.

    Raises:
        RunError: A file of the merge is missing among ``entries``, or windows that activations lie in.
        StoppedError: The lock was lost to another run; nothing was switched.
    """
    listed = list(entries)
    for merge in merges:
        _require(listed, merge)
    before = cache.manifest()
    renewed = {merge.sae for merge in merges}
    stay = [entry for entry in before.entries if entry.sae and entry.sae not in renewed] if before else []
    kept_totals = {sae: totals for sae, totals in before.sae_totals.items() if sae not in renewed} if before else {}
    totals = {**kept_totals, **{merge.sae: merge.totals for merge in merges}}
    _require_windows(listed, totals)
    now = datetime.now(UTC)
    manifest = Manifest(
        generation=new_generation(now),
        created_at=now,
        cache_id=cache.cache_id,
        entries=tuple(sorted([*listed, *stay], key=_place)),
        totals={
            "n_windows": sum(shard.n_windows for shard in windows),
            "n_text_tokens": sum(shard.n_text_tokens for shard in windows),
            "n_special_tokens": sum(shard.n_special_tokens for shard in windows),
            "n_documents": sum(entry.rows for entry in listed if entry.kind == "documents"),
        },
        sae_totals=totals,
    )
    cache.publish(manifest, lock)
    return manifest


def _place(entry: FileEntry) -> tuple[int, str, int, int, str]:
    """Order of files in a manifest, and so of rows in the views: by table, SAE, feature and window."""
    kind = get_args(Kind).index(entry.kind)
    return kind, entry.sae or "", entry.feature_first or 0, entry.window_first or 0, entry.path


def _require(entries: Sequence[FileEntry], merge: SaeMerge) -> None:
    own = [entry for entry in entries if entry.sae == merge.sae]
    n_ranges = sum(entry.kind == "activations" for entry in own)
    n_rows = sum(entry.rows for entry in own if entry.kind == "activations")
    has_statistics = any(entry.kind == "feature_stats" for entry in own)
    if n_ranges != merge.n_ranges or n_rows != merge.totals["n_activations"] or not has_statistics:
        raise RunError(
            f"the merge of {merge.sae} is incomplete: {n_ranges} of {merge.n_ranges} ranges, "
            f"{n_rows} of {merge.totals['n_activations']} activations.",
            hint="run the same cache command again: it makes what is missing.",
        )


def _require_windows(entries: Sequence[FileEntry], totals: Mapping[str, Mapping[str, int | float]]) -> None:
    n_windows = sum(entry.rows for entry in entries if entry.kind == "windows")
    for sae, counts in totals.items():
        if counts["n_windows"] > n_windows:
            raise RunError(
                f"{sae} has activations in {counts['n_windows']} windows, and the merge lists only {n_windows}.",
                hint="list all windows of the cache, not only those of this run.",
            )


def _table_path(cache: CacheStore, sae: SaeId, kind: Kind, made_from: Mapping[str, object]) -> str:
    folder = digest({"sae": str(sae), "kind": kind, "made_from": dict(made_from)})[:16]
    return f"{cache.generation_folder(folder)}/{kind}.parquet"
