"""Texts read together against the oracle: each text alone, transformers' own hidden states, sae-lens's dense encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fine_tunes import pico
from raylens.api.reading import KEPT, EncodeAnswer, SaeReading
from raylens.engine import feature_reading
from raylens.engine.encode import Sparse
from raylens.engine.feature_answers import encode_answer, peaks_among, peaks_of, values_answer
from raylens.engine.feature_reading import TextReading, WantedReading, batches, read_texts
from raylens.engine.load import LoadedModel, load_model, token_strings
from raylens.engine.passage import PassageTokens
from raylens.engine.saes import LoadedSae, load_sae
from raylens.errors import InputError, MismatchError, RunError, UnknownNameError

NOISE = 2e-4
"""What sums in another order differ by, in units of activations; these go up to 30."""


def oracle(loaded: LoadedModel, sae: LoadedSae, ids: tuple[int, ...]) -> NDArray[np.float32]:
    """Dense activations ``[tokens, latents]`` of one text alone, through the whole model."""
    layer = sae.spec.hook.layer
    assert layer is not None
    with torch.inference_mode():
        hidden = loaded.model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        return sae.sae.encode(hidden[layer + 1][0]).numpy()


def dense(codes: Sparse, shape: tuple[int, int]) -> NDArray[np.float32]:
    found = np.zeros(shape, np.float32)
    found[codes.token, codes.feature] = codes.activation
    return found


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Equal up to noise; a latent that fires at the edge of what an SAE keeps may fire in one and not in the other."""
    off = np.abs(found - expected) > NOISE
    either = np.maximum(found, expected)
    smallest = np.where(np.minimum(found, expected) > 0, either, np.inf).min(axis=1, keepdims=True)
    edge = ((found == 0) | (expected == 0)) & (either <= smallest + NOISE)
    assert not (off & ~edge).any()


def assert_answers(
    answer: EncodeAnswer, tokens: PassageTokens, saes: list[LoadedSae], texts: list[NDArray[np.float32]], top_k: int
) -> None:
    """Peaks and the largest of each token are those of the dense activations, in order."""
    assert [one.sae for one in answer.saes] == [str(sae.id) for sae in saes]
    for one, expected in zip(answer.saes, texts, strict=True):
        plain = expected.copy()
        plain[list(tokens.special)] = 0
        assert_peaks(one, plain)
        assert len(one.tokens) == len(tokens.ids)
        for at, row in enumerate(one.tokens):
            values = [firing.activation for firing in row]
            assert [(-firing.activation, firing.index) for firing in row] == sorted(
                (-firing.activation, firing.index) for firing in row
            )
            best = np.sort(plain[at][plain[at] > 0])[::-1][:top_k]
            if len(values) == len(best):  # else one of them is at the edge
                np.testing.assert_allclose(values, best, atol=NOISE)
            assert abs(len(values) - len(best)) <= 1


def assert_peaks(reading: SaeReading, plain: NDArray[np.float32]) -> None:
    peaks = reading.peaks
    assert [(-peak.activation, peak.index) for peak in peaks] == sorted((-p.activation, p.index) for p in peaks)
    best = plain.max(axis=0) if len(plain) else np.zeros(plain.shape[1], np.float32)
    assert abs(len(peaks) - min(KEPT, int((best > 0).sum()))) <= 2
    for peak in peaks:
        if best[peak.index] > 0:
            assert peak.activation == pytest.approx(float(best[peak.index]), abs=NOISE)
            assert plain[peak.position, peak.index] >= best[peak.index] - NOISE
    kept = {peak.index for peak in peaks}
    last = peaks[-1].activation if len(peaks) == KEPT else 0.0
    assert {int(at) for at in np.flatnonzero(best > last + NOISE)} - kept == set() or last == 0.0


@given(data=st.data())
@settings(max_examples=25)
def test_what_is_read_together_is_what_each_text_gives_alone(
    data: st.DataObject, loaded_models: dict[str, LoadedModel], sae_folders: dict[str, Path]
) -> None:
    loaded = loaded_models[data.draw(st.sampled_from(sorted(loaded_models)))]
    kinds = data.draw(st.lists(st.sampled_from(sorted(sae_folders)), min_size=1, max_size=3, unique=True))
    saes = [load_sae(sae_folders[kind]) for kind in kinds]
    token = st.integers(0, loaded.info.vocab_size - 1)
    texts = data.draw(st.lists(st.lists(token, max_size=40).map(tuple), min_size=1, max_size=6))
    top_k = data.draw(st.integers(1, 12))
    wanted = [
        WantedReading(
            ids,
            tuple(sae for sae in saes if data.draw(st.booleans())),
            data.draw(st.integers(0, 5)) if ids else 0,
        )
        for ids in texts
    ]
    readings = read_texts(loaded, wanted, data.draw(st.sampled_from([1, 30, 64, 8192])))
    for one, reading in zip(wanted, readings, strict=True):
        expected = [
            oracle(loaded, sae, one.ids) if one.ids else np.zeros((0, sae.d_sae), np.float32) for sae in one.saes
        ]
        for codes, own in zip(reading.codes, expected, strict=True):
            assert_close(dense(codes, own.shape), own)
        special = tuple(at for at, id_ in enumerate(one.ids) if id_ in loaded.special_ids)
        tokens = PassageTokens(one.ids, special)
        answer = encode_answer(loaded, "tiny", tokens, one.saes, reading, top_k=top_k, per_token=True)
        assert answer.tokens == tuple(token_strings(loaded.tokenizer, one.ids))
        assert_answers(
            answer,
            tokens,
            list(one.saes),
            [dense(c, e.shape) for c, e in zip(reading.codes, expected, strict=True)],
            top_k,
        )
        assert_next_tokens(loaded, one, reading, answer)


def assert_next_tokens(loaded: LoadedModel, one: WantedReading, reading: TextReading, answer: EncodeAnswer) -> None:
    assert (reading.next_tokens is None) == (one.next_tokens == 0)
    assert len(answer.next_tokens) == one.next_tokens
    if not one.next_tokens:
        return
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([one.ids]), use_cache=False).logits[0, -1]
    best = logits.topk(one.next_tokens)
    np.testing.assert_allclose([token.logit for token in answer.next_tokens], best.values, atol=NOISE)
    for token in answer.next_tokens:
        assert token.logit == pytest.approx(float(logits[token.id]), abs=NOISE)
        assert token.probability == pytest.approx(float(logits.softmax(0)[token.id]), rel=1e-3)
        assert token.token == token_strings(loaded.tokenizer, [token.id])[0]


def test_three_saes_of_pico_in_one_pass_that_ends_at_the_last_of_them(text: str) -> None:
    model = pico()
    saes = [load_sae(f"raylens-pico-res/layer_{layer}") for layer in (3, 1, 5)]
    ids = tuple(model.tokenizer(text)["input_ids"])
    ran: list[int] = []
    blocks: Any = model.model.get_submodule("model.layers")
    handles = [block.register_forward_pre_hook(lambda *_, at=at: ran.append(at)) for at, block in enumerate(blocks)]
    (reading,) = read_texts(model, [WantedReading(ids, tuple(saes))])
    stopped = list(ran)
    read_texts(model, [WantedReading(ids, tuple(saes), next_tokens=1)])
    for handle in handles:
        handle.remove()
    assert stopped == [0, 1, 2, 3, 4, 5]
    assert ran[6:] == list(range(8))
    for sae, codes in zip(saes, reading.codes, strict=True):
        expected = oracle(model, sae, ids)
        assert_close(dense(codes, expected.shape), expected)
        chosen = [int(codes.feature[0]), 0, int(codes.feature[0])]
        answer = values_answer(model, "raylens/pico", PassageTokens(ids, (0,)), sae, codes, chosen)
        assert [one.index for one in answer.features] == chosen
        for one in answer.features:
            np.testing.assert_allclose(one.values, expected[:, one.index], atol=NOISE)


@given(lengths=st.lists(st.integers(0, 100), max_size=30), most=st.integers(1, 400))
def test_batches_hold_every_text_once_and_little_padding(lengths: list[int], most: int) -> None:
    found = list(batches(lengths, most))
    assert sorted(at for batch in found for at in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= most
    order = [lengths[at] for batch in found for at in batch]
    assert order == sorted(order, reverse=True)


def codes_of(values: NDArray[np.float32]) -> Sparse:
    token, feature = np.nonzero(values)
    return Sparse(token.astype(np.int32), feature.astype(np.int32), values[token, feature])


@given(data=st.data())
def test_peaks_are_maxima_with_their_first_place(data: st.DataObject) -> None:
    n, width = data.draw(st.integers(0, 8)), data.draw(st.integers(1, 10))
    few = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5])  # so that there are ties
    rows = data.draw(st.lists(st.lists(few, min_size=width, max_size=width), min_size=n, max_size=n))
    values = np.array(rows, np.float32).reshape(n, width)
    special = data.draw(st.sets(st.integers(0, max(0, n - 1)), max_size=2)) if n else set()
    most = data.draw(st.integers(1, 12))
    plain = values.copy()
    plain[sorted(special)] = 0
    best = [
        (-plain[:, at].max(), at, int(plain[:, at].argmax())) for at in range(width) if n and plain[:, at].max() > 0
    ]
    found = peaks_of(codes_of(values), sorted(special), width, most).first(most)
    assert [(-peak.activation, peak.index, peak.position) for peak in found] == sorted(best)[:most]
    chosen = [width - 1, 0]
    among = peaks_among(codes_of(values), sorted(special), width, chosen, first=7)
    by_index = {at: (-low, place) for low, at, place in best}
    assert [(one.activation, one.position) for one in among] == [by_index.get(at, (0.0, 7)) for at in chosen]


def test_what_cannot_be_read_is_an_error(
    llama: LoadedModel, loaded_models: dict[str, LoadedModel], sae_folders: dict[str, Path]
) -> None:
    sae = load_sae(sae_folders["topk"])
    with pytest.raises(InputError, match=r"no tokens for .* to continue"):
        read_texts(loaded_models["gpt2"], [WantedReading((), (sae,), next_tokens=1)])
    with pytest.raises(MismatchError, match="reads vectors of width 32"):
        read_texts(pico(), [WantedReading((0, 5), (sae,))])
    (reading,) = read_texts(llama, [WantedReading((0, 5), (sae,))])
    with pytest.raises(UnknownNameError, match=r"has no feature 128\. hint: it has 128 features, which count from 0"):
        values_answer(llama, "tiny", PassageTokens((0, 5)), sae, reading.codes[0], [3, 128])


def test_activations_that_are_no_numbers_are_an_error(
    model_folders: dict[str, Path], sae_folders: dict[str, Path]
) -> None:
    damaged = load_model(str(model_folders["llama"]), device="cpu")
    with torch.no_grad():
        damaged.model.get_parameter("model.embed_tokens.weight")[7] = torch.nan
    sae = load_sae(sae_folders["topk"])
    with pytest.raises(RunError, match="not all finite numbers"):
        read_texts(damaged, [WantedReading((5, 7), (sae,)), WantedReading((5, 6), (sae,))])
    assert read_texts(damaged, [WantedReading((5, 6), (sae,))])


def test_padding_that_is_no_number_does_not_reach_a_text(
    model_folders: dict[str, Path], sae_folders: dict[str, Path]
) -> None:
    damaged = load_model(str(model_folders["llama"]), device="cpu")
    sae = load_sae(sae_folders["topk"])
    with torch.no_grad():
        damaged.model.get_parameter("model.embed_tokens.weight")[damaged.pad_id] = torch.nan
    together = read_texts(damaged, [WantedReading((5, 6, 8, 9), (sae,)), WantedReading((5,), (sae,), next_tokens=1)])
    expected = oracle(damaged, sae, (5,))
    assert_close(dense(together[1].codes[0], expected.shape), expected)


def test_a_pass_on_a_cpu_is_of_a_size_that_suits_it(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_reading, "CPU_TOKENS", 16)
    passes: list[tuple[int, ...]] = []
    handle = llama.engine.arch.embed.register_forward_hook(lambda _m, args, _o: passes.append(tuple(args[0].shape)))
    sizes = [3, 8, 8, 2, 20]
    read_texts(llama, [WantedReading((5,) * size, (), next_tokens=1) for size in sizes])
    handle.remove()
    assert passes == [(1, 20), (2, 8), (2, 3)]
