"""LoRA adapters in peft's format: what a folder of one says, checked before its base is loaded.

Settings under which the weights of an adapter are not the whole difference to its base are refused, as are pickles.
"""

from __future__ import annotations

import json
import math
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
from raylens.errors import DamagedFileError, InputError, MismatchError

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

_PICKLED: Final = "adapter_model.bin"
MERGE_HINT: Final = "merge it into its base model with peft (merge_and_unload), and name the folder of the result."
"""What to do with any adapter that is not read here."""
_PREFIX: Final = "base_model.model."

_TAKEN: Final = frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias"})
"""Settings that say what the weights mean."""
_IDLE: Final = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "lora_dropout", "runtime_config", "init_lora_weights", "eva_config", "ensure_weight_tying"),
        # Said by the weights themselves.
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
        "fan_in_fan_out",  # peft reads it off the module
    }
)
_UNUSED: Final = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16}
"""What peft writes of settings that are not used; of all others it is nothing."""
_KEEPS_BASE: Final = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin training that leave the base's weights as they are; others (PiSSA, OLoRA …) take something off them."""


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
            InputError: A value is NaN or infinite, or of no floating type; or two have one name.
        """
        found = {}
        try:
            with safe_open(self.folder / WEIGHTS, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    name = key.removeprefix(_PREFIX)
                    if name in found:  # peft takes one of them, and not the other
                        raise InputError(f"{self.name} holds {name} twice.", hint=MERGE_HINT)
                    found[name] = file.get_tensor(key)
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
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{name} has no {CONFIG} that can be read.", hint="copy the adapter again.") from error
    if not isinstance(config, dict):
        raise InputError(f"the {CONFIG} of {name} is no object.", hint="copy the adapter again.")
    _check_config(config, name)
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


def _check_config(config: Mapping[str, Any], name: str) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{name} is an adapter of type {kind}, and only LoRA ones are read.", hint=MERGE_HINT)
    start = config.get("init_lora_weights", True)
    if start not in _KEEPS_BASE:
        raise InputError(
            f"{name} was begun with {start!r}, which changes weights of its base that it does not hold.",
            hint="save it as a plain LoRA (peft: save_pretrained(…, path_initial_model_for_weight_conversion=…)), or "
            + MERGE_HINT,
        )
    for key, value in config.items():
        if key in _TAKEN:
            numbers = list(value.values()) if isinstance(value, dict) else [value or 0]
            if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
                raise InputError(f"{key} of {name} is no number.", hint="copy the adapter again.")
        if key in _TAKEN or key in _IDLE or not value or value == _UNUSED.get(key):
            continue
        raise InputError(
            f"{name} was made with {key} = {json.dumps(value)[:60]}, which is not read here.", hint=MERGE_HINT
        )


def _unreadable(folder: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(
        f"{folder / WEIGHTS} cannot be read ({' '.join(str(error).split())[:120]}).",
        hint="copy or download the adapter again.",
    )
