"""Tokens as text, one by one, against the whole text at once: no half character, no part of a stop text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from raylens.bundle.paths import PICO
from raylens.engine.load import load_tokenizer
from raylens.engine.text_pieces import Characters, Piece, TextPieces
from raylens.engine.token_texts import TokenTexts

PICO_TOKENIZER = load_tokenizer(PICO)
BYTES = [token for token in range(4096) if TokenTexts(PICO_TOKENIZER)[token].text is None]
"""Tokens that are parts of characters."""


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer that writes leading spaces and bytes as SentencePiece does."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁def", "▁", "x", "▁the", "é"]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def whole(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def pieces_of(ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[Piece[int]], bool]:
    """What comes of ids that carry their own places."""
    pieces: TextPieces[int] = TextPieces(Characters(PICO_TOKENIZER), stop)
    made: list[Piece[int]] = []
    for at, token in enumerate(ids):
        piece, stopped = pieces.add(token, at)
        made.append(piece)
        if stopped:
            return made, True
    return [*made, pieces.end()], False


texts = st.lists(st.one_of(st.sampled_from(BYTES), st.integers(0, 4095)), max_size=24)
characters = st.text(st.sampled_from("ab 😀é≤π\n"), max_size=12)


@given(texts)
def test_pieces_of_any_tokens_are_the_whole_text(ids: list[int]) -> None:
    made, _ = pieces_of(ids)
    assert "".join(piece.text for piece in made) == whole(PICO_TOKENIZER, ids)
    assert [at for piece in made for at in piece.tokens] == list(range(len(ids)))


@given(characters)
def test_no_half_character_comes_of_whole_ones(text: str) -> None:
    ids = PICO_TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    made, _ = pieces_of(ids)
    assert not any("\ufffd" in piece.text for piece in made)
    assert "".join(piece.text for piece in made) == text
    for piece in made:
        assert len(piece.tokens) == len(piece.offsets)
    offsets = [at for piece in made for at in piece.offsets]
    assert offsets == sorted(offsets)
    assert not offsets or offsets[0] == 0


@given(
    st.text(st.sampled_from("ab😀"), max_size=30), st.lists(st.text(st.sampled_from("ab😀"), min_size=1), max_size=3)
)
def test_a_stop_text_ends_the_answer_before_any_of_it_was_said(text: str, stops: list[str]) -> None:
    ids = PICO_TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    made, stopped = pieces_of(ids, tuple(stops))
    said = "".join(piece.text for piece in made)
    # The slow way: token by token, until a stop text is in the text so far; it ends where the first one begins.
    so_far = ""
    for n in range(len(ids) + 1):
        so_far = whole(PICO_TOKENIZER, ids[:n])
        if any(stop in so_far for stop in stops):
            break
    found = [at for stop in stops if (at := so_far.find(stop)) >= 0]
    assert stopped == bool(found)
    assert said == so_far[: min(found, default=len(so_far))]
    for n in range(len(made)):  # also while it came
        assert not any(stop in "".join(piece.text for piece in made[:n]) for stop in stops)
    # A token belongs to the answer where its text begins in it.
    kept = [at for piece in made for at in piece.tokens]
    assert kept == list(range(len(kept)))
    if stopped:
        assert len(kept) == sum(
            len(whole(PICO_TOKENIZER, ids[:n]).rstrip("\ufffd")) < len(said) for n in range(len(ids))
        )


def test_what_may_become_a_stop_text_waits_and_no_more() -> None:
    pieces: TextPieces[str] = TextPieces(Characters(PICO_TOKENIZER), ("\nEND", "xyz"))
    found = []
    for text in ("a", "\n", "E", "N", "b", "x", "y", "a"):
        ids = PICO_TOKENIZER(text, add_special_tokens=False)["input_ids"]
        assert isinstance(ids, list)
        found += [pieces.add(token, text)[0].text for token in ids]
    assert found == ["a", "", "", "", "\nENb", "", "", "xya"]
    assert pieces.end() == Piece()


def test_leading_spaces_of_sentencepiece_stay() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.convert_tokens_to_ids(["▁def", "▁", "x", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁the", "é"])
    assert isinstance(ids, list)
    after = Characters(tokenizer, ids[:1])
    assert [after.add(token) for token in ids[1:]] == [" ", "x", "", "", "", "😀", " the", "é"]
    first = Characters(tokenizer)
    assert "".join(first.add(token) for token in ids) == whole(tokenizer, ids) == "def x😀 theé"


def test_bytes_of_tokens_are_those_of_their_text() -> None:
    tokens = TokenTexts(PICO_TOKENIZER)
    text = "def f(é😀):\n  pass"
    ids = PICO_TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    assert b"".join(tokens[token].bytes for token in ids).decode() == text
    assert tokens[ids[0]].escaped == "def"
    assert tokens[BYTES[0]].text is None
    pieced = sentencepiece()
    ids = pieced.convert_tokens_to_ids(["<0xE2>", "▁the", "é"])
    assert isinstance(ids, list)
    found = [TokenTexts(pieced)[token] for token in ids]
    assert [one.bytes for one in found] == [b"\xe2", b" the", "é".encode()]
    assert [one.escaped for one in found] == ["\\xe2", " the", "é"]


def test_a_text_that_begins_within_a_character_is_not_lost() -> None:
    ids = PICO_TOKENIZER("€", add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    assert len(ids) > 1
    rest = Characters(PICO_TOKENIZER, ids[:1])
    said = "".join(rest.add(token) for token in ids[1:]) + rest.rest()
    assert said == whole(PICO_TOKENIZER, ids[1:])
