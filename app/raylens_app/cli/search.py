"""``raylens features --search``: features by what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylens.ids import FeatureId
from raylens_app.cli.output import Column, note, print_json, print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from raylens.search.features import Hit
    from raylens.store.phrases import Embed
    from raylens.store.reader import CacheReader
    from raylens.store.selection import Readable
    from raylens.store.workspace import Workspace


def search_features(
    workspace: Workspace,
    reader: CacheReader,
    chosen: Sequence[Readable],
    query: str,
    densities: tuple[float | None, float | None],
    offset: int,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """Print the features of SAEs of one cache that fit ``query``, the best first."""
    from raylens.search.features import search

    by_sae = {one.sae: one for one in chosen}
    among = {sae: _within(reader, one, densities) for sae, one in by_sae.items()} if any_of(densities) else None
    found = search(
        workspace,
        workspace.cache(reader.cache_id),
        list(by_sae),
        query,
        embedding(),
        limit=limit,
        offset=offset,
        among=among,
        say=note,
    )
    rows = [_row(by_sae[hit.sae], hit) for hit in found.hits]
    if as_json:
        print_json([{key: value for key, value in row.items() if key != "who"} for row in rows])
        return
    if not rows:
        if found.n_features:
            note(f"{found.n_features:,} features fit, all before --offset {offset}.")
        else:
            note("nothing that is said of a feature fits; raylens explain and raylens label say more.")
        return
    columns = [
        Column("id", "feature", style="bold"),
        Column("score", "score", "right", lambda value: f"{value:.2f}"),
        Column("similarity", "meaning", "right", lambda value: f"{value:.2f}"),
        Column("words", "words", "right", lambda value: f"{value:.1f}"),
        Column("text", "what fits", wrap=True),
        Column("who", "says"),
        *([Column("sae", "SAE")] if len(by_sae) > 1 else []),
    ]
    print_table(rows, columns)
    if left := found.n_features - offset - len(rows):
        note(f"{left:,} more; --offset {offset + limit} goes on.")


def any_of(bounds: tuple[float | None, float | None]) -> bool:
    """Whether either bound is given."""
    return bounds != (None, None)


def embedding() -> Embed | None:
    """The bundled embedding; None, with a note, where its libraries are not installed."""
    try:
        from raylens.bundle.embedding import embed

        embed(["word"])
    except ModuleNotFoundError as error:
        note(f"searching by words alone: {error.name} is not installed, pip install 'raylens[models]' adds it.")
        return None
    return embed


def _within(
    reader: CacheReader, one: Readable, densities: tuple[float | None, float | None]
) -> NDArray[np.integer[Any]]:
    from raylens_app.cli.features import within

    table = reader.table("feature_stats", one.sae, ["feature", "density"])
    assert table is not None, "every merged SAE has statistics"
    return within(table, *densities)["feature"].to_numpy()


def _row(one: Readable, hit: Hit) -> dict[str, Any]:
    return {
        "id": one.short(hit.feature),
        "feature_id": str(FeatureId(one.sae, hit.feature)),
        "cache_id": one.cache_id,
        "sae": str(one.sae),
        "feature": hit.feature,
        "score": hit.score,
        "similarity": hit.similarity,
        "words": hit.words,
        "text": hit.text,
        "explainer": hit.explainer,
        "author": hit.author,
        "explanation_id": hit.explanation_id,
        "who": f"{hit.explainer}, {hit.author}" if hit.author else hit.explainer,
    }
