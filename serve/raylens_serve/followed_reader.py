"""What the Encoder does for provenance: which SAEs a feature is followed through, and the work, step by step.

Models run in one thread. A following back is many passes, some with gradients, so that others have a turn after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from raylens.api.provenance import Provenance, ProvenanceRequest
from raylens.catalog.release_layers import earlier_in_release
from raylens.engine.load import LoadedModel
from raylens.engine.model_shelf import Need
from raylens.engine.passage import passage_tokens
from raylens.engine.saes import LoadedSae
from raylens.engine.token_effects import Steps
from raylens.errors import InputError, UnknownNameError
from raylens.ids import FeatureId, ShortFeature
from raylens.specs import SaeSpec
from raylens.workbench.attribution import graph_bytes
from raylens.workbench.provenance import following
from raylens_serve.served_readers import ConfiguredModel
from raylens_serve.text_reader import TextReader

MOST_TOKENS: Final = 1024
"""Of a text: a model's graph is many times what a pass holds, and every edge is a pass of its own."""

Chosen = tuple[Need, SaeSpec]


class FollowedReader:
    """Follows features back.

    Args:
        reader: Holds models and SAEs, and the thread in which they run.
    """

    def __init__(self, reader: TextReader) -> None:
        self._reader = reader

    async def provenance(self, request: ProvenanceRequest) -> Provenance:
        """See :meth:`raylens_serve.encoder.Encoder.provenance`."""
        reader = self._reader
        served = reader.readers.find(request.model)
        (own, spec), index = await self._target(served, request)
        earlier = await self._earlier(served, spec, request)
        needs = [await reader.readers.model(served), own, *earlier]
        async with reader.lease(needs) as (held, saes):
            loaded = held.loaded
            limit = min(MOST_TOKENS, reader.limit)
            tokens = await reader.help(partial(passage_tokens, loaded, request, limit))
            if tokens.n_dropped:
                raise InputError(
                    f"the text has {len(tokens.ids) + tokens.n_dropped:,} tokens, more than the {len(tokens.ids):,} "
                    "through which a feature is followed back.",
                    hint="shorten it: what follows the feature's token changes nothing.",
                )
            target = FeatureId(spec.id, index)
            found = await reader.measure(self._steps(loaded, saes, target, tokens.ids, request))
            reader.count_tokens(served.name, len(tokens.ids))
            return found.model_copy(update={"model": served.name})

    def _steps(
        self,
        loaded: LoadedModel,
        saes: Sequence[LoadedSae],
        target: FeatureId,
        ids: Sequence[int],
        request: ProvenanceRequest,
    ) -> Steps[Provenance]:
        # Asked in the models' thread, where nobody else's pass takes memory at the time.
        self._reader.require(graph_bytes(loaded.info, len(ids), request.integrated), "following a feature back")
        top, integrated = request.top, request.integrated
        return (yield from following(loaded, saes, target, ids, request.token, top=top, integrated=integrated))

    async def _target(self, served: ConfiguredModel, request: ProvenanceRequest) -> tuple[Chosen, int]:
        """The feature's SAE, and its index there."""
        readers, override = self._reader.readers, request.override_guard
        if request.feature.startswith("f_"):
            short = ShortFeature.parse(request.feature)
            offered = await readers.chosen(served, None, override)
            found, index = [one for one in offered if one[1].hook.layer_index == short.layer], short.index
            if len(found) != 1:
                there = ", ".join(str(spec.id) for _, spec in offered) or "none"
                raise UnknownNameError(
                    f"{request.feature} is of {'several SAEs' if found else 'no SAE'} that is read by default.",
                    hint=f"write <sae>/{index}; there is {there}.",
                )
        else:
            whole = FeatureId.parse(request.feature)
            # Configured ones may be folders, which are known by another name than their id.
            offered = await readers.chosen(served, None, override) if served.settings.saes else []
            index, found = whole.index, [one for one in offered if one[1].id == whole.sae]
            found = found or await readers.chosen(served, [str(whole.sae)], override)
        spec = found[0][1]
        if index >= spec.d_sae:  # before anything is loaded
            raise UnknownNameError(f"{spec.id} has no feature {index}.", hint=f"it has {spec.d_sae:,}, counted from 0.")
        return found[0], index

    async def _earlier(self, served: ConfiguredModel, own: SaeSpec, request: ProvenanceRequest) -> list[Need]:
        """SAEs of earlier layers: those that are named; else served ones, else the release's where it has one a layer.

        Points of one layer are told apart by the model, once it is loaded.
        """
        readers, override, layer = self._reader.readers, request.override_guard, own.hook.layer_index
        if request.saes is not None:
            found = [one for one in await readers.chosen(served, request.saes, override) if one[1].id != own.id]
            for _, spec in found:
                at = spec.hook.layer_index
                if at is not None and layer is not None and at > layer:
                    raise InputError(
                        f"{spec.id} reads {spec.hook}, which is not before {own.hook}.",
                        hint="name SAEs of earlier layers.",
                    )
        elif layer is None:
            found = []
        elif served.settings.saes is not None:
            offered = await readers.chosen(served, None, override)
            found = [one for one in offered if one[1].hook.layer_index is not None and one[1].hook.layer_index < layer]
        else:
            mates = [str(one) for one in earlier_in_release(readers.catalog, own.id, layer)]
            found = await readers.chosen(served, mates, override)
        if not found:
            raise InputError(
                f"no SAE that reads a layer before {own.hook} is served for {served.name}.",
                hint="name some in saes; GET /api/v1/saes lists what there is.",
            )
        return [need for need, _ in {spec.id: (need, spec) for need, spec in found}.values()]
