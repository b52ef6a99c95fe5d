"""What the Encoder does for the workbench: passes of edited models, beside the readings of others.

A session names its model, SAEs and edits with every request, and nothing of it is kept here: any replica answers, and
a model that made room for another is loaded again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from raylens.api.edits import FeatureMax, PatchSpec
from raylens.api.workbench import (
    Edited,
    ExportedSae,
    Held,
    HeldSae,
    Hold,
    MaximaRequest,
    NextChange,
    Predicted,
    SaeExport,
    TextPart,
)
from raylens.engine.feature_answers import require_features
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.passage import PassageTokens, passage_tokens
from raylens.engine.saes import LoadedSae
from raylens.engine.sampling import Dice
from raylens.engine.text_streams import COLDEST
from raylens.errors import InputError, UnknownNameError
from raylens.store.base_dir import inside_base
from raylens.workbench.edited_reading import compare, next_logits
from raylens.workbench.edited_text import Written, write
from raylens.workbench.edits import LoadedEdit, load_edits
from raylens.workbench.feature_scale import FeatureScale, sample_scale
from raylens.workbench.sae_export import save_sae
from raylens_serve.text_reader import TextReader

_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class _Ready:
    """A model with what is edited in it."""

    name: str
    loaded: LoadedModel
    saes: tuple[LoadedSae, ...]
    edits: tuple[LoadedEdit, ...]


class EditedReader:
    """Reads and writes texts by edited models.

    Args:
        reader: Holds models and SAEs, and the thread in which they run.
    """

    def __init__(self, reader: TextReader) -> None:
        self._reader = reader
        self._samples: dict[tuple[str, str], FeatureScale] = {}

    async def hold(self, request: Hold) -> Held:
        """Load what a session asks for."""
        async with self._ready(request.model, request.adapter, request.saes) as ready:
            saes = tuple(
                HeldSae(sae=str(one.id), hook=str(one.spec.hook), layer=one.spec.hook.layer_index, d_sae=one.d_sae)
                for one in ready.saes
            )
            loaded = ready.loaded
            return Held(model=ready.name, n_layers=loaded.n_layers, d_model=loaded.d_model, saes=saes)

    async def predict(self, request: Edited) -> Predicted:
        """What comes next after a text, untouched and edited."""
        async with self._ready(request.model, request.adapter, request.saes, request) as ready:
            tokens = await self._tokens(ready.loaded, request)
            n_prompt = tokens.output_start if tokens.output_start is not None else len(tokens.ids)

            def passes() -> Predicted:
                loaded = ready.loaded
                before = next_logits(loaded, tokens.ids)
                after = next_logits(loaded, tokens.ids, ready.edits, n_prompt) if ready.edits else before
                found = compare(before, after, request.text.top_k)
                texts = token_strings(loaded.tokenizer, found.ids)
                rows = zip(found.ids, texts, found.baseline, found.patched, strict=True)
                return Predicted(
                    token_ids=tokens.ids,
                    tokens=tuple(token_strings(loaded.tokenizer, tokens.ids)),
                    n_dropped=tokens.n_dropped,
                    next=tuple(
                        NextChange(id=id_, token=text, baseline=one, patched=other, change=other - one)
                        for id_, text, one, other in rows
                    ),
                    kl=found.kl,
                )

            return await self._reader.run(passes)

    async def write(self, request: Edited) -> AsyncIterator[TextPart]:
        """What both models write after a text, a step of each in turn; without edits it is written once."""
        wanted = request.text
        async with self._ready(request.model, request.adapter, request.saes, request) as ready:
            tokens = await self._tokens(ready.loaded, request)

            def writer(edits: Sequence[LoadedEdit]) -> Iterator[Written]:
                dice = Dice(wanted.temperature, wanted.top_p, wanted.seed) if wanted.temperature > COLDEST else None
                most = wanted.max_new_tokens
                return write(ready.loaded, tokens.ids, edits, max_new_tokens=most, dice=dice, stop=wanted.stop)

            under_way = {"baseline": writer(())} | ({"patched": writer(ready.edits)} if ready.edits else {})
            while under_way:
                for which, parts in list(under_way.items()):
                    part = await self._reader.run(partial(next, parts, None))
                    if part is None:
                        del under_way[which]
                    elif part.text or part.end:
                        yield TextPart.model_validate({"which": which, "text": part.text, "end": part.end})

    async def export_sae(self, request: SaeExport) -> ExportedSae:
        """Write an SAE as a folder in SAELens format: whole, or not at all."""
        folder = inside_base(request.path, "export")
        if folder.exists():
            raise InputError(f"{request.path} is there already.", hint="name a new folder.")
        async with self._ready(request.model, request.adapter, {request.sae: request.override_guard}) as ready:
            files = await self._reader.help(partial(save_sae, ready.saes[0], folder))
            return ExportedSae(sae=str(ready.saes[0].id), path=str(folder), files=files)

    async def maxima(self, request: MaximaRequest) -> list[FeatureMax]:
        """The largest activations of features on a sample of text."""
        saes = {request.sae: request.override_guard}
        async with self._ready(request.model, request.adapter, saes) as ready:
            (sae,) = ready.saes
            require_features(sae, request.features)
            key = ready.name, request.sae
            if key not in self._samples:
                while len(self._samples) >= _REMEMBERED:
                    self._samples.pop(next(iter(self._samples)))
                self._samples[key] = await self._reader.run(partial(sample_scale, ready.loaded, sae))
            return self._samples[key].of(request.features)

    async def _tokens(self, loaded: LoadedModel, request: Edited) -> PassageTokens:
        tokens = await self._reader.help(partial(passage_tokens, loaded, request.text, self._reader.limit))
        if not tokens.ids:
            raise InputError(f"there are no tokens for {loaded.name} to continue.", hint="give it text.")
        return tokens

    @asynccontextmanager
    async def _ready(
        self, model: str | None, adapter: str | None, saes: Mapping[str, bool], edited: Edited | None = None
    ) -> AsyncIterator[_Ready]:
        readers = self._reader.readers
        served = readers.attach(model, adapter)
        needs = [await readers.model(served)]
        needs += [await readers.attached_sae(served, name, override) for name, override in saes.items()]
        async with self._reader.lease(needs) as (held, loaded_saes):
            by_name = dict(zip(saes, loaded_saes, strict=True))
            edits: list[LoadedEdit] = []
            for spec in edited.specs if edited is not None else ():
                edits += _edits_of(held.loaded, spec, by_name, edited.default if edited is not None else None)
            yield _Ready(served.name, held.loaded, loaded_saes, tuple(edits))


def _edits_of(
    loaded: LoadedModel, spec: PatchSpec, saes: Mapping[str, LoadedSae], default: str | None
) -> list[LoadedEdit]:
    named = spec.sae or default
    if named is not None and named not in saes:
        raise UnknownNameError(f"{named} is not among the session's SAEs.", hint="attach it with load-sae.")
    own = str(saes[named].id) if named is not None else None
    return load_edits(loaded, spec, {str(sae.id): sae for sae in saes.values()}, own, _no_maximum)


def _no_maximum(_sae: LoadedSae, feature: int) -> float:
    raise InputError(f"the maximum of feature {feature} is not known.", hint="give the strength as an activation.")
