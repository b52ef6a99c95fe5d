"""Reading a pickle's tensors in a process of its own, and writing them as safetensors.

A pickle is a program: loading one runs it. ``torch.load(weights_only=True)`` allows only what builds
tensors and plain containers, but that list has had holes, so the load also happens in a child process
that is given neither tokens nor any other secret of the environment, is told not to use the hub, and
hands back nothing but a safetensors file and one line of JSON.

Run as ``python -m raylens.engine.unpickle file SOURCE TARGET`` (one file to one safetensors file), or
``… release NAME/ID FOLDER`` (an SAE of sae-lens's directory, from the hub cache, by sae-lens's own
loader, to an SAELens folder), the child answers on stdout::

    {"skipped": ["epoch", …]}            what was no tensor and is left out
    {"error": "…", "kind": "damaged"}    why nothing was written
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from raylens.errors import DamagedFileError, DiskFullError, InputError, RunError

PICKLED: Final = (".pt", ".pth", ".pkl", ".bin", ".ckpt")
"""Suffixes under which pickles are published."""

_KEPT_VARIABLES: Final = frozenset(
    {"PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS"}
)
_SETTINGS: Final = {"HF_HUB_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PYTHONUTF8": "1"}
_WRAPPERS: Final = ("state_dict", "model_state_dict", "sae_state_dict", "model", "params")
"""Names under which training scripts put the weights beside optimizer states and settings."""


def unpickle(source: Path, target: Path) -> list[str]:
    """Write the tensors of the pickle ``source`` to the safetensors file ``target``, in a child process.

    Nested dictionaries become dotted names; a ``state_dict`` beside other things is taken alone.
    Values keep their dtype and shape.

    Returns:
        Names of what was not a tensor, and is left out.

    Raises:
        InputError: it holds no tensors, or something other than tensors and plain containers.
        DamagedFileError: it cannot be read.
        DiskFullError: no room for ``target``.
        RunError: the child was killed, for example for lack of memory.
    """
    return _ask("file", source, target)


def unpickle_release(release: str, name: str, folder: Path, cache: Path) -> list[str]:
    """Write an SAE of sae-lens's directory, whose files are in the hub cache ``cache``, in SAELens's format.

    Raises:
        InputError, DamagedFileError, DiskFullError, RunError: as :func:`unpickle`.
    """
    return _ask("release", f"{release}/{name}", folder, HF_HUB_CACHE=str(cache))


def _ask(what: str, source: Path | str, target: Path, **variables: str) -> list[str]:
    command = [sys.executable, "-m", "raylens.engine.unpickle", what, str(source), str(target)]
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES}
    child = subprocess.run(
        command, env=kept | _SETTINGS | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    try:
        answer: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise RunError(
            f"reading {source} ended without an answer ({last[:200]}).",
            hint="it needs about three times the file's size in memory; try a machine with more.",
        ) from None
    if (error := answer.get("error")) is None:
        return list(answer["skipped"])
    kind, said = answer["kind"], str(error)[:300]
    if kind == "full":
        raise DiskFullError(f"no room to write {target}.", hint="free space, or name another --out.")
    if kind == "unsafe":
        raise InputError(
            f"{source} holds more than tensors, and was not loaded ({said}).",
            hint="save its state_dict alone, in a place where you trust the file.",
        )
    if kind == "empty":
        raise InputError(f"{source} holds no tensors ({said}).", hint="name the file that holds the weights.")
    raise DamagedFileError(f"{source} cannot be read ({said}).", hint="copy or download it again.")


def _answer(what: str, source: str, target: Path) -> dict[str, Any]:
    """What the child does; it imports here, so that the parent needs none of it."""
    import errno
    import pickle

    try:
        return _file(source, target) if what == "file" else _release(source, target)
    except pickle.UnpicklingError as error:
        unsafe = "GLOBAL" in str(error)  # else it is a byte that no pickle of tensors has
        return {"error": _sentence(error), "kind": "unsafe" if unsafe else "damaged"}
    except Exception as error:
        # Of errors there are as many as of ways to be no pickle; safetensors has its own for a full disk.
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        return {"error": _sentence(error), "kind": "full" if full else "damaged"}


def _release(source: str, folder: Path) -> dict[str, Any]:
    from sae_lens import SAE

    release, _, name = source.partition("/")
    sae = SAE.from_pretrained(release, name, device="cpu")
    for parameter in sae.parameters():
        parameter.data = parameter.data.contiguous()  # its loaders transpose views, which safetensors refuses
    sae.save_model(folder)
    return {"skipped": []}


def _file(source: str, target: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    found = torch.load(source, map_location="cpu", weights_only=True)
    tensors: dict[str, torch.Tensor] = {}
    skipped: list[str] = []
    for name, value in _flat(_weights(found)):
        if isinstance(value, torch.Tensor) and not value.is_quantized and value.layout == torch.strided:
            # Tied tensors share memory, which safetensors refuses: each is written whole.
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        else:
            skipped.append(name)
    if not tensors:
        return {"error": f"found {', '.join(skipped[:5]) or type(found).__name__}", "kind": "empty"}
    save_file(tensors, target, metadata={"format": "pt"})
    return {"skipped": skipped}


def _weights(found: object) -> object:
    """The part of a checkpoint that holds the weights."""
    while isinstance(found, Mapping) and not any(hasattr(value, "shape") for value in found.values()):
        inner = next((found[name] for name in _WRAPPERS if isinstance(found.get(name), Mapping)), None)
        if inner is None:
            return found
        found = inner
    return found


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name or "tensor", value


def _sentence(error: Exception) -> str:
    """The first sentence of what torch says; its advice to load unsafely is left out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if "GLOBAL" in line), (lines or [""])[0]).split(". ")[0]
    return f"{type(error).__name__}: {telling}"[:200] if telling else type(error).__name__


if __name__ == "__main__":
    # What the pickle or a library prints goes to stderr; stdout is for the answer.
    answer_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer_stream.write(json.dumps(_answer(sys.argv[1], sys.argv[2], Path(sys.argv[3]))) + "\n")
    answer_stream.flush()
