"""Whether an adapter's configuration covers the weights it holds.

peft loads the matrices of the modules that the configuration names, and passes over all others with a warning at most.
Merging those others too would judge a model that nobody runs: an adapter could hold, beside what is run, what makes up
for it. The names are held against the configuration by peft's own rules (0.21, ``check_target_module_exists``).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any, Final

from torch import nn
from transformers.pytorch_utils import Conv1D

from raylens.engine.adapter_config import CONFIG, MERGE_HINT
from raylens.errors import InputError

_SECONDS: Final = 10.0
_ALL_LINEAR: Final = "all-linear"
_PLAIN: Final = re.compile(r"[\w.-]+")
_MATCH: Final = (
    "import json, re, sys; pattern, names = json.load(sys.stdin); "
    "print(json.dumps([name for name in names if re.fullmatch(pattern, name)]))"
)


def require_in_scope(config: Mapping[str, Any], changed: Collection[str], model: nn.Module, name: str) -> None:
    """Refuse matrices that peft would pass over.

    Args:
        config: As :func:`raylens.engine.adapter_config.read_config` gives it.
        changed: Modules of which an adapter holds matrices; all of them are the model's.
        model: What it is for.
        name: What to call the adapter in errors.

    Raises:
        InputError: The configuration does not name such a module, or not in a way that can be followed here.
    """
    kept = _plain(config, "modules_to_save", name)
    inside = _targeted(config, changed, model, name) - _excluded(config, changed, name)
    for module in sorted(changed):
        # A module that is saved whole is put in another's place, with all below it.
        saved = any(module.endswith(one) or re.match(rf"(^|.*\.){one}($|\..*)", module) for one in kept)
        if saved or module not in inside:
            raise InputError(
                f"{name} holds weights of {module}, and its {CONFIG} says that this module is not changed.",
                hint="peft would pass over them; save the adapter again with the configuration it was trained with.",
            )


def _targeted(config: Mapping[str, Any], changed: Collection[str], model: nn.Module, name: str) -> set[str]:
    targets = config.get("target_modules")
    if isinstance(targets, str):
        if targets.lower() == _ALL_LINEAR:
            leaves = model.get_output_embeddings()  # type: ignore[operator]
            linear = {key for key, one in model.named_modules() if isinstance(one, nn.Linear | Conv1D)}
            return linear - {key for key, one in model.named_modules() if one is leaves}
        return _matched("target_modules", targets, changed, name)
    if not targets:
        return set()
    found = {module for module in changed if _ends(module, targets)}
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return found
    layers = layers if isinstance(layers, list) else [layers]
    patterns = _plain(config, "layers_pattern", name) or [None]
    return {module for module in found if _layer(module, patterns) in layers}


def _layer(module: str, patterns: Collection[str | None]) -> int | None:
    """The index of a module's layer, as peft reads it off its name; that of the first pattern that matches."""
    for pattern in patterns:
        before = r".*?\.[^.]*" if pattern is None else rf"(?:^|.*?\.){pattern}"
        if match := re.match(rf"{before}\.(?P<at>\d+)\.", module):
            return int(match["at"])
    return None


def _excluded(config: Mapping[str, Any], changed: Collection[str], name: str) -> set[str]:
    excluded = config.get("exclude_modules")
    if not excluded:
        return set()
    if isinstance(excluded, str):
        return _matched("exclude_modules", excluded, changed, name)
    return {module for module in changed if _ends(module, excluded)}


def _ends(module: str, names: Collection[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _plain(config: Mapping[str, Any], key: str, name: str) -> list[str]:
    """Names that peft takes for expressions, where they are hardly any: letters, digits, dots."""
    listed = config.get(key) or []
    listed = [listed] if isinstance(listed, str) else listed
    for one in listed:
        if not _PLAIN.fullmatch(one):
            raise InputError(f"{key} of {name} holds the expression {one[:60]!r}.", hint=MERGE_HINT)
    return listed


def _matched(key: str, pattern: str, names: Collection[str], name: str) -> set[str]:
    """What of the names a stranger's expression matches, found by peft's own call in a process that can be ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([pattern, sorted(names)]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{key} of {name} is an expression that takes too long.", hint=MERGE_HINT) from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"{key} of {name} is no expression that can be read.", hint=MERGE_HINT) from error
    return set(json.loads(done.stdout))
