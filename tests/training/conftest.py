"""A record of synthetic activations that an SAE can learn: sparse sums of fixed directions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from raylens.store.dense import DenseRecord, DenseTokens, RecordInfo
from raylens.store.files import Files

D_IN = 16
HOOK = "resid_post.1"

MakeRecord = Callable[..., DenseRecord]


def info(**changes: object) -> RecordInfo:
    values: dict[str, object] = {
        "model": "raylens/pico",
        "revision": "r",
        "hooks": (HOOK,),
        "widths": (D_IN,),
        "stored_dtype": "float16",
        "ctx_len": 32,
        "prefix_ids": (0,),
        "shard_windows": 8,
        "texts": ("stdlib:train",),
        "corpus": ({"kind": "stdlib", "part": "train"},),
        "settings": {},
    }
    return RecordInfo.model_validate({**values, **changes})


def tokens(n: int, first: int = 0, ctx_len: int = 32) -> DenseTokens:
    at = np.arange(first, first + n, dtype=np.int32)
    return DenseTokens(
        window_id=at // ctx_len,
        doc_id=at // (2 * ctx_len),
        position=at % ctx_len,
        token_id=at % 97,
        special=at % ctx_len == 0,
    )


def activations(n: int, seed: int) -> NDArray[np.float32]:
    """``[n, D_IN]``: three of 40 directions each, some more common than others, on top of a large mean."""
    directions = np.random.default_rng(0).standard_normal((40, D_IN)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    which = rng.choice(40, (n, 3), p=(p := 1 / np.arange(3, 43)) / p.sum())
    return (rng.gamma(4, 0.5, (n, 3, 1)) * directions[which]).sum(axis=1).astype(np.float32) + 3


@pytest.fixture
def make_record(tmp_path: Path) -> MakeRecord:
    """``make_record(shards=4, rows=256)``: a record under ``tmp_path``; BOS rows hold nonsense, to be left out."""

    def make(shards: int = 4, rows: int = 256, name: str = "record", **changes: object) -> DenseRecord:
        record = DenseRecord.create(Files.open(tmp_path / name), "", info(**changes))
        for index in range(shards):
            here, values = tokens(rows, index * rows), activations(rows, seed=index)
            values[here.special] = 1000
            record.write(
                index,
                f"s{index}",
                here,
                {HOOK: values},
                window_first=index * rows // 32,
                n_windows=rows // 32,
                cursor={},
            )
        return record

    return make


TINY_TEXT = "def area(radius):\n    return math.pi * radius**2\n\nfor name, value in table:\n    print(name, value)\n"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three layers, ``D_IN`` wide, with a byte-level tokenizer and BOS, as a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<bos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TINY_TEXT] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<pad>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(wrapped),
            hidden_size=D_IN,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
        )
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
