"""SAE weights, label source and config must agree on model, layer and width, or nothing starts (A2.15).

Labels of another SAE are silent and total nonsense: feature 17 there is not feature 17 here. Each of the three says
some of model, layer and width; wherever two of them say different things, that is an error which names both. What
one does not say is no disagreement. :func:`raylens.catalog.guard.guard` compares the SAE with the model that runs;
this compares what it reads out with what is said of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raylens.catalog import Catalog
from raylens.catalog.sources import LabelSource, label_problem
from raylens.errors import MismatchError
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId, label_source, local_source
from raylens.specs import SaeSpec
from raylens.store.files import Files


@dataclass(frozen=True, slots=True)
class Stated:
    """What a config says of the SAE that it wants; each None where it does not."""

    model: str | None = None
    layer: int | None = None
    width: int | None = None


def require_labels(sae: SaeSpec, catalog: Catalog, files: Files | None = None) -> None:
    """:func:`require_agreement` of an SAE and the labels that would be shown of it, kept ones too.

    Args:
        sae: As its own config tells it.
        catalog: Where its labels may be named.
        files: Of a workspace that may keep some.

    Raises:
        InputError: What names its labels is no label source.
        MismatchError: They are of something else.
    """
    source = label_source(sae.id, catalog, own=sae.neuronpedia_id)
    kept = LabelStore(files).explained(source).tolist() if source is not None and files is not None else []
    require_agreement(sae, source, Stated(), catalog=catalog, labelled=kept)


def require_agreement(
    sae: SaeSpec,
    labels: NeuronpediaId | None,
    config: Stated,
    *,
    catalog: Catalog,
    decoder_shape: tuple[int, int] | None = None,
    labelled: Iterable[int] = (),
) -> None:
    """Check that the three belong together; reads nothing and returns nothing.

    Args:
        sae: The SAE, as its own config tells it; where the catalogue lists it, the model counts that stands there.
        labels: The label source; None without labels.
        config: What the run's config says.
        catalog: For names of models, and known corrections.
        decoder_shape: ``(d_sae, d_in)`` of the decoder as loaded, where it is.
        labelled: Indices that there are labels of, where they are known: none can lie beyond the SAE's width.

    Raises:
        MismatchError: Two of them disagree.
    """
    canonical = catalog.aliases.canonical
    entry = catalog.get(sae.id)
    trained_on = entry.model if entry is not None else sae.model_name
    layer = sae.hook.layer_index
    if decoder_shape is not None and tuple(decoder_shape) != (sae.d_sae, sae.d_in):
        rows, columns = decoder_shape
        raise MismatchError(
            f"the decoder of SAE {sae.id} is {rows} × {columns}, and its config says {sae.d_sae} × {sae.d_in}.",
            hint="load the weights that belong to this config.",
        )
    for what, said, found in (
        ("model", config.model and canonical(config.model), trained_on and canonical(trained_on)),
        ("layer", config.layer, layer),
        ("width", config.width, sae.d_sae),
    ):
        if said is not None and found is not None and said != found:
            raise MismatchError(
                f"the config says {what} {said}, and the weights of SAE {sae.id} are of {what} {found}.",
                hint=f"write {what} {found} in the config, or name another SAE.",
            )
    if labels is None or labels.source == local_source(sae.id, "", layer).source:
        return  # the local endpoint's own name of it: words in an SAE's id say nothing of what it reads
    parsed = LabelSource.parse(str(labels))
    problem = label_problem(
        parsed,
        # What nobody states is not compared.
        model=trained_on or config.model or parsed.model,
        canonical=canonical,
        layer=layer if layer is not None else config.layer,
        hook=sae.hook,
        width=sae.d_sae,
    )
    if problem is None and (beyond := max(labelled, default=-1)) >= sae.d_sae:
        problem = f"has a label of feature {beyond}, and the SAE has features 0 to {sae.d_sae - 1}"
    if problem:
        own = entry.neuronpedia_id if entry is not None else sae.neuronpedia_id
        hint = f"its own labels are {own}." if own and own != str(labels) else "name the labels of this SAE, or none."
        raise MismatchError(f"label source {labels} does not belong to SAE {sae.id}: it {problem}.", hint=hint)
