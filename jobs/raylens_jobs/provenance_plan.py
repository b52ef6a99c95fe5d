"""Which feature is followed back, in which model, through which SAEs: settled before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raylens.catalog.lookup import Catalog
from raylens.catalog.release_layers import earlier_in_release
from raylens.catalog.user import find_user_file
from raylens.config import ProvenanceConfig
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.models import describe_model
from raylens.engine.sae_choice import SaeChoice, choose
from raylens.engine.saes import LoadedSae
from raylens.errors import InputError, UnknownNameError
from raylens.ids import FeatureId, SaeId
from raylens.specs import ModelInfo, SaeSpec
from raylens.store.selection import Readable, feature_of_any_cache, of_sae, one_feature, readables
from raylens.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ProvenancePlan:
    """A checked request; small enough to send to an actor.

    Attributes:
        config: What is asked; its model and revision are the ones that are read with.
        model: The model.
        target: The feature.
        saes: The target's, then earlier ones.
        cache_id: Where its windows are; None of a feature of no cache.
    """

    config: ProvenanceConfig
    model: ModelInfo
    target: FeatureId
    saes: tuple[tuple[SaeChoice, SaeSpec], ...]
    cache_id: str | None

    @property
    def fingerprints(self) -> dict[SaeId, str]:
        """Of all SAEs."""
        return {spec.id: spec.fingerprint for _, spec in self.saes}

    def load(self, device: str | None = None) -> tuple[LoadedModel, list[LoadedSae]]:
        """The model and its SAEs; raises as :func:`raylens.engine.load.load_model` and ``load_sae``."""
        config = self.config
        loaded = load_model(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            device=device or config.device,
            quantization=config.quantization,
        )
        return loaded, [choice.load(str(loaded.device)) for choice, _ in self.saes]


def plan_provenance(
    config: ProvenanceConfig,
    workspace: Workspace,
    cache: str | None = None,
    *,
    any_text: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> ProvenancePlan:
    """Find the feature, the model and the SAEs.

    Args:
        config: What is asked. Where it names no model, that of the cache is read with; of a feature that is in no
            cache, ``raylens/pico``.
        workspace: Whose caches.
        cache: Which cache; by default the one that holds the feature.
        any_text: The text is no window, so that the feature may be of no cache, or of several.
        say: Told what a person should know of a choice that is allowed.

    Raises:
        InputError: The feature is of several caches, or no SAE reads an earlier layer, or one does not fit.
        UnknownNameError: There is no such feature, model or SAE.
    """
    one, target = _feature(workspace, cache, config.feature, any_text)
    known = workspace.cache(one.cache_id).saes() if one is not None else {}
    info = workspace.cache(one.cache_id).info() if one is not None else {}
    if "model" not in config.model_fields_set and info:
        config = config.model_copy(update={"model": str(info["model"]), "revision": info.get("revision")})
    model = describe_model(config.model, revision=config.revision)
    catalog = Catalog.load(find_user_file(config.catalog_file, workspace.url))

    def chosen(refs: Sequence[str]) -> list[tuple[SaeChoice, SaeSpec]]:
        # A fine-tune is read with its base's SAEs, so that one of another model is no error.
        return choose(refs, model, catalog, override=True, say=say)

    def noted(sae: SaeId) -> tuple[SaeChoice, SaeSpec]:
        choice = known.get(sae, {}).get("choice")
        if choice is None:
            (found,) = chosen([str(sae)])
            return found
        made = SaeChoice(**choice)
        return made, made.describe()

    own = noted(target.sae)
    if config.saes:
        cached = _cached(workspace, one)
        named = [_full_name(cached, ref) for ref in config.saes]
        earlier = [noted(ref) if isinstance(ref, SaeId) else chosen([ref])[0] for ref in named]
    else:
        earlier = [noted(sae) for sae in _earlier(own[1], known, catalog)]
    earlier = [pair for pair in earlier if pair[1].id != target.sae]
    _require_earlier(own[1], [spec for _, spec in earlier])
    if not earlier:
        raise InputError(
            f"no SAE that reads a layer before {own[1].hook} is known here.",
            hint="name some with --sae; raylens catalog lists SAEs.",
        )
    return ProvenancePlan(config, model, target, (own, *earlier), one.cache_id if one is not None else None)


def _feature(workspace: Workspace, cache: str | None, name: str, any_text: bool) -> tuple[Readable | None, FeatureId]:
    """The feature, and where it can be read; None where it is of no cache and need not be."""
    try:
        found = readables(workspace, cache)
        one, index = feature_of_any_cache(found, name) if any_text else one_feature(found, name)
    except UnknownNameError:
        if not any_text or cache is not None or name.startswith("f_"):
            raise
        return None, FeatureId.parse(name)
    return one, FeatureId(one.sae, index)


def _require_earlier(own: SaeSpec, others: Sequence[SaeSpec]) -> None:
    """Refuse what cannot have caused the target, by its layer; points of one layer are told apart by the model."""
    for one in others:
        layer, last = one.hook.layer_index, own.hook.layer_index
        if layer is not None and last is not None and layer > last:
            raise InputError(
                f"{one.id} reads {one.hook}, which is not before {own.hook}.", hint="name SAEs of earlier layers."
            )


def _cached(workspace: Workspace, one: Readable | None) -> list[Readable]:
    return [] if one is None else readables(workspace, one.cache_id)


def _full_name(cached: Sequence[Readable], ref: str) -> SaeId | str:
    """An SAE of the cache, by its id or the end of it; else as it was written."""
    try:
        return of_sae(cached, ref)[0].sae
    except UnknownNameError:
        return ref


def _earlier(own: SaeSpec, known: dict[SaeId, dict[str, Any]], catalog: Catalog) -> list[SaeId]:
    """SAEs of earlier layers: those of the cache, else of the target's release where that has one a layer."""
    layer = own.hook.layer_index
    if layer is None:
        return []
    layers = {sae: info.get("spec", {}).get("layer") for sae, info in known.items() if info.get("choice")}
    found = [sae for sae, its in layers.items() if its is not None and its < layer]
    return found or earlier_in_release(catalog, own.id, layer)
