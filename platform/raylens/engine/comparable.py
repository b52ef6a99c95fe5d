"""Whether two models can be compared position by position, and feature by feature.

A candidate must be a fine-tune of its reference as far as shapes and ids tell: another width has other SAE features,
and another tokenizer reads other positions.

==========================  ==========================================================================================
compared                    so that
==========================  ==========================================================================================
architecture, model type    the same module holds the same weights
width, layers               a hook point is the same tensor
vocabulary size             next-token distributions are over the same tokens
tokenizer                   the same text is the same ids; how it pads and truncates is left out
==========================  ==========================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from raylens.engine.load import LoadedModel, load_tokenizer, prefix_ids, tokenizer_fingerprint
from raylens.engine.model_config import read_model_config
from raylens.engine.models import ModelFiles, describe_files
from raylens.errors import MismatchError
from raylens.ids import digest
from raylens.specs import ModelInfo

_HINT: Final = "a candidate must be a fine-tune of the reference; name the model that it was made from as --reference."
_TOKENIZER_HINT: Final = (
    "give the candidate the reference's tokenizer files, if it was trained with them; otherwise the two read a text as "
    "different tokens."
)

_SHAPE: Final[tuple[tuple[str, Callable[[ModelInfo], object]], ...]] = (
    ("architecture {}", lambda info: info.architecture),
    ("width {:,}", lambda info: info.d_model),
    ("{} layers", lambda info: info.n_layers),
    ("a vocabulary of {:,}", lambda info: info.vocab_size),
)


def require_comparable(reference: LoadedModel | ModelFiles, candidate: LoadedModel | ModelFiles) -> None:
    """Refuse two models that cannot be compared; of files, only configuration and tokenizer are read.

    Raises:
        MismatchError: The first difference of the table above, of both sides.
        InputError: A configuration or tokenizer cannot be read.
    """
    ours, theirs = _Side(reference), _Side(candidate)
    for what, of in _SHAPE:
        mine, other = of(ours.info), of(theirs.info)
        if mine != other:
            raise MismatchError(
                f"{ours.name} has {what.format(mine)}, and {theirs.name} {what.format(other)}.", hint=_HINT
            )
    if ours.model_type != theirs.model_type:
        raise MismatchError(
            f"{ours.name} is a {ours.model_type} model, and {theirs.name} a {theirs.model_type} one.", hint=_HINT
        )
    if _text_to_ids(ours.tokenizer) != _text_to_ids(theirs.tokenizer):
        raise MismatchError(
            f"the tokenizers of {ours.name} and {theirs.name} differ: {_difference(ours.tokenizer, theirs.tokenizer)}.",
            hint=_TOKENIZER_HINT,
        )


class _Side:
    """What is compared of a model, read when it is needed."""

    def __init__(self, model: LoadedModel | ModelFiles) -> None:
        self._model = model
        self.name = model.name

    @cached_property
    def info(self) -> ModelInfo:
        return self._model.info if isinstance(self._model, LoadedModel) else describe_files(self._model)

    @cached_property
    def model_type(self) -> str:
        if isinstance(self._model, LoadedModel):
            network: Any = self._model.model
            return network.config.model_type
        return read_model_config(self._model.folder, self._model.name).model_type

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if isinstance(self._model, LoadedModel):
            return self._model.tokenizer
        return load_tokenizer(str(self._model.folder))


def _text_to_ids(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of all that decides which ids a text becomes. How it pads and truncates is a habit of who saved it last."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer_fingerprint(tokenizer)
    state = json.loads(backend.to_str())
    return digest({**state, "padding": None, "truncation": None, "prefix": list(prefix_ids(tokenizer))})


def _difference(reference: PreTrainedTokenizerBase, candidate: PreTrainedTokenizerBase) -> str:
    ours, theirs = reference.get_vocab(), candidate.get_vocab()
    if len(ours) != len(theirs):
        return f"{len(ours):,} and {len(theirs):,} tokens"
    for token, at in sorted(ours.items(), key=lambda item: item[1]):
        other = theirs.get(token)
        if other != at:
            return f"{token!r} is token {at} and {'none' if other is None else f'token {other}'}"
    before, after = prefix_ids(reference), prefix_ids(candidate)
    if before != after:
        return f"they begin a text with {list(before)} and {list(after)}"
    return "they have the same tokens, and other rules of cutting a text into them"
