"""Documents → token ids and the characters each stands for, in batches.

The tokenizer object is handed in; nothing here imports transformers. Special tokens that a
tokenizer adds by itself (BOS) are left out: they belong to windows (:mod:`raylens.corpus.windows`).
Special tokens written in the text itself are read as such, as transformers does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raylens.corpus.document import Document
from raylens.corpus.offsets import Spans, SurfaceTable, close_gaps, search
from raylens.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as FastTokenizer

BATCH_CHARACTERS = 1 << 20
"""Characters encoded at a time: what is held in memory beside one document."""

_BATCH_DOCUMENTS = 1024
_PROBE = "Two words, a naïve line.\n    return x  # ünï 日本\n"


class TextTokenizer(Protocol):
    """What is used of a transformers tokenizer, fast or slow."""

    chat_template: Any

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, Any]: ...

    def decode(self, token_ids: list[int]) -> Any: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], *, tokenize: bool) -> Any: ...


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document's tokens.

    Attributes:
        document: Where it came from.
        text: What was tokenised: the document's text, or its conversation through the chat template.
        ids: ``[n]`` int32; empty where the text is blank, and such a document is dropped later.
        offsets: ``[n]`` int32, first character of each token in ``text``; never decreasing, from 0.
        ends: ``[n]`` int32, one past each token's last character. ``offsets[i + 1] < ends[i]`` only
            where one character is spelled by several tokens; the last is ``len(text)``.
    """

    document: Document
    text: str
    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    ends: NDArray[np.int32]


class TextEncoder:
    """A tokenizer made ready for bulk work.

    ``tokenizers`` tracks character offsets while it encodes and hands them over as a list of tuples.
    Where the vocabulary spells bytes it is quicker to encode without them and to add up lengths.
    Tokens a second of CPU, pico's tokenizer on the standard library, one core: transformers' call
    with ``return_offsets_mapping`` 500 000, tracked offsets 500 000, added-up lengths 700 000 (of
    which encoding alone 800 000).
    """

    def __init__(self, tokenizer: TextTokenizer, prefix_ids: Sequence[int] = ()) -> None:
        """Prepare ``tokenizer``; its truncation and padding are turned off, as a plain call does too.

        Args:
            tokenizer: A transformers tokenizer.
            prefix_ids: The ids it puts before a text by itself. A chat template that writes them
                into its text has them taken out again: windows add them.
        """
        self._tokenizer = tokenizer
        self._prefix = list(prefix_ids)
        self._backend: FastTokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self._table: SurfaceTable | None = None
        self._pieces: dict[int, str] = {}
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
            self._table = surface_table(self._backend)

    def encode(self, documents: Iterable[Document]) -> Iterator[TokenizedDocument]:
        """Encode documents, one result for each, in order.

        Raises:
            CorpusError: a conversation meets a tokenizer without a chat template, or one that refuses it.
        """
        for batch in _batches(documents):
            texts = [self._render(document) for document in batch]
            for document, text, (ids, spans) in zip(batch, texts, self._encode_texts(texts), strict=True):
                yield self._tokenized(document, text, ids, spans)

    def _render(self, document: Document) -> str:
        if document.messages is None:
            return document.text
        if not self._tokenizer.chat_template:
            raise CorpusError(
                f"{document.path} of {document.source} holds chat messages, and the model's tokenizer has no "
                "chat template.",
                hint="use an instruction-tuned model, or name a column of plain text with --column.",
            )
        from jinja2 import TemplateError  # comes with every tokenizer that has a template

        try:
            text = self._tokenizer.apply_chat_template([dict(m) for m in document.messages], tokenize=False)
        except TemplateError as error:
            raise CorpusError(
                f"the chat template refuses {document.path} of {document.source}: {error}.",
                hint="templates expect roles such as user and assistant in turn; leave that conversation out.",
            ) from None
        return str(text)

    def _encode_texts(self, texts: list[str]) -> Iterator[tuple[list[int], Spans]]:
        if self._backend is None:
            yield from map(self._encode_slowly, texts)
        elif self._table is None:
            for text, encoding in zip(texts, self._tracked(texts), strict=True):
                yield encoding.ids, close_gaps(encoding.offsets, len(text))
        else:
            for text, encoding in zip(
                texts, self._backend.encode_batch_fast(texts, add_special_tokens=False), strict=True
            ):
                spans = self._table.spans(text, encoding.ids)
                if spans is None:
                    encoding = self._tracked([text])[0]
                    spans = close_gaps(encoding.offsets, len(text))
                yield encoding.ids, spans

    def _tracked(self, texts: list[str]) -> list[Encoding]:
        assert self._backend is not None, "only reached with a fast tokenizer"
        return self._backend.encode_batch(texts, add_special_tokens=False)

    def _encode_slowly(self, text: str) -> tuple[list[int], Spans]:
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        for token in set(ids) - self._pieces.keys():
            self._pieces[token] = str(self._tokenizer.decode([token]))
        return ids, search(text, (self._pieces[token] for token in ids))

    def _tokenized(self, document: Document, text: str, ids: list[int], spans: Spans) -> TokenizedDocument:
        tokens = np.array(ids if text.strip() else [], dtype=np.int32)
        starts, ends = spans[0][: len(tokens)], spans[1][: len(tokens)]
        n_prefix = len(self._prefix)
        if document.messages is not None and n_prefix and ids[:n_prefix] == self._prefix:
            cut = int(starts[n_prefix]) if len(tokens) > n_prefix else len(text)
            tokens, text = tokens[n_prefix:], text[cut:]
            starts, ends = starts[n_prefix:] - np.int32(cut), ends[n_prefix:] - np.int32(cut)
        return TokenizedDocument(document, text, tokens, starts, ends)


def surface_table(backend: FastTokenizer) -> SurfaceTable | None:
    """The bytes that a tokenizer's tokens spell; None where they do not add up to the text (WordPiece)."""
    added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
    table = SurfaceTable(backend.get_vocab(with_added_tokens=True), added)
    probe = backend.encode(_PROBE, add_special_tokens=False).ids
    return table if table.spans(_PROBE, probe) is not None else None


def tokenize(
    tokenizer: TextTokenizer, documents: Iterable[Document], *, prefix_ids: Sequence[int] = ()
) -> Iterator[TokenizedDocument]:
    """Encode ``documents`` in order; :class:`TextEncoder` for repeated use."""
    return TextEncoder(tokenizer, prefix_ids).encode(documents)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += document.characters
        if characters >= BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
