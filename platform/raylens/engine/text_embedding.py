"""Sentence embeddings of other people's making: sentence-transformers models, from a folder or the hub.

Only safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from raylens.engine import fingerprint, hub
from raylens.engine.models import ModelFiles
from raylens.errors import HubUnreachableError, InputError
from raylens.home import from_home

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts → unit vectors float32 ``[texts, dim]``."""

_FILES: Final = ("*.json", "*.txt", "*.model", "*.safetensors")
_PICKLED: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_INSTEAD: Final = "name a folder or hub id in sentence-transformers format, or leave it out for the bundled embedding."
_BATCH: Final = 64


def locate_embedding(ref: str, *, revision: str | None = None) -> ModelFiles:
    """Find the files of an embedding model, downloading those of a hub model that are not cached.

    A name without an owner is one of sentence-transformers' own (``all-MiniLM-L6-v2``).

    Raises:
        InputError: There is no such model, it cannot be reached, or it has no safetensors.
        DiskFullError: No room to download it.
    """
    folder = from_home(ref)
    if folder.is_dir():
        folder = folder.resolve()
        files = ModelFiles(str(folder), _fingerprint(folder), folder)
    else:
        name = ref if "/" in ref else f"sentence-transformers/{ref}"
        try:
            found, commit = hub.fetch(name, _FILES, revision=revision)
        except (HubUnreachableError, InputError) as error:
            raise InputError(f"the embedding model {ref}: {error.message}", hint=_INSTEAD) from error
        files = ModelFiles(name, commit, found)
    if not list(files.folder.rglob("*.safetensors")):
        pickled = any(list(files.folder.rglob(pattern)) for pattern in _PICKLED)
        why = "its weights are pickled, and pickles can run code" if pickled else "there are no safetensors"
        raise InputError(f"{ref} is no embedding model that can be used: {why}.", hint=_INSTEAD)
    return files


def load_embedding(files: ModelFiles, device: str = "cpu") -> Embed:
    """Load an embedding model that was located before.

    Args:
        files: Where it is.
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: sentence-transformers cannot load it, or it comes with code of its own.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    hub.prepare()
    disable_progress_bar()
    _refuse_pickled_parts(files)
    try:
        model = SentenceTransformer(
            str(files.folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # whatever a folder of somebody else's makes the library raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{files.name} cannot be loaded as an embedding model ({why}).", hint=_INSTEAD) from error

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        found = model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False, normalize_embeddings=True)
        return np.asarray(found, np.float32)

    return embed


def _fingerprint(folder: Path) -> str:
    """Content hash of everything that decides about a vector, the parts in folders of their own included."""
    return fingerprint.of_files(sorted(path for pattern in _FILES for path in folder.rglob(pattern) if path.is_file()))


def _refuse_pickled_parts(files: ModelFiles) -> None:
    """A part without safetensors would be read from a pickle beside it."""
    for pattern in _PICKLED:
        for pickled in sorted(files.folder.rglob(pattern)):
            if not list(pickled.parent.glob("*.safetensors")):
                raise InputError(
                    f"{files.name} has weights only as {pickled.relative_to(files.folder)}, and pickles can run code.",
                    hint=_INSTEAD,
                )
