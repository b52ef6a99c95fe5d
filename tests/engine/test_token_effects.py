"""Effects of tokens against the slow oracle: one whole forward a variant, sae-lens's dense encode, and no batches.

A0.06: ablation and counterfactuals.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fine_tunes import pico
from raylens.api.reading import KEPT, TokenEffect
from raylens.engine.load import LoadedModel, token_strings
from raylens.engine.passage import PassageTokens, span_tokens
from raylens.engine.saes import LoadedSae, load_sae
from raylens.engine.substitutes import propose
from raylens.engine.token_effects import DEFAULT_FEATURES, Effects, EffectsWanted, run, token_effects
from raylens.errors import InputError, UnknownNameError

NOISE = 3e-4


def log_prob_of(loaded: LoadedModel, ids: list[int], start: int) -> float:
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return sum(float(logits[at - 1, ids[at]]) for at in range(start, len(ids)))


def dense_of(loaded: LoadedModel, sae: LoadedSae, ids: list[int]) -> NDArray[np.float32]:
    """``[tokens, latents]``, 0 on special tokens."""
    layer = sae.spec.hook.layer
    assert layer is not None
    with torch.inference_mode():
        hidden = loaded.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        found = sae.sae.encode(hidden[layer + 1][0]).numpy().copy()
    found[[at for at, token in enumerate(ids) if token in loaded.special_ids]] = 0
    return found


def assert_effect(
    loaded: LoadedModel, sae: LoadedSae | None, tokens: PassageTokens, effect: TokenEffect, substitute: int | None
) -> None:
    ids, start, at = list(tokens.ids), tokens.output_start, effect.position
    assert start is not None
    changed = [*ids[:at], *([] if substitute is None else [substitute]), *ids[at + 1 :]]
    shift = len(ids) - len(changed)
    assert effect.log_prob == pytest.approx(log_prob_of(loaded, changed, start - shift), abs=NOISE)
    assert effect.effect == pytest.approx(effect.log_prob - log_prob_of(loaded, ids, start), abs=2 * NOISE)
    assert effect.token == token_strings(loaded.tokenizer, [ids[at]])[0]
    if sae is None:
        assert effect.features == ()
        return
    before = dense_of(loaded, sae, ids)[at + 1 :].max(axis=0)
    after = dense_of(loaded, sae, changed)[at + 1 - shift :].max(axis=0)
    for one in effect.features:
        assert one.before == pytest.approx(float(before[one.index]), abs=NOISE)
        assert one.after == pytest.approx(float(after[one.index]), abs=NOISE)


def ids_of(loaded: LoadedModel, text: str) -> list[int]:
    return [at for at in range(len(loaded.tokenizer)) if token_strings(loaded.tokenizer, [at])[0] == text]


@given(data=st.data())
@settings(max_examples=10)
def test_each_effect_is_that_of_the_changed_text_read_alone(
    data: st.DataObject, loaded_models: dict[str, LoadedModel], sae_folders: dict[str, Path]
) -> None:
    loaded = loaded_models[data.draw(st.sampled_from(sorted(loaded_models)))]
    # No TopK: whether a latent is the eighth or the ninth of a token may depend on noise.
    kind = data.draw(st.sampled_from([None, "standard", "jumprelu", "gated"]))
    sae = None if kind is None else load_sae(sae_folders[kind])
    token = st.integers(0, loaded.info.vocab_size - 1)
    before, output = (
        data.draw(st.lists(token, min_size=2, max_size=9)),
        data.draw(st.lists(token, min_size=1, max_size=4)),
    )
    ids = (*before, *output)
    special = tuple(at for at, one in enumerate(ids) if one in loaded.special_ids)
    tokens = PassageTokens(ids, special, output_start=len(before))
    features = data.draw(st.none() | st.lists(st.integers(0, 127), min_size=1, max_size=5).map(tuple))
    wanted = EffectsWanted(features if sae else None, 128, data.draw(st.integers(0, 2)), data.draw(st.integers(1, 3)))
    effects = run(token_effects(loaded, tokens, sae, wanted, data.draw(st.sampled_from([1, 40, 8192]))))

    assert effects.log_prob == pytest.approx(log_prob_of(loaded, list(ids), len(before)), abs=NOISE)
    assert [one.position for one in effects.ablations] == [at for at in range(len(before)) if at not in special]
    for one in effects.ablations:
        assert one.substitute is None
        assert_effect(loaded, sae, tokens, one, None)
    assert_features(loaded, sae, tokens, wanted, effects)
    assert_counterfactuals(loaded, sae, tokens, wanted, effects)


def assert_features(
    loaded: LoadedModel, sae: LoadedSae | None, tokens: PassageTokens, wanted: EffectsWanted, effects: Effects
) -> None:
    if sae is None:
        assert effects.features == ()
        return
    dense = dense_of(loaded, sae, list(tokens.ids))
    best = dense.max(axis=0)
    if wanted.features is None:
        assert len(effects.features) == min(DEFAULT_FEATURES, int((best > 0).sum()))
    else:
        assert [one.index for one in effects.features] == list(dict.fromkeys(wanted.features))
    for one in effects.features:
        assert one.activation == pytest.approx(float(best[one.index]), abs=NOISE)
        if one.activation:
            assert dense[one.position, one.index] == pytest.approx(one.activation, abs=NOISE)


def assert_counterfactuals(
    loaded: LoadedModel, sae: LoadedSae | None, tokens: PassageTokens, wanted: EffectsWanted, effects: Effects
) -> None:
    """Of the most important tokens in order, the substitutes with the largest effect of all that were proposed."""
    found = effects.counterfactuals
    order = [one.position for one in sorted(effects.ablations, key=lambda one: (-abs(one.effect), one.position))]
    important = order[: wanted.counterfactuals]
    assert list(dict.fromkeys(one.position for one in found)) == important
    for place in important:
        own = [one for one in found if one.position == place]
        assert len(own) <= wanted.substitutes
        sizes = [abs(one.effect) for one in own]
        assert sizes == sorted(sizes, reverse=True)
        for one in own:
            assert one.substitute is not None
            ids = ids_of(loaded, one.substitute)
            assert ids
            assert not set(ids) & loaded.special_ids
            if len(ids) == 1:
                assert_effect(loaded, sae, tokens, one, ids[0])


def test_substitutes_are_what_is_expected_there_and_what_is_alike() -> None:
    model = pico()
    tokens = span_tokens(model, "import numpy as np\nx = np.", "zeros(3)")
    at = tokens.textual[0]
    ids = list(tokens.ids)
    with torch.inference_mode():
        out = model.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    hidden = out.hidden_states[-1][0]  # after the final norm
    banned = [ids[at], *model.special_ids]
    logits = out.logits[0, at - 1].clone()
    logits[banned] = -torch.inf
    expected = logits.topk(4).indices.tolist()
    table = model.model.get_parameter("model.embed_tokens.weight")
    likeness = torch.nn.functional.cosine_similarity(table, table[ids[at]][None])
    likeness[banned] = -torch.inf
    alike = likeness.topk(4).indices.tolist()
    assert propose(model, ids[at], hidden[at - 1], 4) == list(dict.fromkeys([*expected, *alike]))
    assert propose(model, ids[at], None, 4) == alike  # nothing is expected of a first token
    everything = propose(model, ids[at], hidden[at - 1], 10**6)
    assert len(everything) == len(set(everything)) == len(model.tokenizer) - 1 - len(model.special_ids)


def test_many_tokens_are_thinned_evenly() -> None:
    model = pico()
    tokens = span_tokens(model, "x = 1\n" * 40, "y")
    effects = run(token_effects(model, tokens, None, EffectsWanted(n_tokens=5, counterfactuals=0)))
    places = [one.position for one in effects.ablations]
    assert len(places) == 5
    assert (places[0], places[-1]) == (1, (tokens.output_start or 0) - 1)
    gaps = np.diff(places)
    assert gaps.max() - gaps.min() <= 1


def test_features_that_were_not_named_are_the_largest_of_the_passage() -> None:
    model, sae = pico(), load_sae("raylens-pico-res/layer_3")
    tokens = span_tokens(model, "def area(radius):\n    return math.", "pi * radius")
    effects = run(token_effects(model, tokens, sae, EffectsWanted(n_tokens=2, counterfactuals=1, substitutes=2)))
    best = dense_of(model, sae, list(tokens.ids)).max(axis=0)
    assert [one.index for one in effects.features] == np.argsort(-best, kind="stable")[:DEFAULT_FEATURES].tolist()
    assert len(effects.counterfactuals) == 2
    assert all(len(one.features) == DEFAULT_FEATURES for one in (*effects.ablations, *effects.counterfactuals))


def test_it_stops_after_each_pass() -> None:
    model = pico()
    passes: list[int] = []
    handle = model.engine.arch.embed.register_forward_hook(lambda _m, args, _o: passes.append(args[0].shape[0]))
    tokens = span_tokens(model, "x = 1\n" * 5, "y")
    steps = token_effects(model, tokens, None, EffectsWanted(counterfactuals=1), batch_tokens=64)
    seen: list[int] = []
    for _ in steps:
        seen.append(len(passes))
    handle.remove()
    assert seen == list(range(1, len(passes) + 1))
    assert passes[0] == 1


def test_what_cannot_be_measured_is_an_error(llama: LoadedModel, sae_folders: dict[str, Path]) -> None:
    sae = load_sae(sae_folders["topk"])
    with pytest.raises(InputError, match="there is no output"):
        run(token_effects(llama, span_tokens(llama, "x", ""), sae, EffectsWanted()))
    with pytest.raises(InputError, match="the first 128 tokens are all input"):
        run(token_effects(llama, span_tokens(llama, "x" * 500, "y"), sae, EffectsWanted()))
    with pytest.raises(InputError, match="nothing before the output"):
        run(token_effects(llama, PassageTokens((5, 6), output_start=0), sae, EffectsWanted()))
    with pytest.raises(UnknownNameError, match="no feature 500"):
        run(token_effects(llama, span_tokens(llama, "x", "y"), sae, EffectsWanted(features=(3, 500))))
    alone = run(token_effects(llama, PassageTokens((5, 6), output_start=1), sae, EffectsWanted()))
    assert alone.ablations == ()  # without it nothing would foretell the output
    assert len(alone.features) <= KEPT
