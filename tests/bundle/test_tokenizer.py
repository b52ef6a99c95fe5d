"""pico's tokenizer: nothing is lost, block structure costs one token, windows begin with BOS."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from raylens.bundle.paths import PICO, model_path
from raylens.bundle.pico import PicoRecipe, batches
from raylens.bundle.tokenizer import BOS, PAD, VOCAB_SIZE


def tokenizer_of_the_bundle() -> PreTrainedTokenizerBase:
    folder = model_path(PICO)
    assert folder is not None
    return AutoTokenizer.from_pretrained(folder)


TOKENIZER = tokenizer_of_the_bundle()


def ids_of(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


@given(st.text().filter(lambda text: BOS not in text and PAD not in text))
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(ids_of(text)) == text


@given(st.text(alphabet=st.sampled_from("ab_ \n\t(:'\"0é🙂"), max_size=40))
def test_code_like_text_round_trips_and_offsets_are_in_order(text: str) -> None:
    encoded = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True)
    assert TOKENIZER.decode(encoded["input_ids"]) == text
    starts = [start for start, _ in encoded["offset_mapping"]]
    assert starts == sorted(starts)


@pytest.mark.parametrize("indentation", [0, 4, 8, 12, 16])
def test_a_newline_and_its_indentation_are_one_token(indentation: int) -> None:
    between = "\n" + " " * indentation
    pieces = [TOKENIZER.decode([i]) for i in ids_of(f"pass{between}return")]
    assert pieces == ["pass", between, "return"]


def test_identifiers_split_at_underscores_and_keep_their_space() -> None:
    assert [TOKENIZER.decode([i]) for i in ids_of(" self.read_size =")] == [" self", ".", "read", "_size", " ="]


@given(st.integers(min_value=0))
def test_no_token_spans_more_than_three_digits(number: int) -> None:
    digits = str(number)
    threes = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    assert ids_of(digits) == [i for three in threes for i in ids_of(three)]


def test_every_sequence_begins_with_bos() -> None:
    assert TOKENIZER.bos_token == BOS
    assert TOKENIZER("import os")["input_ids"] == [TOKENIZER.bos_token_id, *ids_of("import os")]
    assert len(TOKENIZER) == VOCAB_SIZE


def test_training_windows_begin_with_bos_and_do_not_depend_on_where_the_run_resumed() -> None:
    documents = [np.arange(10, 10 + n) for n in (300, 70, 40, 500)]
    recipe = PicoRecipe(steps=12, tokens_per_step=64, window=16, long_window=32, long_share=0.25)
    whole = list(batches(documents, 0, recipe, start=0))
    assert [b.shape for b in whole] == [(4, 16)] * 9 + [(2, 32)] * 3
    assert all((b[:, 0] == 0).all() for b in whole)
    resumed = list(batches(documents, 0, recipe, start=7))
    assert all(np.array_equal(a, b) for a, b in zip(whole[7:], resumed, strict=True))


def test_an_epoch_reads_each_token_once() -> None:
    documents = [np.arange(1, 57), np.arange(57, 120)]
    recipe = PicoRecipe(steps=2, tokens_per_step=64, window=16, long_window=16)
    read = np.concatenate([b[:, 1:].ravel() for b in batches(documents, 0, recipe, start=0)])
    text_tokens = read[read != 0]
    assert len(text_tokens) == len(set(text_tokens.tolist()))
