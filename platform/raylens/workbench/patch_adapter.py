"""A patch as a folder that plain peft reads: ``adapter_config.json``, ``adapter_model.safetensors``, ``patch.json``.

peft multiplies second matrices by α / r, so α is the rank of each module. A bias of an added vector is that of the
second matrix (``lora_bias``). peft hooks such an adapter in; merge it into a module without a bias it cannot
(``raylens audit run`` and everything that reads a candidate here can).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from raylens.engine import fingerprint
from raylens.engine.adapter_config import CONFIG
from raylens.engine.adapters import WEIGHTS, Adapter, open_adapter
from raylens.engine.load import LoadedModel, tokenizer_fingerprint
from raylens.errors import DamagedFileError, InputError, MismatchError
from raylens.specs import ModelInfo
from raylens.store.disk import as_disk_full
from raylens.workbench.patch_factors import Changes, Factors
from raylens.workbench.patch_record import FORMAT, VERSION, PatchRecord

RECORD: Final = "patch.json"
FILES: Final = frozenset({CONFIG, WEIGHTS, RECORD})
_NAME: Final = re.compile(r"[\w.]+")
MOST_RECORD_BYTES: Final = 64 * 2**20
MOST_WEIGHT_BYTES: Final = 8 * 2**30


def require_place(folder: Path) -> None:
    """Refuse to write where something else is than an earlier patch.

    Raises:
        InputError: The folder is no folder, or holds anything but a patch.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    names = {one.name for one in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else None
    if names is None or (names and not (names <= FILES and _is_record(folder / RECORD))):
        raise InputError(f"{folder} is there and is no exported patch.", hint="name a new folder.")


def write_patch(folder: Path, loaded: LoadedModel, changes: Changes, record: PatchRecord) -> PatchRecord:
    """Write a patch: all of its files, in place of an earlier patch, or nothing.

    Args:
        folder: See :func:`require_place`.
        loaded: What the adapter is for: its name goes into ``adapter_config.json``.
        changes: Of its modules.
        record: ``patch.json``, its fingerprint of weights yet to be made.

    Returns:
        The record as it was written.

    Raises:
        InputError: Something else is there.
        DiskFullError: No space.
    """
    require_place(folder)
    made: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        _write_adapter(made, loaded, changes)
        record = record.model_copy(update={"weights": fingerprint.of_files([made / CONFIG, made / WEIGHTS])})
        (made / RECORD).write_text(json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
        made.chmod(0o755)  # temporary folders are their owner's alone
        _put(made, folder)
    except OSError as error:
        raise as_disk_full(error, folder.parent, writing=f"the patch {folder.name}") or error from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
    return record


def read_patch(folder: Path) -> tuple[PatchRecord, Adapter]:
    """Read an exported patch; its weights are checked, and not yet read.

    Raises:
        InputError: It is none, was written by a later RayLens, is larger than patches are, or its adapter is not read
            here (a pickle, say).
        DamagedFileError: A file is truncated, or the weights are not those that it was written with.
    """
    if not (folder / RECORD).is_file():
        raise InputError(
            f"{folder} is no exported patch: it has no {RECORD}.",
            hint="a LoRA without one is attached as a model's adapter; raylens patch export writes patches.",
        )
    record = _read_record(folder / RECORD)
    weights = folder / WEIGHTS
    if weights.is_file() and weights.stat().st_size > MOST_WEIGHT_BYTES:
        raise InputError(
            f"{weights} has {weights.stat().st_size / 2**30:.1f} GiB, more than the {MOST_WEIGHT_BYTES // 2**30} of "
            "a patch.",
            hint="a patch is of low rank; load what this is as a model.",
        )
    adapter = open_adapter(folder, str(folder))
    _require_names(adapter)
    if adapter.fingerprint != record.weights:
        raise DamagedFileError(
            f"the adapter in {folder} is not the one that its {RECORD} tells of.",
            hint="copy it again, or export the patch again.",
        )
    return record, adapter


def require_shape(record: PatchRecord, info: ModelInfo) -> None:
    """Refuse a model that a patch is not for, as far as that shows without its weights.

    Raises:
        MismatchError: It has another width, depth or revision; names both.
    """
    of = record.model
    if (of.revision, of.d_model, of.n_layers) != (info.revision, info.d_model, info.n_layers):
        raise MismatchError(
            f"the patch is for {_shown(of.name, of.n_layers, of.d_model, of.revision)}, and the model is "
            f"{_shown(info.name, info.n_layers, info.d_model, info.revision)}.",
            hint="name the model that it was made for, or export it again for this one.",
        )


def require_model(record: PatchRecord, loaded: LoadedModel) -> None:
    """Likewise, of a model that is loaded.

    Raises:
        MismatchError: It has another width, depth, revision or tokenizer.
    """
    require_shape(record, loaded.info)
    if record.model.tokenizer != tokenizer_fingerprint(loaded.tokenizer):
        raise MismatchError(
            f"the patch was made with another tokenizer than that of {loaded.name}.",
            hint="name the model that it was made for, or export it again for this one.",
        )


def _shown(name: str, n_layers: int, d_model: int, revision: str) -> str:
    return f"{name} ({n_layers} blocks, {d_model} wide, revision {revision[:12]})"


def _require_names(adapter: Adapter) -> None:
    """A text is a regular expression to peft, and so are keys of patterns; a patch names its modules."""
    named = adapter.config.get("target_modules")
    patterns = [*(adapter.config.get("rank_pattern") or ()), *(adapter.config.get("alpha_pattern") or ())]
    if not isinstance(named, list) or not all(
        isinstance(one, str) and _NAME.fullmatch(one) for one in named + patterns
    ):
        raise InputError(f"{adapter.name} does not name its modules one by one.", hint="export the patch again.")


def _is_record(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes()[:MOST_RECORD_BYTES])
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def _read_record(path: Path) -> PatchRecord:
    if path.stat().st_size > MOST_RECORD_BYTES:
        raise InputError(
            f"{path} is larger than {MOST_RECORD_BYTES // 2**20} MiB, and no patch.", hint="copy the patch again."
        )
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is no JSON.", hint="copy the patch again.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} is no record of a patch.", hint="raylens patch export writes patches.")
    version = found.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{path} is of format version {version}, and {VERSION} is read here.",
            hint="update RayLens, or export it again.",
        )
    try:
        record = PatchRecord.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg']}.", hint="export the patch again.") from None
    if record.measured.of(record.form) is None:
        raise InputError(f"{path} has no figures of its form {record.form}.", hint="export the patch again.")
    return record


def _write_adapter(folder: Path, loaded: LoadedModel, changes: Changes) -> None:
    from peft import LoraConfig

    modules = dict(loaded.model.named_modules())
    padded = {name: _padded(changes[name]) for name in sorted(changes)}
    ranks = {name: factors.rank for name, factors in padded.items()}
    most = max(ranks.values())
    others = {name: rank for name, rank in ranks.items() if rank != most}
    biased = any(factors.bias is not None for factors in padded.values())
    if biased and any(isinstance(modules[name], nn.Embedding) for name in padded):
        raise InputError("peft has no adapter of biases and an embedding.", hint="choose another form: --form.")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=loaded.name,
        r=most,
        lora_alpha=most,
        rank_pattern=dict(others),
        alpha_pattern=dict(others),
        target_modules=list(padded),
        fan_in_fan_out=any(isinstance(modules[name], Conv1D) for name in padded),
        lora_bias=biased,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    written: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    written["target_modules"] = sorted(written["target_modules"])  # peft's set has no order
    (folder / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    tensors = {}
    for name, factors in padded.items():
        prefix = f"base_model.model.{name}"
        if isinstance(modules[name], nn.Embedding):
            tensors |= {f"{prefix}.lora_embedding_A": factors.a, f"{prefix}.lora_embedding_B": factors.b}
            continue
        tensors |= {f"{prefix}.lora_A.weight": factors.a, f"{prefix}.lora_B.weight": factors.b}
        if biased:
            bias = factors.bias if factors.bias is not None else factors.b.new_zeros(len(factors.b))
            tensors[f"{prefix}.lora_B.bias"] = bias
    contiguous = {name: tensor.float().contiguous().clone() for name, tensor in tensors.items()}
    save_file(contiguous, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors' own are their owner's alone


def _padded(factors: Factors) -> Factors:
    """Of rank 1 at least: peft has no adapter of a bias alone."""
    if factors.rank:
        return factors
    return Factors(factors.a.new_zeros(1, factors.a.shape[1]), factors.b.new_zeros(len(factors.b), 1), factors.bias)


def _put(made: Path, folder: Path) -> None:
    """Rename into place; an earlier patch goes only once the new one is whole."""
    if not folder.exists():
        made.rename(folder)
        return
    before = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        folder.rename(before / folder.name)
        try:
            made.rename(folder)
        except OSError:
            (before / folder.name).rename(folder)
            raise
    finally:
        shutil.rmtree(before, ignore_errors=True)
