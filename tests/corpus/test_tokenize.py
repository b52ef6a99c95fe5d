"""Ids equal transformers' own; every token points at its text, whichever way offsets were found."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from raylens.corpus import Document, TokenizedDocument, WindowCutter
from raylens.corpus.offsets import SurfaceTable, byte_alphabet, close_gaps
from raylens.corpus.tokenize import tokenize
from raylens.errors import CorpusError

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
texts = st.text(
    st.one_of(st.sampled_from(" \n\tab_(é日🙂'"), st.characters(exclude_categories=["Cs"])), min_size=1, max_size=40
)


def doc(text: str, path: str = "p") -> Document:
    return Document(text, "s", ".", path, "all")


def chat(*turns: tuple[str, str]) -> Document:
    return Document("", "s", ".", "p#1", "all", tuple({"role": role, "content": text} for role, text in turns))


def one(tokenizer: Any, document: Document, prefix: tuple[int, ...] = ()) -> TokenizedDocument:
    [found] = tokenize(tokenizer, [document], prefix_ids=prefix)
    return found


def check_spans(found: TokenizedDocument) -> None:
    starts, ends = found.offsets.tolist(), found.ends.tolist()
    assert len(starts) == len(ends) == len(found.ids)
    assert found.ids.dtype == found.offsets.dtype == found.ends.dtype == np.int32
    if starts:
        assert starts == sorted(starts)
        assert ends == sorted(ends)
        assert (starts[0], ends[-1]) == (0, len(found.text))
        assert all(first <= end for first, end in zip(starts, ends, strict=True))
        assert all(after <= end for end, after in zip(ends, starts[1:], strict=False)), "a character is left out"


@SHARED
@given(text=texts)
@example("  two  spaces\n\n    indented\r\n")
@example("e\u0301 decomposed, Å and \N{ANGSTROM SIGN}")
@example("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}stanbul straße \0 \ufeff x")
@example("text with <|bos|> inside<|bos|>")
def test_ids_are_those_of_transformers(any_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    found = one(any_tokenizer, doc(text))
    expected = any_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found.ids.tolist() == (expected if text.strip() else [])
    check_spans(found)


def slow_spans(text: str, spelled: list[bytes]) -> list[tuple[int, int]]:
    """Oracle: walk over the text's bytes, token by token."""
    character = [index for index, char in enumerate(text) for _ in char.encode()]
    spans, position = [], 0
    for piece in spelled:
        spans.append((character[position], character[position + len(piece) - 1] + 1))
        position += len(piece)
    assert position == len(character)
    return spans


@SHARED
@given(text=texts)
def test_offsets_are_those_of_the_bytes(byte_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    found = one(byte_tokenizer, doc(text))
    alphabet = byte_alphabet()
    pieces = byte_tokenizer.convert_ids_to_tokens(found.ids.tolist())
    spelled = [bytes(alphabet[char] for char in piece) for piece in pieces]
    expected = slow_spans(text, spelled) if text.strip() else []
    assert list(zip(found.offsets.tolist(), found.ends.tolist(), strict=True)) == expected


@SHARED
@given(text=texts)
def test_added_up_lengths_equal_tracked_offsets(any_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """The fast way against the one that ``tokenizers`` offers, wherever the fast one applies.

    A space that the tokenizer put before the text has no characters here, and the first one there.
    """
    backend = Tokenizer.from_str(any_tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=False)  # trimmed, a lone space has no place
    table = SurfaceTable(backend.get_vocab(), {0: "<|bos|>"})
    encoding = backend.encode(text, add_special_tokens=False)
    fast = table.spans(text, encoding.ids)
    if fast is not None and encoding.ids:
        tracked = close_gaps(encoding.offsets, len(text))
        assert np.array_equal(fast[0], tracked[0])
        has_characters = fast[0] < fast[1]
        assert has_characters[1:].all()
        assert np.array_equal(fast[1][has_characters], tracked[1][has_characters])


def test_the_alphabet_is_that_of_byte_level_vocabularies(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    for text in ("a b\n\0\x7f é\xad", "日🙂"):
        tokens = byte_tokenizer.tokenize(text)
        assert bytes(alphabet[char] for token in tokens for char in token) == text.encode()


def test_the_fast_way_serves_vocabularies_that_spell_bytes(any_tokenizer: PreTrainedTokenizerFast) -> None:
    backend = any_tokenizer.backend_tokenizer
    added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
    table = SurfaceTable(backend.get_vocab(), added)
    text = "def café(self):\n    return 'naïve'\n"
    spans = table.spans(text, backend.encode(text, add_special_tokens=False).ids)
    assert (spans is None) == (type(backend.model).__name__ == "WordPiece")


def test_batches_change_nothing(byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [doc(f"text {i} é" * (i % 7), str(i)) for i in range(60)]
    whole = list(tokenize(byte_tokenizer, documents))
    monkeypatch.setattr("raylens.corpus.tokenize.BATCH_CHARACTERS", 40)
    small = list(tokenize(byte_tokenizer, documents))
    for found, again, document in zip(whole, small, documents, strict=True):
        assert found.document is again.document is document
        assert np.array_equal(found.ids, again.ids)
        assert np.array_equal(found.offsets, again.offsets)


def test_documents_are_read_a_batch_at_a_time(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylens.corpus.tokenize.BATCH_CHARACTERS", 1000)
    read = itertools.count()
    endless = (doc("x" * 100) for _ in read)
    found = tokenize(byte_tokenizer, endless)
    for _ in range(12):
        next(found)
    assert next(read) <= 21


@pytest.mark.parametrize("text", ["", " ", "\n\t  \n", "\u2003"])
def test_blank_documents_have_no_tokens(byte_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    found = one(byte_tokenizer, doc(text))
    assert len(found.ids) == len(found.offsets) == len(found.ends) == 0
    assert list(WindowCutter(8).cut([found])) == []


def test_a_tokenizers_truncation_and_padding_do_not_apply() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_truncation(3)
    backend.enable_padding(length=10)
    found = one(PreTrainedTokenizerFast(tokenizer_object=backend), doc("a b a b a"))
    assert found.ids.tolist() == [0, 1, 0, 1, 0]


def test_chat_goes_through_the_template_and_has_one_bos(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    document = chat(("user", "hi é"), ("assistant", "hello"))
    bos = byte_tokenizer.get_vocab()["<|bos|>"]
    found = one(byte_tokenizer, document, prefix=(bos,))
    assert found.text == "[user] hi é\n[assistant] hello\n"
    assert bos not in found.ids
    assert byte_tokenizer.decode(found.ids.tolist()) == found.text
    check_spans(found)
    [window] = WindowCutter(64, prefix=[bos]).cut([found])
    messages: Any = [dict(message) for message in document.messages or ()]
    expected = byte_tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert window.token_ids.tolist() == expected
    assert one(byte_tokenizer, document).text.startswith("<|bos|>[user]"), "no prefix, so it stays"


def test_plain_text_that_begins_with_bos_keeps_it(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    bos = byte_tokenizer.get_vocab()["<|bos|>"]
    found = one(byte_tokenizer, doc("<|bos|>text"), prefix=(bos,))
    assert found.ids[0] == bos
    assert (found.offsets[1], found.text) == (7, "<|bos|>text")


def test_chat_needs_a_template_that_takes_it(
    byte_tokenizer: PreTrainedTokenizerFast, any_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(CorpusError, match="p#1 of s holds chat messages, and the model's tokenizer has no chat"):
        one(any_tokenizer, chat(("user", "hi")))
    with pytest.raises(CorpusError, match="refuses p#1 of s: no role tool"):
        one(byte_tokenizer, chat(("tool", "hi")))


class Words(PreTrainedTokenizer):
    """A slow tokenizer: whitespace-separated words, cut into two characters each, lower-cased."""

    def __init__(self) -> None:
        self.words = {"<unk>": 0}
        super().__init__(unk_token="<unk>")

    @property
    def vocab_size(self) -> int:
        return 10_000

    def get_vocab(self) -> dict[str, int]:
        return dict(self.words)

    def _tokenize(self, text: str, **kwargs: object) -> list[str]:
        return [word[i : i + 2].lower() for word in text.split() for i in range(0, len(word), 2)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.words.setdefault(token, len(self.words))

    def _convert_id_to_token(self, index: int) -> str:
        return next(word for word, known in self.words.items() if known == index)


@SHARED
@given(text=st.text(" \nabcdé日", max_size=60))
def test_slow_tokenizers_find_their_tokens_in_the_text(text: str) -> None:
    tokenizer = Words()
    assert not tokenizer.is_fast
    found = one(tokenizer, doc(text))
    check_spans(found)
    for token, first, end in zip(found.ids.tolist(), found.offsets.tolist(), found.ends.tolist(), strict=True):
        assert found.text[first:end].strip() == tokenizer.convert_ids_to_tokens(token)


def test_what_a_slow_tokenizer_changed_gets_no_characters() -> None:
    found = one(Words(), doc("ab XY cd"))
    assert found.offsets.tolist() == [0, 2, 2]
    assert found.ends.tolist() == [2, 2, 8]
