"""What the ``adapter_config.json`` of a LoRA adapter may say, of which little is taken at its word.

Settings under which the weights of an adapter are not the whole difference to its base are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raylens.errors import InputError

CONFIG: Final = "adapter_config.json"
MERGE_HINT: Final = "merge it into its base model with peft (merge_and_unload), and name the folder of the result."
"""What to do with any adapter that is not read here."""

_LARGEST: Final = 2**20
_Rank = Annotated[int, Field(ge=1, le=_LARGEST)]
_Alpha = Annotated[float, Field(gt=-_LARGEST, lt=_LARGEST, allow_inf_nan=False)]
_Flag = bool | None
_Names = str | list[str] | None


class _Settings(BaseModel):
    """Settings that say what the weights mean, and which of them peft loads; strict, so that ``true`` is no rank."""

    model_config = ConfigDict(strict=True, extra="ignore")

    base_model_name_or_path: str | None = None
    r: _Rank = 8
    lora_alpha: _Alpha = 8
    rank_pattern: dict[str, _Rank] | None = None
    alpha_pattern: dict[str, _Alpha] | None = None
    use_rslora: _Flag = False
    use_dora: _Flag = False
    lora_bias: _Flag = False
    target_modules: _Names = None
    exclude_modules: _Names = None
    modules_to_save: list[str] | None = None
    layers_to_transform: Annotated[int, Field(ge=0)] | list[int] | None = None
    layers_pattern: _Names = None


_IDLE: Final = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout"),
        *("runtime_config", "init_lora_weights", "eva_config", "ensure_weight_tying"),
        "fan_in_fan_out",  # peft reads it off the module
    }
)
_UNUSED: Final = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16}
"""What peft writes of settings that are not used; of all others it is nothing."""
_KEEPS_BASE: Final = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin training that leave the base's weights as they are; others (PiSSA, OLoRA …) take something off them."""


def read_config(folder: Path, name: str) -> Mapping[str, Any]:
    """The configuration of the adapter in a folder, checked.

    Args:
        folder: Holds :data:`CONFIG`.
        name: What to call it in errors.

    Raises:
        InputError: It cannot be read, is of another kind than LoRA, holds what peft could not have written, or was
            made with a setting that the weights alone do not tell.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name} has no {CONFIG} that can be read.", hint="copy the adapter again.") from error
    if not isinstance(config, dict):
        raise InputError(f"the {CONFIG} of {name} is no object.", hint="copy the adapter again.")
    kind = config.get("peft_type")
    if kind != "LORA":
        shown = kind if isinstance(kind, str | None) else "unknown"
        raise InputError(f"{name} is an adapter of type {shown}, and only LoRA ones are read.", hint=MERGE_HINT)
    start = config.get("init_lora_weights", True)
    if start not in _KEEPS_BASE:
        raise InputError(
            f"{name} was begun with {_shown(start)}, which changes weights of its base that it does not hold.",
            hint="save it as a plain LoRA (peft: save_pretrained(…, path_initial_model_for_weight_conversion=…)), or "
            + MERGE_HINT,
        )
    try:
        _Settings.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = str(first["loc"][0])
        raise InputError(
            f"{key} of {name} {first['msg'].removeprefix('Input ')}.",
            hint="copy the adapter again.",
        ) from error
    for key, value in config.items():
        if key in _Settings.model_fields or key in _IDLE or not value or value == _UNUSED.get(key):
            continue
        raise InputError(f"{name} was made with {key[:60]} = {_shown(value)}, which is not read here.", hint=MERGE_HINT)
    return config


def _shown(value: object) -> str:
    return json.dumps(value)[:60]
