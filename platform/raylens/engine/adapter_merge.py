"""Merging a LoRA adapter into the model it was made for, as peft does.

Which modules an adapter changes, and their ranks, are read off the names and shapes of its weights, and refused where
its configuration says otherwise (:mod:`raylens.engine.adapter_scope`): both come from whoever made the adapter.

Two matrices on an ordinary linear module, which is what nearly all adapters are, are added here, by peft's operations
and with its bits: importing peft takes as long as loading a small model. Embeddings, DoRA and quantised modules are
left to peft, which is handed tensors and a configuration made here: it opens no file, so no pickle, and has no name to
ask the hub about. Biases of second matrices (``lora_bias``) are added here, as peft does not give a module a bias that
it lacks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raylens.engine.adapter_config import MERGE_HINT
from raylens.engine.adapter_scope import require_in_scope
from raylens.engine.adapters import Adapter
from raylens.errors import InputError, MismatchError

_LORA: Final = re.compile(
    r"(?P<module>.+)\.(?:(?P<matrix>lora_A|lora_B|lora_magnitude_vector)\.weight|"
    r"(?P<part>lora_B\.bias|lora_embedding_A|lora_embedding_B|lora_magnitude_vector))"
)
"""Names as peft writes and reads them; under any other it passes them over."""
_BIAS: Final = "lora_B.bias"
_WHOLE: Final = re.compile(r"(?P<module>.+?)(?P<below>\.base_layer)?\.(?P<kind>weight|bias)")
_PLAIN_PATTERN: Final = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")


def merge(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Add an adapter to the model it was made for, in place: its matrices as peft does, whole modules as they are.

    An input embedding that is tied to the unembedding is untied first, where the adapter changes one of them: peft
    changes that one alone, too.

    Returns:
        The same model, without a trace of peft.

    Raises:
        MismatchError: The model has no such module, or one of another shape.
        InputError: The weights are not those of a LoRA adapter.
        DamagedFileError: They cannot be read.
    """
    modules = dict(model.named_modules())
    lora, whole = _sorted_out(adapter)
    touched = {*lora, *(module for module, _ in whole)}
    for name in sorted(touched):
        if name not in modules:
            raise MismatchError(
                f"{adapter.name} changes {name}, which the reference does not have.", hint=_fits_only(adapter)
            )
    require_in_scope(adapter.config, lora, model, adapter.name)
    _untie(model, touched, whole, adapter)
    with torch.no_grad():
        for (name, kind), tensor in whole.items():
            held = getattr(modules[name], kind, None)
            if not isinstance(held, Tensor) or held.shape != tensor.shape:
                raise _misfit(adapter, f"{name}.{kind}", tensor, None if held is None else held.shape)
            held.copy_(tensor)
    for name, parts in lora.items():
        _check_shapes(adapter, name, parts, modules[name])
    for name, parts in lora.items():
        if _BIAS in parts:
            _add_bias(modules[name], parts[_BIAS] * scale_of(adapter, name, len(parts["lora_A"])))
    others = {}
    for name, parts in lora.items():
        if is_plain(modules[name], parts, adapter):
            _add_product(modules[name], parts["lora_A"], parts["lora_B"], scale_of(adapter, name, len(parts["lora_A"])))
        else:
            others[name] = parts
    return merge_by_peft(model, adapter, others) if others else model.eval().requires_grad_(False)


def is_plain(module: nn.Module, parts: Mapping[str, Tensor], adapter: Adapter) -> bool:
    """Whether an adapter adds the product of two matrices to a module's weight, and nothing is done to it besides."""
    # Quantised modules are linear ones by inheritance.
    return (
        type(module) in (nn.Linear, Conv1D)
        and set(parts) <= {"lora_A", "lora_B", _BIAS}
        and not adapter.config.get("use_dora")
    )


def factors(adapter: Adapter) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
    """By module, what an adapter adds to its output: ``b (a x) + bias``, float32, with its scale in ``b`` and bias.

    Raises:
        InputError: It does more: holds modules whole, changes embeddings, or scales columns (DoRA).
        DamagedFileError: Its weights cannot be read.
    """
    lora, whole = _sorted_out(adapter)
    plain = {"lora_A", "lora_B", _BIAS}
    odd = next((name for name, parts in lora.items() if set(parts) - plain), None)
    if whole or odd is not None:
        first = odd or ".".join(next(iter(whole)))
        raise InputError(f"{adapter.name} changes {first} by more than two matrices.", hint=MERGE_HINT)
    found = {}
    for name, parts in lora.items():
        if not {"lora_A", "lora_B"} <= set(parts):
            raise InputError(
                f"{adapter.name} holds only half of what it changes in {name}.", hint="save or copy it again."
            )
        scale = scale_of(adapter, name, len(parts["lora_A"]))
        bias = parts[_BIAS].float() * scale if _BIAS in parts else None
        found[name] = (parts["lora_A"].float(), parts["lora_B"].float() * scale, bias)
    return found


def scale_of(adapter: Adapter, module: str, rank: int) -> float:
    """What peft multiplies a module's matrices by: α / r, or α / √r (rsLoRA)."""
    alpha = _of_module(adapter, "alpha_pattern", module, adapter.config.get("lora_alpha", 8))
    return alpha / (rank**0.5 if adapter.config.get("use_rslora") else rank)


def _add_product(module: nn.Module, a: Tensor, b: Tensor, scale: float) -> None:
    """``(b @ a) * scale`` to a weight: matrices and product rounded to its dtype, multiplied in float32 even so."""
    weight = module.get_parameter("weight")
    first, second = (one.to(weight.device, weight.dtype).float() for one in (a, b))
    added = ((second @ first) * scale).to(weight.dtype)
    with torch.no_grad():
        weight += added.T if isinstance(module, Conv1D) else added


def _add_bias(module: nn.Module, bias: Tensor) -> None:
    """To that of a module, which gets one where it has none."""
    weight, held = module.get_parameter("weight"), getattr(module, "bias", None)
    bias = bias.to(weight.device, weight.dtype)
    with torch.no_grad():
        if isinstance(held, Tensor):
            held.add_(bias)
        else:
            module.register_parameter("bias", nn.Parameter(bias, requires_grad=False))


def _sorted_out(adapter: Adapter) -> tuple[dict[str, dict[str, Tensor]], dict[tuple[str, str], Tensor]]:
    """Its LoRA parts by module, and what it holds whole by module and ``weight`` or ``bias``."""
    lora: dict[str, dict[str, Tensor]] = {}
    whole: dict[tuple[str, str], Tensor] = {}
    spelled: set[tuple[str, bool]] = set()
    for name, tensor in adapter.tensors.items():
        if match := _LORA.fullmatch(name):
            parts, part = lora.setdefault(match["module"], {}), match["matrix"] or match["part"]
            if part in parts:
                raise InputError(f"{adapter.name} holds {name} twice.", hint=MERGE_HINT)
            parts[part] = tensor
        elif "lora_" not in name and (match := _WHOLE.fullmatch(name)):
            whole[match["module"], match["kind"]] = tensor
            spelled.add((match["module"], match["below"] is not None))
        else:
            raise InputError(f"{adapter.name} holds {name}, which is no part of a LoRA adapter.", hint=MERGE_HINT)
    if not lora and not whole:
        raise InputError(f"{adapter.name} holds no weights.", hint="train it, or copy it again.")
    biased = next((module for module, parts in lora.items() if _BIAS in parts), None)
    if biased is not None and not adapter.config.get("lora_bias"):  # peft passes it over
        raise InputError(
            f"{adapter.name} holds a bias of {biased}, and its configuration says that it has none (lora_bias).",
            hint="save the adapter again with the configuration it was trained with.",
        )
    for module, is_below in sorted(spelled):
        # Where peft wraps a module, the base's own weight lies one name lower; under any other name it is passed over.
        if is_below != (module in lora):
            raise InputError(
                f"{adapter.name} holds a weight of {module} under a name that peft does not read.", hint=MERGE_HINT
            )
    listed = adapter.config.get("target_modules")
    for target in listed if isinstance(listed, list) else []:
        if not any(module == target or module.endswith(f".{target}") for module in lora):
            raise InputError(
                f"{adapter.name} says that it changes {target}, and holds no weights of it.",
                hint="part of it is missing; save or copy it again.",
            )
    return lora, whole


def _check_shapes(adapter: Adapter, name: str, parts: Mapping[str, Tensor], module: nn.Module) -> None:
    embedding = isinstance(module, nn.Embedding)
    if not embedding and not isinstance(module, nn.Linear | Conv1D):
        raise MismatchError(
            f"{adapter.name} changes {name}, which is a {type(module).__name__} in the reference.",
            hint=_fits_only(adapter),
        )
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    a, b = parts.get(first), parts.get(second)
    if a is None or b is None:
        raise InputError(f"{adapter.name} holds only half of what it changes in {name}.", hint="save or copy it again.")
    weight = module.get_parameter("weight")
    if isinstance(module, nn.Linear):
        n_out, n_in = weight.shape
    else:  # of both, rows are inputs; peft's second matrix of an embedding is [d, r]
        n_in, n_out = weight.shape
    wanted: list[tuple[str, Tensor, tuple[int, ...]]] = [(first, a, (len(a), n_in)), (second, b, (n_out, len(a)))]
    wanted += [(_BIAS, parts[_BIAS], (n_out,))] if _BIAS in parts and not embedding else []
    for part, tensor, shape in wanted:
        if tuple(tensor.shape) != shape or not len(a):
            raise _misfit(adapter, f"{part} of {name}", tensor, shape)
    said = int(_of_module(adapter, "rank_pattern", name, adapter.config.get("r", 8)))
    if said != len(a):
        raise InputError(
            f"{adapter.name} says that {name} is changed at rank {said}, and its weights are of rank {len(a)}.",
            hint="its configuration and its weights do not belong together; copy it again.",
        )


def merge_by_peft(model: nn.Module, adapter: Adapter, lora: Mapping[str, Mapping[str, Tensor]]) -> nn.Module:
    """Add matrices of whatever kind, of modules that were checked."""
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    config = adapter.config
    exact = {name: "^" + re.escape(name) for name in lora}
    first = {name: parts.get("lora_A", parts.get("lora_embedding_A")) for name, parts in lora.items()}
    settings = LoraConfig(
        target_modules="|".join(re.escape(name) for name in lora),  # a whole match, one name each
        rank_pattern={exact[name]: len(a) for name, a in first.items() if a is not None},
        alpha_pattern={
            exact[name]: _of_module(adapter, "alpha_pattern", name, config.get("lora_alpha", 8)) for name in lora
        },
        use_rslora=bool(config.get("use_rslora")),
        use_dora=bool(config.get("use_dora")),
        inference_mode=True,
    )
    names = {f"{module}.{part}" for module, parts in lora.items() for part in parts if part != _BIAS}
    state = {
        f"base_model.model.{name}": tensor
        for name, tensor in adapter.tensors.items()
        if name.removesuffix(".weight") in names
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of tied embeddings, which were untied
        # Built without memory, so that no random numbers are drawn for what is replaced at once.
        peft = PeftModel(model, settings, low_cpu_mem_usage=True)  # type: ignore[arg-type]
        left = set_peft_model_state_dict(peft, state, low_cpu_mem_usage=True)
        missing = [key for key in left.missing_keys if "lora_" in key]
        if missing or left.unexpected_keys:
            odd = (missing or left.unexpected_keys)[0]
            raise InputError(f"peft does not take {odd} of {adapter.name}.", hint=MERGE_HINT)
        merged = peft.merge_and_unload()  # type: ignore[operator]
    return merged.eval().requires_grad_(False)


def _of_module(adapter: Adapter, key: str, module: str, default: float) -> float:
    """A setting of one module, by peft's rule for patterns that are names or their ends; others are refused."""
    patterns = adapter.config.get(key) or {}
    for pattern, value in patterns.items():
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise InputError(f"{key} of {adapter.name} holds the expression {pattern[:60]!r}.", hint=MERGE_HINT)
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _untie(model: Any, touched: set[str], whole: Mapping[tuple[str, str], Tensor], adapter: Adapter) -> None:
    enters, leaves = model.get_input_embeddings(), model.get_output_embeddings()
    if enters is None or leaves is None or enters.weight is not leaves.weight:
        return
    names = {name for name, module in model.named_modules() if module is enters or module is leaves}
    if not names & touched:
        return
    if adapter.config.get("ensure_weight_tying"):
        raise InputError(f"{adapter.name} changes tied embeddings together.", hint=MERGE_HINT)
    saved = adapter.config.get("modules_to_save") or []
    for module in sorted(names):
        given = whole.get((module, "weight"))
        # Outside a copy of the module, peft writes into the one weight that both of them are.
        if given is None or any(module.endswith(one) for one in saved):
            continue
        if given.shape == enters.weight.shape and not torch.equal(given.to(enters.weight), enters.weight):
            raise InputError(f"{adapter.name} changes tied embeddings together.", hint=MERGE_HINT)
    leaves.weight = nn.Parameter(leaves.weight.detach().clone(), requires_grad=False)
    model.config.get_text_config().tie_word_embeddings = False


def _misfit(adapter: Adapter, what: str, tensor: Tensor, wanted: object) -> MismatchError:
    shape = "nothing of the kind" if wanted is None else str(list(wanted))  # type: ignore[call-overload]
    return MismatchError(
        f"{adapter.name} was made for another model: its {what} is {list(tensor.shape)}, and the reference needs "
        f"{shape}.",
        hint=_fits_only(adapter),
    )


def _fits_only(adapter: Adapter) -> str:
    return f"an adapter fits only the model that it was made for; this one says {adapter.base or 'nothing of that'}."
