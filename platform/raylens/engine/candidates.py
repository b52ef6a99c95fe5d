"""The model an audit looks at: a whole checkpoint, or a LoRA adapter on its reference.

=======================  ===================================================================================
candidate                becomes
=======================  ===================================================================================
a hub id, a folder       what :func:`raylens.engine.load.load_model` makes of it, if it can be compared
a LoRA adapter of peft   its reference, loaded afresh, with the adapter merged in
=======================  ===================================================================================

Either is an ordinary :class:`~raylens.engine.load.LoadedModel` afterwards. Whether a path may be read at all is for
the caller to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from interp_engine import EagerModel

from raylens.bundle.paths import model_path
from raylens.catalog.aliases import is_folder
from raylens.engine import adapter_config, adapters, hub
from raylens.engine.adapter_merge import merge
from raylens.engine.adapters import Adapter
from raylens.engine.comparable import require_comparable
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.memory import memory_advice
from raylens.engine.models import ModelFiles, describe_files, describe_model, locate, model_folder, require_safetensors
from raylens.errors import InputError
from raylens.ids import digest
from raylens.specs import ModelInfo

_DTYPES: Final = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate that was found, before any of its weights are read.

    Attributes:
        kind: As in ``decision.json``.
        info: Name, revision and shape. An adapter has the shape of its base, and as revision a hash of its
            configuration, its weights and its base's revision.
        files: Of a checkpoint: where it lies, its weights perhaps not yet.
        adapter: Of an adapter: what its folder says.
        base: Of an adapter: what it is merged into.
    """

    kind: Literal["checkpoint", "adapter"]
    info: ModelInfo
    files: ModelFiles | None = None
    adapter: Adapter | None = None
    base: ModelInfo | None = None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def revision(self) -> str:
        return self.info.revision


def locate_candidate(ref: str, *, revision: str | None = None, base: ModelInfo | str | None = None) -> Candidate:
    """Find a candidate and say what it is; of a checkpoint on the hub only configuration and tokenizer are fetched.

    Args:
        ref: A bundled model, a folder or a hub id, of a checkpoint or an adapter.
        revision: Branch, tag or commit on the hub.
        base: The reference; by default what an adapter says that it was made for.

    Raises:
        UnknownNameError, HubUnreachableError: As :func:`raylens.engine.models.locate`.
        InputError: It is no model, or an adapter not read here (:func:`raylens.engine.adapters.open_adapter`).
        MismatchError: An adapter says that it was made for another model.
        DamagedFileError: An adapter's weights are truncated.
    """
    adapter = _find_adapter(ref, revision)
    if adapter is None:
        files = locate(ref, revision=revision, weights=False)
        if model_folder(ref) is not None:
            require_safetensors(files)
        return Candidate("checkpoint", describe_files(files), files=files)
    if base is None:
        base = adapter.base
    if base is None:
        raise InputError(
            f"{adapter.name} is an adapter and does not say for which model.", hint="name that one as --reference."
        )
    if isinstance(base, str):
        adapters.require_base(adapter, base)
        base = describe_model(base)
    adapters.require_base(adapter, base.name)
    own = digest({"adapter": adapter.fingerprint, "base": base.revision})
    return Candidate("adapter", replace(base, name=adapter.name, revision=own), adapter=adapter, base=base)


def load_candidate(
    ref: str,
    reference: LoadedModel | str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    num_gpus: int | None = None,
    revision: str | None = None,
) -> LoadedModel:
    """Load a candidate that can be compared with its reference; safetensors only, never remote code.

    Args:
        ref: As :func:`locate_candidate`.
        reference: The model it is a fine-tune of; where it is loaded its own weights stay as they are.
        dtype: ``auto`` is that of a loaded reference, else as :func:`raylens.engine.load.load_model`; so are the rest.
        device: Likewise.
        num_gpus: Likewise.
        revision: Of the candidate.

    Raises:
        MismatchError: The two cannot be compared, or the adapter was made for another model.
        InputError: Weights are pickled, missing, or hold NaN; or the adapter is of a kind not read here.
        DamagedFileError: A weights file is truncated.
        UnknownNameError, HubUnreachableError, OutOfMemoryError: As :func:`raylens.engine.load.load_model`.
    """
    info = describe_model(reference) if isinstance(reference, str) else reference.info
    candidate = locate_candidate(ref, revision=revision, base=info)
    if isinstance(reference, LoadedModel):
        dtype = _DTYPES.get(reference.dtype, "auto") if dtype == "auto" else dtype
        device = str(reference.device) if device == "auto" and num_gpus is None else device
    how = {"dtype": dtype, "device": device, "num_gpus": num_gpus}
    if candidate.adapter is not None:
        loaded = _with_adapter(candidate, load_model(info.name, revision=info.revision, **how))
    else:
        assert candidate.files is not None
        ours = locate(reference, weights=False) if isinstance(reference, str) else reference
        require_comparable(ours, candidate.files)  # before weights are fetched or read
        loaded = load_model(ref, revision=revision, **how)
    require_finite(loaded)
    return loaded


def require_finite(loaded: LoadedModel) -> None:
    """Refuse a model whose weights hold NaN or infinite values: one such is enough to make every activation one.

    Raises:
        InputError: Names the first such weight.
    """
    with torch.inference_mode(), memory_advice("checking weights", loaded.device):
        for name, weight in loaded.model.named_parameters():
            # The sum of a weight is finite where all of it is, and costs no copy.
            if weight.is_floating_point() and not bool(torch.isfinite(weight.sum(dtype=torch.float32))):
                if bool(torch.isfinite(weight).all()):
                    continue  # a sum too large, of finite values
                raise InputError(
                    f"the weights of {loaded.name} are NaN or infinite in {name}.",
                    hint="its training diverged or its files are damaged; copy it again, or train it again.",
                )


def _find_adapter(ref: str, revision: str | None) -> Adapter | None:
    if model_path(ref) is not None:
        return None
    folder = model_folder(ref)
    if folder is not None:
        return adapters.open_adapter(folder, str(folder)) if adapters.is_adapter(folder) else None
    if is_folder(ref):
        return None  # locate says what is wrong with it
    folder, commit = hub.fetch(ref, ["config.json", adapter_config.CONFIG], revision=revision)
    if not (folder / adapter_config.CONFIG).is_file():
        return None
    whole = (folder / "config.json").is_file()
    folder, _ = hub.fetch(ref, [adapter_config.CONFIG, adapters.WEIGHTS], revision=commit)
    if whole and not (folder / adapters.WEIGHTS).is_file():
        return None
    return adapters.open_adapter(folder, ref)


def _with_adapter(candidate: Candidate, base: LoadedModel) -> LoadedModel:
    assert candidate.adapter is not None
    assert candidate.base is not None
    with memory_advice(f"merging {candidate.name}", base.device):
        merged = merge(base.model, candidate.adapter)
        # Made anew, as the engine keeps hold of modules.
        engine = EagerModel(
            base.engine.hf_model_id,
            device=str(base.device),
            dtype=base.dtype,
            trust_remote_code=False,
            tokenizer=base.tokenizer,
            hf_model=merged,
        )
    return LoadedModel(engine, base.tokenizer, candidate.info, base.prefix_ids, base.special_ids)
