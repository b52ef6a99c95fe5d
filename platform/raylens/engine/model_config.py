"""The configuration of a model, as transformers reads it: a stranger's file, which can say anything at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from raylens.engine.checkpoint_files import read_raw_config
from raylens.errors import InputError

_DTYPES: Final = ("float32", "float16", "bfloat16", "float64", "auto")


def read_model_config(folder: Path, name: str) -> Any:
    """A ``PretrainedConfig`` whose sizes are sizes.

    Raises:
        InputError: It is not one that transformers can read, or of no causal language model.
    """
    from transformers import AutoConfig

    raw = read_raw_config(folder, name)
    _check_raw(raw, name)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        text = config.get_text_config()
    except Exception as error:  # of whatever its class makes of such values
        raise unreadable(name, error) from error
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        size = getattr(text, key, None)
        if not isinstance(size, int):
            raise InputError(
                f"{name} is not a causal language model ({config.model_type}).", hint="name a text-generating model."
            )
        if size < 1:
            raise InputError(f"the config.json of {name} says {key} = {size}.", hint="copy or download it again.")
    return config


def unreadable(name: str, error: Exception) -> InputError:
    """What to say of a configuration that transformers does not make a model of."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"{name} has no configuration that transformers can read ({reason[:200]}).",
        hint="RayLens runs transformers' own architectures, and never code that comes with a model.",
    )


def _check_raw(raw: dict[str, Any], name: str) -> None:
    for key in ("dtype", "torch_dtype"):
        stored = raw.get(key)
        if stored is not None and (not isinstance(stored, str) or stored.removeprefix("torch.") not in _DTYPES):
            raise InputError(
                f"the config.json of {name} says {key} = {str(stored)[:40]!r}, which is no dtype.",
                hint=f"write {', '.join(_DTYPES[:3])}.",
            )
    named = raw.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise InputError(
            f"architectures in the config.json of {name} is no list of names.", hint="copy or download it again."
        )
    if not isinstance(raw.get("quantization_config") or {}, dict):
        raise InputError(
            f"quantization_config in the config.json of {name} is no object.", hint="copy or download it again."
        )
