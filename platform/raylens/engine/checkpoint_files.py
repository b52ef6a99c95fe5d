"""Which files of a model's folder hold its weights: those that transformers reads, and no others.

What is hashed as a model's identity, and what is loaded, have to be the same files. So what would make transformers
read others (a file named in the configuration, an adapter beside the model) is refused, and an index says something
only where there is no ``model.safetensors``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from raylens.engine.adapter_config import CONFIG as ADAPTER_CONFIG
from raylens.errors import DamagedFileError, InputError

WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

_PICKLED: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_COPY: Final = "copy or download the model again."


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a model's weights, in order of name (none: an empty list).

    Raises:
        DamagedFileError: The index of a model in parts cannot be read, or names a part that is not there.
        InputError: It names a file outside the folder.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        return []
    files = sorted({folder / name for name in _parts(folder)})
    for path in files:
        if not path.is_file():
            raise DamagedFileError(f"{folder / INDEX} names {path.name}, which is not there.", hint=_COPY)
    return files


def _parts(folder: Path) -> set[str]:
    """Of a model in parts, the names of its files."""
    try:
        names = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"{folder / INDEX} does not say which file holds which weight.", hint=_COPY) from error
    for name in names:
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise InputError(
                f"{folder / INDEX} names {str(name)[:80]!r}, which is not a file beside it.",
                hint="put all weights of a model into one folder, as save_pretrained does.",
            )
    return names


def require_weights(folder: Path, name: str) -> None:
    """Raise InputError where a model has no safetensors weights, naming the pickles it has instead."""
    if weight_files(folder):
        return
    pickles = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    found = f"only pickled ones ({', '.join(pickles[:3])})" if pickles else "none at all"
    raise InputError(
        f"{name} has no {WHOLE} and no index of parts, but {found}.",
        hint="pickles can run code; take a revision with safetensors, or: raylens convert FOLDER --out NEW.",
    )


def read_raw_config(folder: Path, name: str) -> dict[str, Any]:
    """The ``config.json`` of a model, as far as it says which files are read.

    Raises:
        InputError: There is none, it is no object, or something in the folder would be loaded beside what is hashed.
    """
    if not (folder / "config.json").is_file():
        adapter = " but a LoRA adapter" if (folder / ADAPTER_CONFIG).is_file() else ""
        raise InputError(
            f"{name} holds no model{adapter}: there is no config.json.",
            hint="name a folder written by save_pretrained (merge an adapter into its base model first).",
        )
    if (folder / ADAPTER_CONFIG).is_file():  # transformers adds it to the model
        raise InputError(f"{name} holds a whole model and an adapter.", hint="move one of them to a folder of its own.")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the config.json of {name} cannot be read.", hint=_COPY) from error
    if not isinstance(config, dict):
        raise InputError(f"the config.json of {name} is no object.", hint=_COPY)
    if _holds(config, "transformers_weights"):
        raise InputError(
            f"the config.json of {name} names a file of weights of its own (transformers_weights).",
            hint=f"save it again with save_pretrained, which writes {WHOLE}.",
        )
    return config


def _holds(value: object, key: str) -> bool:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            if one.get(key) is not None:
                return True
            pending += one.values()
        elif isinstance(one, list):
            pending += one
    return False
