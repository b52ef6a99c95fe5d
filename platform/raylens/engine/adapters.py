"""LoRA adapters in peft's format: what a folder of one says, checked before its base is loaded.

Pickles are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from raylens.catalog.aliases import Aliases, is_folder
from raylens.engine import fingerprint
from raylens.engine.adapter_config import CONFIG, MERGE_HINT, read_config
from raylens.errors import DamagedFileError, InputError, MismatchError

WEIGHTS: Final = "adapter_model.safetensors"

_PICKLED: Final = "adapter_model.bin"
_PREFIX: Final = "base_model.model."


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter, checked as far as that goes without its base.

    Attributes:
        name: As it was asked for: a folder's absolute path or a hub id.
        folder: Where it lies.
        config: Its ``adapter_config.json``.
        fingerprint: Content hash of configuration and weights.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    fingerprint: str

    @property
    def base(self) -> str | None:
        """What its configuration says it was made for: a hub id, or a path on someone's machine."""
        return self.config.get("base_model_name_or_path") or None

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name, without peft's prefix; read when first asked for.

        Raises:
            DamagedFileError: The file is truncated or not safetensors.
            InputError: A value is NaN or infinite, or of no floating type; or it has a name that peft passes over.
        """
        found = {}
        try:
            with safe_open(self.folder / WEIGHTS, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    if not key.startswith(_PREFIX):  # peft passes it over
                        raise InputError(f"{self.name} holds {key}, which is no weight of peft's.", hint=MERGE_HINT)
                    found[key.removeprefix(_PREFIX)] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _unreadable(self.folder, error) from error
        for name, tensor in found.items():
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    f"the weights of {self.name} hold values in {name} that are no finite numbers.",
                    hint="its training diverged; train it again with a lower learning rate.",
                )
        return found


def is_adapter(folder: Path) -> bool:
    """Whether a local folder is an adapter rather than a model.

    Raises:
        InputError: It has the weights of both.
    """
    if not (folder / CONFIG).is_file():
        return False
    model, adapter = any(folder.glob("model*.safetensors")), any(folder.glob("adapter_model.*"))
    if model and adapter:
        raise InputError(
            f"{folder} holds a whole model and an adapter.", hint="move one of them to a folder of its own."
        )
    return adapter or not model


def open_adapter(folder: Path, name: str) -> Adapter:
    """Read an adapter's configuration and hash its files; its weights are not read yet.

    Raises:
        InputError: It is no LoRA adapter, has no safetensors weights, or was made with a setting that the weights
            alone do not tell.
        DamagedFileError: Its weights are truncated.
    """
    config = read_config(folder, name)
    if not (folder / WEIGHTS).is_file():
        pickled = f", but only the pickle {_PICKLED}" if (folder / _PICKLED).is_file() else ""
        raise InputError(
            f"{name} holds no {WEIGHTS}{pickled}.",
            hint="pickles can run code; load it with peft where you trust it, and save it again (save_pretrained "
            "writes safetensors).",
        )
    try:
        with safe_open(folder / WEIGHTS, framework="pt"):  # reads the header, and compares it with the file's size
            pass
    except (SafetensorError, OSError) as error:
        raise _unreadable(folder, error) from error
    return Adapter(name, folder, config, fingerprint.of_files([folder / CONFIG, folder / WEIGHTS]))


def require_base(adapter: Adapter, reference: str) -> None:
    """Refuse an adapter that says it was made for another model.

    Where either is a path nothing can be said of names; shapes decide then (:mod:`raylens.engine.adapter_merge`).

    Raises:
        MismatchError: Both are named, and differently.
    """
    base = adapter.base
    if base is None or is_folder(base) or is_folder(reference):
        return
    aliases = Aliases()
    if aliases.canonical(base).casefold() != aliases.canonical(reference).casefold():
        raise MismatchError(
            f"{adapter.name} is an adapter for {base}, and the reference is {reference}.",
            hint=f"audit it against {base}, or name an adapter for {reference}.",
        )


def _unreadable(folder: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(
        f"{folder / WEIGHTS} cannot be read ({' '.join(str(error).split())[:120]}).",
        hint="copy or download the adapter again.",
    )
