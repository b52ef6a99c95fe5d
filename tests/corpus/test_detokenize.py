"""Text from token ids: the text that was tokenised, with the characters each token stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylens.bundle.paths import model_path
from raylens.corpus.detokenize import Speller
from raylens.corpus.document import Document
from raylens.corpus.tokenize import TextEncoder


@pytest.fixture(scope="module")
def pico() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path("raylens/pico"))


def encode(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    document = Document(source="s", domain=".", path="p", split="", text=text)
    [found] = TextEncoder(tokenizer).encode([document])
    return found.ids.tolist(), found.offsets.tolist()


@settings(max_examples=50)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip))
def test_text_and_offsets_are_those_of_the_encoder(pico: Any, text: str) -> None:
    ids, offsets = encode(pico, text)
    found, starts = Speller(pico, ()).text(ids)
    assert (found, starts.tolist()) == (text, offsets)


def test_specials_stand_for_no_text_and_a_cut_character_for_its_sign(pico: Any) -> None:
    ids, _ = encode(pico, "a naïve 日本 text")
    bos = pico.bos_token_id
    text, starts = Speller(pico, [bos]).text([bos, *ids[:2], bos, *ids[2:]])
    assert text == "a naïve 日本 text"
    assert starts[0] == 0
    assert starts[3] == starts[4], "a separator has no characters"
    for begin in range(len(ids)):
        for end in range(begin + 1, len(ids) + 1):
            part, starts = Speller(pico, ()).text(ids[begin:end])
            assert part == pico.backend_tokenizer.decode(ids[begin:end], skip_special_tokens=False)
            assert (np.diff(starts) >= 0).all()
            assert 0 <= starts[0] <= starts[-1] <= len(part)
