"""Reading activations: one forward pass, stopped right after the last point that was asked for.

The pass is ended by raising from the hook of that point, so later blocks and the unembedding never
run: tapping layer 1 of 5 costs about a third of the whole pass. What is read is the model's own
tensor, bit for bit that of a full forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from interp_engine import Address, capture, position_ids_from_mask
from interp_engine.hooks import hidden_from_call
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raylens.engine.load import LoadedModel
from raylens.engine.memory import memory_advice
from raylens.engine.points import Site, resolve
from raylens.errors import InputError
from raylens.ids import HookPoint


class _AllReadError(Exception):
    """Raised inside the forward once every point has been read."""


def tap(
    loaded: LoadedModel,
    points: Sequence[HookPoint],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
) -> dict[HookPoint, Tensor]:
    """Activations at ``points``, all from one forward pass without gradients.

    Args:
        loaded: The model; the call holds its lock.
        points: Any hook points; duplicates are read once.
        input_ids: ``[batch, position]`` int64, on any device.
        attention_mask: ``[batch, position]``, 1 for tokens and 0 for padding on either side; None
            where there is no padding. Each row then counts positions from its first token.

    Returns:
        Point → ``[batch, position, width]`` in the model's dtype, on the device of the module read.
        Values at masked positions mean nothing.

    Raises:
        UnknownNameError: the model has no such point.
        InputError: a module gives no tensor of that shape, or does not run.
        OutOfMemoryError: the batch does not fit; says what to lower.
    """
    sites = [resolve(loaded, point) for point in dict.fromkeys(points)]
    if not sites:
        return {}
    device = loaded.device
    ids = input_ids.to(device)
    mask = None if attention_mask is None else attention_mask.to(device)
    if mask is not None and mask.shape != ids.shape:
        raise InputError(
            f"the attention mask is {list(mask.shape)} and the tokens are {list(ids.shape)}.", hint="give one each."
        )
    if mask is not None and bool(mask.all()):
        mask = None  # the same result, by the kernel's own causal path
    with loaded.lock, torch.inference_mode(), memory_advice("running the model", device):
        read = _read_all if all(site.plain for site in sites) else _capture_all
        found = read(loaded, sites, ids, mask)
    return {point: _per_token(point, tensor, ids.shape) for point, tensor in found.items()}


def _read_all(loaded: LoadedModel, sites: Sequence[Site], ids: Tensor, mask: Tensor | None) -> dict[HookPoint, object]:
    found: dict[HookPoint, object] = {}

    def keep(site: Site, value: object) -> None:
        # Blocks may go on to change what they were handed in place; nothing runs after the last.
        last = len(found) + (site.point not in found) == len(sites)
        found[site.point] = value.clone() if isinstance(value, Tensor) and not last else value
        if last:
            raise _AllReadError

    with ExitStack() as hooks:
        for site in sites:
            hooks.callback(_hook(site, partial(keep, site)).remove)
        try:
            loaded.model(ids, attention_mask=mask, use_cache=False, **_positions(loaded, mask))
        except _AllReadError:
            return found
    silent = [str(site.point) for site in sites if site.point not in found]
    raise InputError(
        f"{silent[0]} was not computed in a forward pass of {loaded.name}.",
        hint="its module does not run by itself here; name the block around it.",
    )


def _hook(site: Site, keep: Callable[[object], None]) -> RemovableHandle:
    def read_output(_module: nn.Module, _args: object, output: object) -> None:
        parts = output if isinstance(output, tuple | list) else (output,)
        if site.output >= len(parts):
            raise InputError(
                f"{site.point} does not exist: that module returns {len(parts)} values.", hint="count from #0."
            )
        keep(parts[site.output])

    def read_input(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        keep(hidden_from_call(args, kwargs))

    if site.side == "output":
        return site.module.register_forward_hook(read_output)
    return site.module.register_forward_pre_hook(read_input, with_kwargs=True)


def _capture_all(
    loaded: LoadedModel, sites: Sequence[Site], ids: Tensor, mask: Tensor | None
) -> dict[HookPoint, object]:
    """The slow way, a whole forward, for points that are not a module's own tensor."""
    plain = [site for site in sites if site.plain]
    others = [site.point for site in sites if not site.plain]
    found = _read_all(loaded, plain, ids, mask) if plain else {}
    cache = capture(loaded.engine, ids, [Address(p.name, p.layer) for p in others], attention_mask=mask)
    return found | {point: cache.get(point.name, point.layer) for point in others}


def _positions(loaded: LoadedModel, mask: Tensor | None) -> dict[str, Any]:
    """Position ids of a padded batch, by the rule of transformers' own ``generate``."""
    if mask is None or "position_ids" not in inspect.signature(loaded.model.forward).parameters:
        return {}
    return {"position_ids": position_ids_from_mask(mask)}


def _per_token(point: HookPoint, tensor: object, shape: Sequence[int]) -> Tensor:
    batch, length = shape
    if isinstance(tensor, Tensor) and tensor.ndim >= 2:
        if tuple(tensor.shape[:2]) == (batch, length):
            return tensor.flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(-1)
        if tensor.ndim == 2 and tensor.shape[0] == batch * length:
            return tensor.reshape(batch, length, -1)  # some blocks flatten the batch before their MLP
    found = f"{list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
    raise InputError(
        f"{point} gives {found}, not one vector a token ([{batch}, {length}, width]).",
        hint="name another module, or pick an element of its output with #k.",
    )
