"""Searches of Neuronpedia's API, over texts that are read here and over what is said of features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from fastapi.concurrency import run_in_threadpool

from raylens.api.neuronpedia import (
    MOST_FOUND,
    ActivationOnText,
    ExplanationSearch,
    FoundExplanation,
    FoundExplanations,
    NewActivation,
    SearchAll,
    SearchByToken,
    SearchedFeature,
    SearchedText,
    SearchedTokens,
    TokenFeatures,
    TopFeature,
)
from raylens.api.reading import KEPT, EncodeAnswer, EncodeRequest, SaeReading, ValuesRequest
from raylens.errors import InputError, UnknownNameError
from raylens.ids import SaeId
from raylens.labels.names import NeuronpediaId
from raylens.labels.own_features import Own
from raylens.labels.page_shapes import TYPE_PREFIX
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.search.features import Hit
from raylens.store.labels import HUMAN
from raylens.store.phrases import Embed
from raylens_serve.neuronpedia_names import Named, SourceNames
from raylens_serve.services import EncoderClient

_EXAMPLES: Final = 3

Candidate = tuple[Named, int, float]
"""An SAE, one of its features, and what it is ranked by."""


class Searches:
    """Answers them.

    Args:
        features: The workspace's.
        names: Which SAE a source is.
        encoder: Reads texts; None where no model is served.
        embed: For searches by meaning.
    """

    def __init__(
        self, features: WorkspaceFeatures, names: SourceNames, encoder: EncoderClient | None, embed: Embed
    ) -> None:
        self._features, self._names, self._encoder, self._embed = features, names, encoder, embed

    # ------------------------------------------------------------------ what is said

    def explanations(self, asked: ExplanationSearch) -> FoundExplanations:
        """Explanations of the workspace's explainers and people that fit a query, the best first.

        Raises:
            UnknownNameError: There is no such source in the workspace.
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        mine = {one.source.source: one for one in self._features.own.sources().values()}
        mine = {name: one for name, one in mine.items() if one.source.model == asked.model_id}
        for layer in asked.layers:
            if layer not in mine:
                known = [str(one.source) for one in mine.values()]
                raise UnknownNameError.among("source", f"{asked.model_id}/{layer}", known)
        by_sae = {(mine[layer].cache_id, mine[layer].sae): mine[layer] for layer in asked.layers}
        last = asked.offset + MOST_FOUND
        hits: list[tuple[Own, Hit]] = []
        total = 0
        for cache_id in dict.fromkeys(cache_id for cache_id, _ in by_sae):
            chosen = [one for one in self._features.readables() if (one.cache_id, one.sae) in by_sae]
            chosen = [one for one in chosen if one.cache_id == cache_id]
            found = self._features.search(chosen, asked.query, self._embed, last, 0)
            hits += [(by_sae[cache_id, hit.sae], hit) for hit in found.hits]
            total += found.n_features
        hits.sort(key=lambda pair: -pair[1].score)  # stable: one cache's order stays
        page = self._found(hits[asked.offset : last])
        left = total > asked.offset + len(page)
        return FoundExplanations(
            results=page, results_count=len(page), has_more=left, next_offset=asked.offset + len(page)
        )

    def _found(self, hits: Sequence[tuple[Own, Hit]]) -> tuple[FoundExplanation, ...]:
        wanted: dict[NeuronpediaId, list[int]] = {}
        for own, hit in hits:
            wanted.setdefault(own.source, []).append(hit.feature)
        pages = {source: self._features.own.pages(source, some, _EXAMPLES) for source, some in wanted.items()}
        return tuple(
            FoundExplanation(
                model_id=own.source.model,
                layer=own.source.source,
                index=str(hit.feature),
                description=hit.text,
                type_name=HUMAN if hit.explainer == HUMAN else f"{TYPE_PREFIX}{hit.explainer}",
                cosine_similarity=hit.similarity,
                neuron=pages[own.source].get(hit.feature, {}),
            )
            for own, hit in hits
        )

    # ------------------------------------------------------------------ what fires on a text

    async def all(self, asked: SearchAll) -> SearchedText:
        """The features that fire most on a text, of all SAEs of a set.

        Raises:
            UnknownNameError: There is no such source, or it is not served.
            InputError: No model is served, or a token is beyond the text.
        """
        wanted = await run_in_threadpool(self._wanted, asked)
        chosen = tuple(str(one.sae) for one in wanted) if asked.selected_layers else None
        at_tokens = bool(asked.sort_indexes)
        read = await self._reader().encode(
            EncodeRequest(text=asked.text, model=wanted[0].model, saes=chosen, top_k=KEPT, per_token=at_tokens)
        )
        if at_tokens and max(asked.sort_indexes) >= len(read.tokens):
            hint = f"the text has tokens 0 to {len(read.tokens) - 1}."
            raise InputError(f"there is no token {max(asked.sort_indexes)}.", hint=hint)
        named = {str(one.sae): one for one in wanted}
        readings = [(named[one.sae], one) for one in read.saes if one.sae in named]
        ranked = [one for sae, reading in readings for one in _ranked(sae, reading, asked.sort_indexes)]
        ranked.sort(key=lambda one: (-one[2], one[0].source, one[1]))
        if 0 <= asked.density_threshold < 1:
            ranked = await run_in_threadpool(self._sparse, ranked, asked.density_threshold)
        return await self._searched(read, ranked[: asked.num_results], asked)

    async def by_token(self, asked: SearchByToken) -> SearchedTokens:
        """The features that fire most on each token; raises as :meth:`all`."""
        named = await run_in_threadpool(self._names.find, asked.model_id, asked.source)
        sparse = 0 <= asked.density_threshold < 1
        read = await self._reader().encode(
            EncodeRequest(
                text=asked.text,
                model=named.model,
                saes=(str(named.sae),),
                top_k=KEPT if sparse else asked.num_results,
            )
        )
        firing = read.saes[0].tokens
        found = sorted({one.index for some in firing for one in some})
        kept = set(found)
        if sparse:
            pairs = await run_in_threadpool(self._sparse, [(named, one, 0.0) for one in found], asked.density_threshold)
            kept = {index for _, index, _ in pairs}
        tops = [[one for one in some if one.index in kept][: asked.num_results] for some in firing]
        shown = sorted({one.index for some in tops for one in some})
        pages = await run_in_threadpool(self._short_pages, named, shown)
        return SearchedTokens(
            results=tuple(
                TokenFeatures(
                    position=position,
                    token=token,
                    top_features=tuple(
                        TopFeature(activation_value=one.activation, feature_index=one.index, feature=pages[one.index])
                        for one in some
                    ),
                )
                for position, (token, some) in enumerate(zip(read.tokens, tops, strict=True))
            )
        )

    async def activation(self, asked: NewActivation) -> ActivationOnText:
        """One feature on a text; raises as :meth:`all`."""
        named = await run_in_threadpool(self._names.find, asked.feature.model_id, asked.feature.source)
        request = ValuesRequest(
            text=asked.custom_text, model=named.model, sae=str(named.sae), features=(int(asked.feature.index),)
        )
        read = await self._reader().values(request)
        values = read.features[0].values
        peak, place = _maximum(values, set(read.special))
        return ActivationOnText(tokens=read.tokens, values=values, max_value=peak, max_value_token_index=place)

    def _reader(self) -> EncoderClient:
        if self._encoder is None:
            raise InputError("no model is served here, so no text can be read.", hint="start the services with one.")
        return self._encoder

    def _wanted(self, asked: SearchAll) -> list[Named]:
        if asked.selected_layers:
            found = [self._names.find(asked.model_id, layer) for layer in dict.fromkeys(asked.selected_layers)]
        else:
            found = self._names.near(asked.model_id)
        of_set = [one for one in found if one.is_of(asked.source_set)]
        if not of_set:
            known = {one.source.source.partition("-")[2] for one in found} or {asked.model_id}
            raise UnknownNameError.among("set of sources", f"{asked.model_id}/{asked.source_set}", known)
        return [one for one in of_set if one.model == of_set[0].model]  # one text is read by one model

    async def _searched(self, read: EncodeAnswer, chosen: Sequence[Candidate], asked: SearchAll) -> SearchedText:
        """Exact values of the chosen features on every token."""
        values: dict[tuple[SaeId, int], tuple[float, ...]] = {}
        for one in dict.fromkeys(named for named, _, _ in chosen):
            indices = tuple(index for named, index, _ in chosen if named == one)
            request = ValuesRequest(token_ids=read.token_ids, model=one.model, sae=str(one.sae), features=indices)
            answer = await self._reader().values(request)
            values |= {(one.sae, each.index): each.values for each in answer.features}
        left_out = set(read.special) if asked.ignore_bos else set()
        found = []
        for named, index, _ in chosen:
            peak, place = _maximum(values[named.sae, index], left_out)
            found.append(
                SearchedFeature(
                    model_id=named.source.model,
                    layer=named.source.source,
                    index=str(index),
                    values=values[named.sae, index],
                    max_value=peak,
                    max_value_index=place,
                )
            )
        return SearchedText(tokens=read.tokens, result=tuple(found))

    def _sparse(self, ranked: Sequence[Candidate], threshold: float) -> list[Candidate]:
        """Those that fire on at most this share of tokens; one that no cache has is kept."""
        dense: set[tuple[SaeId, int]] = set()
        for sae in dict.fromkeys(named.sae for named, _, _ in ranked):
            for own in self._features.own.held(sae)[-1:]:
                indices = [index for named, index, _ in ranked if named.sae == sae]
                rows = self._features.own.reader(own.cache_id).rows_of(
                    "feature_stats", sae, indices, ["feature", "density"]
                )
                assert rows is not None, "every merged SAE has statistics"
                dense |= {(sae, row["feature"]) for row in rows.to_pylist() if row["density"] > threshold}
        return [one for one in ranked if (one[0].sae, one[1]) not in dense]

    def _short_pages(self, named: Named, indices: Iterable[int]) -> dict[int, dict[str, Any]]:
        """What is shown of each feature beside a token: its name, how often it fires, and what is said of it."""
        wanted = list(indices)
        name = {"modelId": named.source.model, "layer": named.source.source}
        pages: dict[int, dict[str, Any]] = {
            index: {**name, "index": str(index), "explanations": []} for index in wanted
        }
        for own in self._features.own.held(named.sae)[-1:]:
            columns = ["feature", "density", "max_activation"]
            rows = self._features.own.reader(own.cache_id).rows_of("feature_stats", own.sae, wanted, columns)
            assert rows is not None, "every merged SAE has statistics"
            for row in rows.to_pylist():
                figures = {"maxActApprox": row["max_activation"] or 0.0, "frac_nonzero": row["density"]}
                pages[row["feature"]] |= figures
            for index, said in self._features.own.explanations_in(own, wanted).items():
                pages[index]["explanations"] = said
        return pages


def _ranked(named: Named, reading: SaeReading, at: Sequence[int]) -> list[Candidate]:
    """Features by their maximum, or by their sum over some tokens; none that does not fire."""
    if not at:
        return [(named, one.index, one.activation) for one in reading.peaks]
    sums: dict[int, float] = {}
    for place in dict.fromkeys(at):
        for one in reading.tokens[place]:
            sums[one.index] = sums.get(one.index, 0.0) + one.activation
    return [(named, index, total) for index, total in sums.items()]


def _maximum(values: Sequence[float], left_out: set[int]) -> tuple[float, int]:
    """The largest value and its place, of the first where several are equal."""
    places = [place for place in range(len(values)) if place not in left_out] or [0]
    place = max(places, key=lambda one: values[one])
    return values[place], place
