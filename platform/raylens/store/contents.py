"""What is in a workspace, counted: for who opens it and wants to know what there is to look at."""

from __future__ import annotations

from dataclasses import dataclass

from raylens.errors import DamagedFileError
from raylens.store.audit_listing import finished_places
from raylens.store.findings import findings_in
from raylens.store.views import connect
from raylens.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CacheContents:
    """One cache.

    Attributes:
        cache_id: Which.
        name: It was given; empty without one.
        model: It was read from.
        n_tokens: Tokens of text; None before the first merge.
        n_documents: Likewise.
        saes: Of the merge, or, before the first one, those that it was asked for.
        n_features: Of these SAEs together.
        merged: Whether it can be read.
    """

    cache_id: str
    name: str
    model: str
    n_tokens: int | None
    n_documents: int | None
    saes: tuple[str, ...]
    n_features: int
    merged: bool


@dataclass(frozen=True, slots=True)
class Contents:
    """A workspace.

    Attributes:
        caches: In order of generation, the one merged last coming last; unmerged ones first.
        n_explained: Features of which an explainer says something, each once a cache.
        n_scored: Features whose explanations scorers looked at, likewise.
        n_labelled: Features that people labelled.
        n_audits: Finished audits.
        n_spans: Spans of traces.
        n_read_spans: Of these, such of which features were read.
        unreadable: What could not be counted because a file is damaged, each with why.
    """

    caches: tuple[CacheContents, ...]
    n_explained: int
    n_scored: int
    n_labelled: int
    n_audits: int
    n_spans: int
    n_read_spans: int
    unreadable: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look at."""
        return not (any(one.merged for one in self.caches) or self.n_audits or self.n_spans)


def contents(workspace: Workspace) -> Contents:
    """Count what is there; what is damaged is left out and named.

    Manifests say most of it: of what scorers wrote, tens of rows a feature, nothing is read.
    """
    unreadable: list[str] = []
    caches: list[tuple[str, CacheContents]] = []
    for cache_id in workspace.caches():
        try:
            caches.append(_cache(workspace, cache_id))
        except DamagedFileError as error:
            unreadable.append(error.message)
    scored = {(row.cache_id, row.sae, feature) for row in findings_in(workspace, "scores") for feature in row.features}
    explained = spans = read = labelled = 0
    try:
        with connect(workspace, only=["explanations", "spans", "sae_feature_activations", "labels"]) as connection:
            query = "SELECT count(*) FROM (SELECT DISTINCT cache_id, sae, feature FROM explanations"
            query += " WHERE status = 'ok' AND explainer <> 'human')"
            [(explained,)] = connection.execute(query).fetchall()
            [(spans,)] = connection.execute("SELECT count(*) FROM spans").fetchall()
            [(read,)] = connection.execute("SELECT count(DISTINCT span_id) FROM sae_feature_activations").fetchall()
            query = "SELECT count(*) FROM (SELECT DISTINCT sae, feature FROM labels WHERE label IS NOT NULL)"
            [(labelled,)] = connection.execute(query).fetchall()
    except DamagedFileError as error:
        unreadable.append(error.message)
    return Contents(
        caches=tuple(one for _, one in sorted(caches, key=lambda pair: pair[0])),
        n_explained=explained,
        n_scored=len(scored),
        n_labelled=labelled,
        n_audits=len(finished_places(workspace.files)),
        n_spans=spans,
        n_read_spans=read,
        unreadable=tuple(unreadable),
    )


def _cache(workspace: Workspace, cache_id: str) -> tuple[str, CacheContents]:
    """With the name of its generation, by which caches are put in order."""
    store = workspace.cache(cache_id)
    info, manifest = store.info(), store.manifest()
    name, model = str(info.get("name") or ""), str(info.get("model") or "")
    if manifest is None:
        saes = tuple(map(str, store.saes()))
        return "", CacheContents(cache_id, name, model, None, None, saes, 0, merged=False)
    totals = manifest.totals
    n_features = sum(int(one["d_sae"]) for one in manifest.sae_totals.values())
    return manifest.generation, CacheContents(
        cache_id=cache_id,
        name=name,
        model=model,
        n_tokens=int(totals["n_text_tokens"]) if "n_text_tokens" in totals else None,
        n_documents=int(totals["n_documents"]) if "n_documents" in totals else None,
        saes=tuple(manifest.sae_totals),
        n_features=n_features,
        merged=True,
    )
