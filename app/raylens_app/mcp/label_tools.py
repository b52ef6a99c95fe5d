"""Tools about what others say of features: labels that are kept, and nearest neighbours that have one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Annotated, Any, Final

from pydantic import Field

from raylens.catalog import Catalog
from raylens.errors import InputError
from raylens.ids import FeatureId, SaeId
from raylens.labels.best import best, ranked
from raylens.labels.decoders import decoder_of
from raylens.labels.explanations import Explanation
from raylens.labels.lookup import Lookup
from raylens.labels.names import NeuronpediaId, label_source
from raylens.labels.own_features import Own, OwnFeatures
from raylens.labels.proxies import LOW_MARK, Neighbour, nearest_explained
from raylens.store.reader import CacheReader
from raylens_app.mcp.answers import Answer, Document, clipped, plural
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.tool import Arguments, SaeName, reading

_TEXT: Final = 400
_LAST: Final = 2**31 - 1

Index = Annotated[int, Field(ge=0, le=_LAST)]


class LabelLookup(Arguments):
    """Of ``label_lookup``."""

    sae: Annotated[str, Field(min_length=1, max_length=400, description="An SAE's id, or <model>/<source>.")]
    features: Annotated[tuple[Index, ...], Field(min_length=1, max_length=50, description="Indices.")]


class NearestExplainedNeighbours(Arguments):
    """Of ``nearest_explained_neighbours``."""

    sae: SaeName
    feature: Annotated[int, Field(ge=0, le=_LAST, description="Its index.")]
    k: Annotated[int, Field(ge=1, le=20, description="Neighbours at most.")] = 3


def _lookup(desk: Desk, name: str) -> Lookup:
    """Of an SAE's id, or a label source.

    Raises:
        InputError: It is neither.
    """
    catalog = desk.catalog()
    own = OwnFeatures(desk.workspace, catalog)
    return Lookup(desk.workspace, own, *_named(own, catalog, name))


def label_lookup(desk: Desk, given: LabelLookup) -> Answer:
    """The best explanation of each feature."""
    with closing(_lookup(desk, given.sae)) as labels:
        said = labels.look(dict.fromkeys(given.features))
        asked = "asked for what was missing" if labels.asks else "not asked"
    rows = [{"feature": feature, **_best(found)} for feature, found in said.items()]
    n = sum(row["explanation"] is not None for row in rows)
    return Document(
        f"{n} of {plural(len(rows), 'feature')} explained.",
        {"sae": given.sae, "source": str(labels.source) if labels.source else None, "neuronpedia": asked},
        "features",
        rows,
    )


def nearest_explained_neighbours(desk: Desk, given: NearestExplainedNeighbours) -> Answer:
    """The explained features whose decoder rows are nearest: pointers, no explanations of the feature itself."""
    with closing(_lookup(desk, given.sae)) as labels:
        own = best(labels.look([given.feature])[given.feature])
        found, basis = _nearest(desk, labels, given)
        said = labels.look(one.feature for one in found)
    rows = [
        {"feature": one.feature, "cosine": one.cosine, "low_similarity": one.is_low, **_best(said[one.feature])}
        for one in found
    ]
    if not rows:
        answer = f"no explained feature of {given.sae} is near {given.feature}; {basis}."
    else:
        low = f" {LOW_MARK}: it says little" if found[0].is_low else ""
        answer = f"nearest is {found[0].feature}, cosine {found[0].cosine:.3g}{low}. A proxy is a pointer, not a label."
    fields = {"feature": given.feature, "own_explanation": own.description if own else None, "basis": basis}
    return Document(answer, fields, "neighbours", rows)


TOOLS: Final = (
    reading(
        "label_lookup",
        "What explainers, people and kept Neuronpedia labels say of features of one SAE. Asks nobody, unless the "
        "server's operator allows it.",
        LabelLookup,
        label_lookup,
    ),
    reading(
        "nearest_explained_neighbours",
        "For a feature without an explanation: the explained features of its SAE that write in the most similar "
        "direction, with cosines.",
        NearestExplainedNeighbours,
        nearest_explained_neighbours,
    ),
)


def _named(own: OwnFeatures, catalog: Catalog, name: str) -> tuple[Own | None, NeuronpediaId | None]:
    """The SAE of the workspace that a name means, if it is there, and where its labels live, if that is known."""
    here = next((one for one in own.sources().values() if name in {str(one.sae), str(one.source)}), None)
    sae = here.sae if here is not None else SaeId.parse(name)
    source = label_source(sae, catalog)
    if here is not None:
        # A cache names an SAE by its Neuronpedia id where it has one, and by one of the same form otherwise.
        return here, source or here.source
    if source is None and catalog.get(sae) is None:
        source = NeuronpediaId.parse(name)
    return None, source


def _nearest(desk: Desk, labels: Lookup, given: NearestExplainedNeighbours) -> tuple[tuple[Neighbour, ...], str]:
    """Neighbours, and by what."""
    explained = labels.explained()
    if not explained:
        return (), "nothing of it is explained: raylens explain, or raylens labels import"
    sae = labels.here.sae if labels.here is not None else SaeId.parse(given.sae)
    decoder = decoder_of(sae, desk.catalog())
    if decoder is not None:
        found = nearest_explained(decoder, [given.feature], explained, k=given.k)
        return found[given.feature], f"all {plural(len(explained), 'explained feature')}, by the SAE's decoder"
    if labels.here is None:
        raise InputError(
            f"the weights of {sae} are not at hand, and no cache holds it.",
            hint="raylens cache with this SAE stores each feature's nearest neighbours.",
        )
    listed = _listed(desk, labels.here, given.feature)
    known = set(explained)
    near = tuple(one for one in listed if one.feature in known)[: given.k]
    return near, f"the {len(listed)} nearest features as the cache lists them, of which explained ones are shown"


def _listed(desk: Desk, here: Own, feature: int) -> list[Neighbour]:
    with closing(CacheReader(desk.workspace, here.cache_id)) as reader:
        if feature >= reader.d_sae(here.sae):
            width = reader.d_sae(here.sae)
            raise InputError(
                f"there is no feature {FeatureId(here.sae, feature)}.", hint=f"there are 0 to {width - 1}."
            )
        rows = reader.rows_of("neighbours", here.sae, [feature])
    table = rows.sort_by("rank").to_pylist() if rows is not None else []
    return [Neighbour(int(row["neighbour"]), float(row["cosine"])) for row in table]


def _best(found: Iterable[Explanation]) -> dict[str, Any]:
    listed = ranked(found)
    if not listed:
        return {"explanation": None}
    first = listed[0]
    return {
        "explanation": clipped(first.description, _TEXT),
        "type": first.type_name or None,
        "score": first.score,
        "others": len(listed) - 1,
    }
