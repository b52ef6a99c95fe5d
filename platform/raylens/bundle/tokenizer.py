"""pico's tokenizer: byte-level BPE whose pre-tokenizer suits source code.

A run of newlines and the indentation after it is one piece, so that block structure costs one
token a line; an identifier splits at its underscores and keeps a leading space, and numbers go
three digits at a time. Byte-level, so any text round-trips.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 4096
BOS = "<|bos|>"
PAD = "<|pad|>"

_PIECES = r"\n+ *|[^\S\n]?_*[A-Za-z]+|[^\S\n]?[0-9]{1,3}|[^\S\n]?[^\sA-Za-z0-9]+|[^\S\n]+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], folder: Path) -> PreTrainedTokenizerFast:
    """Train on ``texts``, save to ``folder`` in transformers format, and return it.

    Every encoded sequence starts with ``<|bos|>``, as in Llama and Gemma.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(folder)
    return fast
