"""``/api/v1/features`` and ``/api/v1/saes``: what a workspace holds, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool

from raylens.api.extraction import Bucket
from raylens.api.feature_texts import ActivateAnswer, ActivateRequest, FeatureWindows, Windows
from raylens.api.feature_words import FeatureWords, LabelRequest
from raylens.api.features import (
    Comparison,
    FeatureExplanations,
    FeatureHits,
    FeatureList,
    FeaturePage,
    FeaturePair,
    FeatureScores,
    Order,
    SearchMode,
    Sort,
)
from raylens.api.reading import ValuesRequest
from raylens.api.saes import OfferedSae, Saes, StoredSae
from raylens.api.system import ServedModel
from raylens.catalog import Catalog
from raylens.errors import InputError
from raylens.ids import FeatureId
from raylens.labels.feature_list import Wanted
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.feature_card import promoted
from raylens.store.peak_bounds import bounds_of, bounds_of_share, share_of
from raylens.store.phrases import Embed
from raylens.store.selection import Readable
from raylens.store.workspace import Workspace
from raylens_serve import feature_answers as answers
from raylens_serve.browsing import bundled_embedding, closed_at_the_end
from raylens_serve.responses import problems
from raylens_serve.services import EncoderClient

_PROMOTED: Final = 5
_COMPARED: Final = 8

Feature = Annotated[
    str,
    Path(min_length=1, max_length=1400, description="`<sae>/<index>`, or `f_<layer>_<index>` where one is called so."),
]
Cache = Annotated[
    str | None, Query(min_length=1, max_length=200, description="Id, how it begins, or name; else the one merged last.")
]
SaeName = Annotated[str | None, Query(min_length=1, max_length=1000, description="Its id; the end of it will do.")]
Limit = Annotated[int, Query(ge=1, le=500, description="At most this many.")]
Offset = Annotated[int, Query(ge=0, le=2**31, description="Leave out this many first.")]
Share = Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)]


def feature_routes(
    workspace: Workspace,
    catalog: Catalog,
    encoder: EncoderClient | None,
    *,
    embed: Embed | None = None,
    served: Sequence[ServedModel] = (),
    features: WorkspaceFeatures | None = None,
) -> APIRouter:
    """The routes.

    Args:
        workspace: What is browsed, and labelled.
        catalog: Which SAEs there are besides.
        encoder: Reads texts; None where no model is served.
        embed: For searches by meaning; by default the bundled embedding.
        served: Models that are, for ``/saes``.
        features: The workspace's, where others read them too.
    """
    features = features or WorkspaceFeatures(workspace, catalog)
    routes = APIRouter(prefix="/api/v1", tags=["features"], lifespan=closed_at_the_end(features))

    @routes.get("/saes", responses=problems())
    def saes() -> Saes:
        """SAEs in caches, and those that the catalogue has for their models and for the served ones."""
        stored = [own for one in reversed(features.own.generations()) for own in features.own.of_cache(one[0])]
        names = {own.cache_id: workspace.cache(own.cache_id).name() for own in stored}
        models = dict.fromkeys(
            [*(one.model for one in served), *(catalog.aliases.canonical(own.model) for own in stored if own.model)]
        )
        return Saes(
            stored=tuple(
                StoredSae(
                    sae=str(own.sae),
                    cache_id=own.cache_id,
                    cache_name=names[own.cache_id] or "",
                    model=own.model or None,
                    hook=own.hook or None,
                    layer=own.layer,
                    d_sae=own.d_sae,
                    neuronpedia_id=str(own.elsewhere) if own.elsewhere else None,
                    source=str(own.source),
                )
                for own in stored
            ),
            offered=tuple(
                OfferedSae(
                    sae=str(entry.sae),
                    model=entry.model,
                    hook=str(entry.hook) if entry.hook else None,
                    layer=entry.layer,
                    width=entry.width,
                    labels_available=entry.labels_available,
                    stored=features.holds(entry.sae),
                    note=entry.note,
                )
                for model in models
                for entry in catalog.trained_on(model)
            ),
        )

    @routes.get("/features", responses=problems(404))
    def listing(
        sae: SaeName = None,
        cache: Cache = None,
        limit: Limit = 50,
        offset: Offset = 0,
        sort: Annotated[Sort, Query(description="What has no value comes last.")] = "density",
        order: Order = "desc",
        min_density: Share = None,
        max_density: Share = None,
        min_score: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        explained: Annotated[bool | None, Query(description="Whether anything is said of it.")] = None,
        dead: Annotated[bool | None, Query(description="Whether it never fires in this cache.")] = None,
        bucket: Bucket | None = None,
    ) -> FeatureList:
        """Features of one SAE, or of all SAEs of a cache, a page at a time, with the best that is said of each."""
        chosen = features.chosen(sae, cache)
        wanted = Wanted(min_density, max_density, min_score, explained, dead, bucket, sort, order == "desc")
        rows, total = features.page(chosen, wanted, limit, offset)
        promotes = [
            promoted(features.reader(one), one.sae, (row["feature"] for row in rows if row["sae"] == place), _PROMOTED)
            for place, one in enumerate(chosen)
        ]
        return FeatureList(
            features=tuple(
                answers.listed(chosen[row["sae"]], row, promotes[row["sae"]].get(row["feature"], ())) for row in rows
            ),
            total=total,
            limit=limit,
            offset=offset,
            cache_id=chosen[0].cache_id,
            saes=tuple(str(one.sae) for one in chosen),
        )

    @routes.get("/features/search", responses=problems(404))
    def search(
        q: Annotated[str, Query(min_length=1, max_length=1000, description="Words.")],
        sae: SaeName = None,
        cache: Cache = None,
        mode: Annotated[SearchMode, Query(description="By words and by meaning, or by words alone.")] = "meaning",
        limit: Limit = 20,
        offset: Offset = 0,
    ) -> FeatureHits:
        """Features by what explainers and people say of them, the best first."""
        chosen = features.chosen(sae, cache)
        found = features.search(chosen, q, None if mode == "words" else embed or bundled_embedding(), limit, offset)
        by_sae = {one.sae: one for one in chosen}
        return FeatureHits(
            hits=tuple(answers.hit(by_sae[one.sae], one) for one in found.hits),
            total=found.n_features,
            limit=limit,
            offset=offset,
            cache_id=chosen[0].cache_id,
            saes=tuple(str(one.sae) for one in chosen),
        )

    @routes.get("/features/compare", responses=problems(404))
    def compare(
        feature: Annotated[list[str], Query(min_length=2, max_length=_COMPARED, description="Two or more, by name.")],
        cache: Cache = None,
    ) -> Comparison:
        """Features side by side: statistics, what is said of each, how alike they write, and how they overlap."""
        found = [features.find(name, cache) for name in feature]
        return Comparison(
            features=tuple(answers.page(features.card(*each), features.own_of(each[0])) for each in found),
            pairs=tuple(_pair(features, *pair) for pair in combinations(found, 2)),
        )

    @routes.get("/features/{feature:path}/examples", responses=problems(404))
    def examples(
        feature: Feature,
        cache: Cache = None,
        kind: Annotated[Windows, Query(description="The strongest, or others, which tell what it is not.")] = "top",
        quantile: Annotated[
            str, Query(max_length=30, description="Of `quantile`: I/N, a sample of the I-th of N equal shares.")
        ] = "1/10",
        interval: Annotated[
            str, Query(max_length=60, description="Of `interval`: LOW:HIGH, either of which may be left out.")
        ] = "0:",
        limit: Annotated[int, Query(ge=1, le=200, description="At most this many.")] = 20,
    ) -> FeatureWindows:
        """Windows of text that a feature fires in, the highest peak first, with its activation on every token."""
        one, index = features.find(feature, cache)
        bounds = (0.0, math.inf)
        if kind == "quantile":
            bounds = bounds_of_share(features.reader(one), one.sae, index, *share_of(quantile))
        elif kind == "interval":
            bounds = bounds_of(interval)
        sampled = kind in ("quantile", "random")
        found = features.windows(one, index, *bounds, limit, sampled=sampled)
        return answers.windows(one, index, kind, bounds, found)

    @routes.get("/features/{feature:path}/explanations", responses=problems(404))
    def explanations(feature: Feature, cache: Cache = None) -> FeatureExplanations:
        """What people and explainers say of a feature, with what scorers measured."""
        one, index = features.find(feature, cache)
        return FeatureExplanations(
            **answers.ref(one, index), explanations=answers.explanations(features.card(one, index))
        )

    @routes.get("/features/{feature:path}/scores", responses=problems(404))
    def scores(feature: Feature, cache: Cache = None) -> FeatureScores:
        """All that scorers measured of a feature's explanations, and of another feature's for comparison."""
        one, index = features.find(feature, cache)
        return FeatureScores(**answers.ref(one, index), scores=answers.scores(*features.measured(one, index)))

    @routes.post("/features/{feature:path}/activate", responses=problems(400, 404, 507))
    async def activate(feature: Feature, request: ActivateRequest, cache: Cache = None) -> ActivateAnswer:
        """A feature on each token of any text."""
        one, index = await run_in_threadpool(features.find, feature, cache)
        if encoder is None:
            raise InputError("no model is served here, so no text can be read.", hint="start the services with one.")
        model = request.model or features.model_of(features.own_of(one)) or None
        asked = request.model_dump() | {"model": model, "sae": str(one.sae), "features": (index,)}
        return answers.activated(one, index, await encoder.values(ValuesRequest.model_validate(asked)))

    @routes.post("/features/{feature:path}/labels", responses=problems(400, 404, 409, 507))
    def label(feature: Feature, request: LabelRequest, cache: Cache = None) -> FeatureWords:
        """Say what a feature means in one's own words, star it, or note something; what people say of it then.

        Each person has one label and one star a feature, and any number of notes.
        """
        one, index = features.find(feature, cache)
        about = FeatureId(one.sae, index)
        said = features.say(about, request.author, **request.model_dump(exclude={"author"}))
        return answers.words(about, said)

    @routes.get("/features/{feature:path}/labels", responses=problems(404))
    def labels(feature: Feature, cache: Cache = None) -> FeatureWords:
        """What people say of a feature."""
        one, index = features.find(feature, cache)
        return answers.words(FeatureId(one.sae, index), features.own.labels.read())

    # Last: a feature's id holds slashes, and would swallow what follows it.
    @routes.get("/features/{feature:path}", responses=problems(404))
    def page(feature: Feature, cache: Cache = None) -> FeaturePage:
        """All that is known of a feature but its windows."""
        one, index = features.find(feature, cache)
        return answers.page(features.card(one, index), features.own_of(one))

    return routes


def _pair(features: WorkspaceFeatures, first: tuple[Readable, int], second: tuple[Readable, int]) -> FeaturePair:
    cosine, shared = features.pair(first, second)
    (one, index), (other, other_index) = first, second
    return FeaturePair(
        first=str(FeatureId(one.sae, index)),
        second=str(FeatureId(other.sae, other_index)),
        cosine=cosine,
        n_first=shared.n_first if shared else None,
        n_second=shared.n_second if shared else None,
        n_both=shared.n_both if shared else None,
        jaccard=shared.jaccard if shared else None,
    )
