"""What caused features, as rows: an edge each of every text that was followed back (view ``edges``).

A text is one of a cache's windows, or any other, which its digest names; so edges lie beside caches, and outlive them.
Many write at once, a text each, without a lock. Of an edge that was worked out again the last row counts.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from raylens.api.provenance import Provenance, ProvenanceEdge
from raylens.ids import digest
from raylens.store.audit_segments import SegmentTable
from raylens.store.files import Files
from raylens.store.parquet import TableFile

FOLDER: Final = "edges"
KEY: Final = ("edge_id",)
_REMEDY: Final = "remove it and the .json beside it, then ask for that provenance again."

EDGES: Final = pa.schema(
    [
        ("edge_id", pa.string()),  # a hash of the result's id, source and target
        ("provenance_id", pa.string()),  # of all that determines the result, but how many sources were asked for
        ("run_id", pa.string()),  # null of a text that was asked about by itself
        ("cache_id", pa.string()),  # null of a text that is no window, as the next
        ("window_id", pa.int32()),
        ("text_digest", pa.string()),  # of its tokens, up to the feature's
        ("model", pa.string()),
        ("revision", pa.string()),
        ("method", pa.string()),  # "gradient", or "integrated-10"
        ("origin", pa.string()),  # the feature that was asked about: <sae>/<index>
        ("origin_token", pa.int32()),
        ("origin_activation", pa.float64()),
        ("target", pa.string()),  # what the edge leads to: that feature, or one that leads to it
        ("target_sae", pa.string()),
        ("target_layer", pa.int32()),
        ("target_token", pa.int32()),
        ("target_activation", pa.float64()),
        ("source", pa.string()),  # <sae>/<index>, or <sae>/error
        ("source_sae", pa.string()),
        ("source_feature", pa.int32()),  # null of an error
        ("layer", pa.int32()),  # of the source
        ("source_token", pa.int32()),
        ("source_activation", pa.float64()),
        ("attribution", pa.float64()),  # this and below: in units of the target's activation
        ("ablation_effect", pa.float64()),
        ("ablated_activation", pa.float64()),
        ("confirmed", pa.bool_()),  # attribution and ablation have one sign
        ("layer_features", pa.float64()),  # what all features of the source's SAE do for the origin
        ("layer_errors", pa.float64()),
        ("layer_rest", pa.float64()),  # what neither does
        ("top", pa.int32()),  # sources of a layer that were asked for
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""A row an edge; layers are null where a hook point names none."""


class Edges:
    """The rows of a workspace; pickles.

    Args:
        files: The workspace's.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._table = edge_table(files)

    def append(
        self,
        found: Provenance,
        *,
        run_id: str | None = None,
        cache_id: str | None = None,
        window_id: int | None = None,
    ) -> None:
        """Add the edges of one text; durable when this returns.

        Args:
            found: What was worked out.
            run_id: Of the run that did.
            cache_id: Where the text is a window of a cache.
            window_id: Likewise, which.

        Raises:
            DiskFullError: No space; nothing was added.
        """
        where = {"run_id": run_id, "cache_id": cache_id, "window_id": window_id}
        self._table.append(pa.Table.from_pylist([row | where for row in rows_of(found)], EDGES))

    def known(self) -> dict[str, int]:
        """``provenance_id`` → the most sources of a layer that were asked for: what need not be worked out again.

        Raises:
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        found: dict[str, int] = {}
        for path in self._table.paths():
            with TableFile(self._files, path, remedy=_REMEDY) as file:
                part = file.read(columns=["provenance_id", "top"]).to_pydict()
            for key, top in zip(part["provenance_id"], part["top"], strict=True):
                found[key] = max(top, found.get(key, 0))
        return found

    def of(self, provenance_ids: Collection[str]) -> list[dict[str, Any]]:
        """Rows of some texts, raises as :meth:`known`."""
        wanted = set(provenance_ids)
        return [row for row in self._table.read().to_pylist() if row["provenance_id"] in wanted]


def edge_table(files: Files) -> SegmentTable:
    """Where the rows of a workspace lie."""
    return SegmentTable(files, FOLDER, EDGES, KEY, "recorded_at")


def rows_of(found: Provenance) -> list[dict[str, Any]]:
    """Rows of :data:`EDGES`, without run, cache and window."""
    shares = {one.sae: one for one in found.layers}
    about = {
        "provenance_id": found.provenance_id,
        "text_digest": found.text_digest,
        "model": found.model,
        "revision": found.revision,
        "method": "gradient" if found.integrated is None else f"integrated-{found.integrated}",
        "origin": found.target.name,
        "origin_token": found.target.token,
        "origin_activation": found.target.activation,
        "top": found.top,
        "recorded_at": datetime.now(UTC),
    }
    rows: list[dict[str, Any]] = []
    for edge in found.edges:
        share = shares[edge.source.sae]
        rest = found.target.activation - share.features - share.errors
        of_layer = {"layer_features": share.features, "layer_errors": share.errors, "layer_rest": rest}
        rows.append(about | _edge(found, edge) | of_layer)
    return rows


def _edge(found: Provenance, edge: ProvenanceEdge) -> dict[str, Any]:
    source, target = edge.source, edge.target
    ends = {"provenance": found.provenance_id, "source": list(source.key), "target": list(target.key)}
    return {
        "edge_id": digest(ends)[:16],
        "target": target.name,
        "target_sae": target.sae,
        "target_layer": target.layer,
        "target_token": target.token,
        "target_activation": target.activation,
        "source": source.name,
        "source_sae": source.sae,
        "source_feature": source.feature,
        "layer": source.layer,
        "source_token": source.token,
        "source_activation": source.activation,
        "attribution": edge.attribution,
        "ablation_effect": edge.ablation_effect,
        "ablated_activation": edge.ablated_activation,
        "confirmed": edge.confirmed,
    }
