"""What ``raylens import delphi`` is going to do, checked whole before anything is written.

What delphi does not keep cannot be imported. Its rows are cut from documents laid end to end, so documents are
told apart by the separators between them; where there are none (``filter_bos`` removes them for some models) a
run of ``_RUN_ROWS`` rows counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.corpus.detokenize import Speller
from raylens.engine.load import load_tokenizer, tokenizer_fingerprint
from raylens.errors import InputError, RaylensError
from raylens.ids import SaeId, cache_id, digest
from raylens.sources.delphi import DelphiRun, Explained

_BLOCK_TOKENS: Final = 65_536
_RUN_ROWS: Final = 16
_FEW_DOCUMENTS: Final = 8
_LONGEST: Final = 32_767  # positions are int16


@dataclass(frozen=True, eq=False)
class ImportPlan:
    """A checked request.

    Attributes:
        run: What is imported.
        saes: The name that each hookpoint's SAE gets.
        ends: Of each split of each hookpoint, where each block of rows ends among its activations.
        explained: Explanations of each hookpoint.
        scored: Scores of each, by scorer and latent.
        tokens: ``[rows, ctx_len]`` int64.
        documents: ``[rows]`` int32, the document each row begins in.
        special_ids: Ids that stand for no text.
        prefix_ids: What every row begins with.
        speller: Gives the rows' text.
        info: For ``cache.json``.
        cache_id: The cache's id.
    """

    run: DelphiRun
    saes: tuple[SaeId, ...]
    ends: tuple[tuple[NDArray[np.int64], ...], ...]
    explained: tuple[list[Explained], ...]
    scored: tuple[dict[str, dict[int, list[dict[str, Any]]]], ...]
    tokens: NDArray[np.int64]
    documents: NDArray[np.int32]
    special_ids: tuple[int, ...]
    prefix_ids: tuple[int, ...]
    speller: Speller
    info: dict[str, Any]
    cache_id: str

    @property
    def block_rows(self) -> int:
        return _block_rows(self.tokens)


def plan_import(
    folder: Path,
    *,
    hookpoints: Sequence[str] | None = None,
    tokenizer: str | None = None,
    sae: str | None = None,
    name: str | None = None,
) -> ImportPlan:
    """Read and check all of ``folder`` but the activations' own order of magnitude; nothing is written.

    Args:
        folder: A run's folder, or its ``latents``.
        hookpoints: Which to import; all by default.
        tokenizer: Hub id or folder; the model that the run names by default.
        sae: The SAE's id, where one hookpoint is imported; made from what the run says by default.
        name: The cache's name.

    Raises:
        InputError: The folder is not delphi's or is damaged, hookpoints differ in their text, or the tokenizer
            cannot be loaded or is of another model.
    """
    run = DelphiRun(folder, hookpoints)
    tokens = run.hookpoints[0].tokens()
    for other in run.hookpoints[1:]:
        if not np.array_equal(other.tokens(), tokens):
            raise InputError(
                f"{run.hookpoints[0].name} and {other.name} were cached from different text.",
                hint="import them one by one, with --hookpoint.",
            )
    n_rows, ctx_len = tokens.shape
    if ctx_len > _LONGEST:
        raise InputError(
            f"rows of {ctx_len} tokens are too long; at most {_LONGEST} are stored.",
            hint="cache them again with a shorter cache_ctx_len.",
        )
    block_rows = _block_rows(tokens)
    ends = tuple(
        tuple(split.ends_of_blocks(n_rows, ctx_len, block_rows) for split in hookpoint.splits)
        for hookpoint in run.hookpoints
    )
    loaded, named = _tokenizer(run, tokenizer)
    largest = int(tokens.max())
    if int(tokens.min()) < 0 or largest >= len(loaded):
        raise InputError(
            f"the text holds token {largest}, and the tokenizer of {named} has {len(loaded)} tokens.",
            hint="name the tokenizer of the model that was cached with --tokenizer.",
        )
    special = tuple(int(one) for one in loaded.all_special_ids)
    prefix = (int(tokens[0, 0]),) if (tokens[:, 0] == tokens[0, 0]).all() and int(tokens[0, 0]) in special else ()
    config = run.hookpoints[0].config
    corpus = {key: config.get(key) for key in ("dataset_repo", "dataset_name", "dataset_split", "dataset_column")}
    identity = {
        "imported": "delphi",
        "model": run.model,
        "tokenizer": tokenizer_fingerprint(loaded),
        "tokens": digest(tokens.astype("<i8").tobytes()),
        "ctx_len": ctx_len,
        "pack": False,
    }
    return ImportPlan(
        run=run,
        saes=_sae_ids(run, sae),
        ends=ends,
        explained=tuple(run.explanations(hookpoint) for hookpoint in run.hookpoints),
        scored=tuple(run.scores(hookpoint) for hookpoint in run.hookpoints),
        tokens=tokens,
        documents=document_ids(np.isin(tokens[:, len(prefix) :], special)),
        special_ids=special,
        prefix_ids=prefix,
        speller=Speller(loaded, special),
        info={
            "identity": identity,
            "model": run.model or named,
            "revision": None,
            "texts": [f"delphi:{config.get('dataset_repo') or run.root.name}"],
            "corpus": corpus,
            "ctx_len": ctx_len,
            "prefix_ids": list(prefix),
            "name": name,
        },
        cache_id=cache_id(identity),
    )


def document_ids(separates: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The document that each row begins in, dense from 0: ``[rows]`` int32.

    Args:
        separates: ``[rows, tokens]``: whether a token stands between two documents. Separators at the beginning
            of a row belong to what follows them.
    """
    n_rows, n_tokens = separates.shape
    leading = np.where(separates.all(axis=1), n_tokens, np.argmin(separates, axis=1))
    before = np.cumsum([0, *separates.sum(axis=1)[:-1]])
    dense = np.unique(before + leading, return_inverse=True)[1]
    if dense[-1] + 1 < _FEW_DOCUMENTS:
        dense = np.arange(n_rows) // _RUN_ROWS
    return dense.astype(np.int32)


def _block_rows(tokens: NDArray[np.int64]) -> int:
    return max(1, _BLOCK_TOKENS // tokens.shape[1])


def _tokenizer(run: DelphiRun, named: str | None) -> tuple[Any, str]:
    ref = named or run.model
    if ref is None:
        raise InputError(
            "the folder does not say which model it is of.", hint="name its tokenizer with --tokenizer: folder or id."
        )
    try:
        return load_tokenizer(ref), ref
    except RaylensError as error:
        raise InputError(
            f"the tokenizer of {ref} cannot be loaded: {error.message}",
            hint="name one with --tokenizer: a local folder, a hub id, or raylens/pico.",
        ) from error


def _sae_ids(run: DelphiRun, named: str | None) -> tuple[SaeId, ...]:
    if named is not None:
        if len(run.hookpoints) > 1:
            raise InputError(
                f"--sae names one SAE, and there are {len(run.hookpoints)} hookpoints.", hint="add --hookpoint."
            )
        return (SaeId.parse(named),)
    sparse = str(run.config.get("sparse_model") or "")
    # A path on somebody's machine names nothing elsewhere.
    source = Path(sparse).name if Path(sparse).is_absolute() else sparse
    source = re.sub(r"\s+", "-", source.strip("/.") or run.root.resolve().name or "run")
    return tuple(SaeId("delphi", f"{source}/{re.sub(chr(92) + 's+', '-', one.name)}") for one in run.hookpoints)
