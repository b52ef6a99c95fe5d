"""Small tokenizers of the kinds there are, trained here on a few of CPython's own modules."""

from __future__ import annotations

import csv
import inspect
import json
import textwrap
from collections.abc import Callable

import pytest
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# Machines that run this are busy: how long an example takes says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

BOS = "<|bos|>"
EXTRA = "naïve café — “quotes” 日本語 🙂🙂 ß ΑΒΓ"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('no role ' + m.role) }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)

Make = Callable[[], Tokenizer]


def train(tokenizer: Tokenizer, alphabet: list[str]) -> Tokenizer:
    texts = [*map(inspect.getsource, (csv, textwrap)), *[EXTRA] * 3]
    if isinstance(tokenizer.model, models.WordPiece):
        trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[UNK]", BOS], show_progress=False)
    else:
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    """GPT-2's and Llama 3's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def byte_level_trimming() -> Tokenizer:
    """GPT-2's own post-processor: tracked offsets leave out the leading space; one is put first."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def byte_level_normalising() -> Tokenizer:
    """Qwen's kind: byte-level, and text is brought to NFC first."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def sentence_piece() -> Tokenizer:
    """Llama 2's and Gemma's kind: spaces become a symbol, unknown characters fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trained = json.loads(train(tokenizer, []).to_str())
    vocabulary = trained["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    return Tokenizer.from_str(json.dumps(trained))


def word_piece() -> Tokenizer:
    """BERT's kind: text is lower-cased and stripped of accents, whitespace is lost."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return train(tokenizer, [])


def wrap(tokenizer: Tokenizer, *, template: str | None = None) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, clean_up_tokenization_spaces=False)
    fast.chat_template = template
    return fast


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    return wrap(byte_level(), template=TEMPLATE)


@pytest.fixture(
    scope="session",
    params=[byte_level, byte_level_trimming, byte_level_normalising, sentence_piece, word_piece],
    ids=lambda make: make.__name__,
)
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    make: Make = request.param
    return wrap(make())
