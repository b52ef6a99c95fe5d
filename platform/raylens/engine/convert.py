"""Pickled SAEs and models into folders that RayLens, sae-lens and transformers read.

=========================================  =========================================================
source                                     what is written
=========================================  =========================================================
a folder with ``ae.pt``, ``config.json``   the same as ``ae.safetensors`` (dictionary_learning)
any other file or folder of one SAE        SAELens's ``cfg.json``, ``sae_weights.safetensors``
a transformers folder with ``*.bin``       the same folder with ``model*.safetensors``
a release and id of sae-lens's directory   SAELens's, by sae-lens's own loader
=========================================  =========================================================

Pickles are only ever opened by :mod:`raylens.engine.unpickle`'s child process. The result is built
beside its final place, opened as a user would open it, and only then given its name.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylens.catalog.points import from_transformer_lens
from raylens.engine.models import describe_model, sidecar_files
from raylens.engine.sae_building import transformer_lens_name
from raylens.engine.sae_hub import convert_release
from raylens.engine.saes import load_sae
from raylens.engine.unpickle import PICKLED, unpickle
from raylens.errors import InputError, UnknownNameError
from raylens.home import from_home
from raylens.ids import HookPoint, SaeId

_LINEAR: Final = {
    "encoder.weight": "W_enc",
    "encoder_linear.weight": "W_enc",
    "decoder.weight": "W_dec",
    "decoder_linear.weight": "W_dec",
}
"""Weights of ``nn.Linear``, which are stored output first; SAELens's matrices are input first."""
_BIASES: Final = {
    "encoder.bias": "b_enc",
    "encoder_linear.bias": "b_enc",
    "decoder.bias": "b_dec",
    "decoder_linear.bias": "b_dec",
    "decoder_bias": "b_dec",
    "bias": "b_dec",
}
_OWN: Final = frozenset({"W_enc", "W_dec", "b_enc", "b_dec", "threshold"})
_NEEDED: Final = ("W_enc", "W_dec", "b_enc", "b_dec")


@dataclass(frozen=True, slots=True)
class SaeFacts:
    """What a file of weights alone does not say.

    Attributes:
        model: The model it was trained on, as a hub id or folder.
        hook: What it reads, ``resid_post.12`` or in sae-lens's spelling.
        architecture: ``standard``, ``topk`` or ``jumprelu``; by default told from the weights and ``k``.
        k: Active latents a token, of a TopK SAE.
        subtract_bias: Whether ``b_dec`` is taken off the input before encoding.
    """

    model: str | None = None
    hook: str | None = None
    architecture: str | None = None
    k: int | None = None
    subtract_bias: bool | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: ``kind`` is ``sae`` or ``model``; ``about`` describes it, ``skipped`` was left out."""

    kind: str
    out: Path
    about: Mapping[str, Any]
    skipped: tuple[str, ...]


def convert(source: str, out: Path, facts: SaeFacts | None = None) -> Converted:
    """Convert the pickle, or folder of pickles, that ``source`` names into the new folder ``out``.

    Raises:
        InputError: nothing pickled is there, facts are missing or contradict the weights, ``out`` exists,
            or the pickle holds more than tensors.
        UnknownNameError: no such file, nor such an SAE in sae-lens's directory.
        DamagedFileError: a pickle cannot be read.
        HubUnreachableError: of an SAE on the hub, which cannot be reached.
    """
    facts = facts or SaeFacts()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already.", hint="name another --out.")
    path = from_home(source)
    if not path.exists():
        if path.suffix in PICKLED or source.startswith((".", "/", "~")):
            raise UnknownNameError(f"there is no {source}.", hint="check the path.")
        with _beside(out) as made:
            return _check_sae(made, out, convert_release(SaeId.parse(source), made))
    pickles = _pickles(path)
    if path.is_dir() and _is_model(path):
        with _beside(out) as made:
            skipped = _convert_model(path, pickles, made)
            info = describe_model(str(made))
            return Converted("model", out, {**asdict(info), "name": str(out)}, tuple(skipped))
    if len(pickles) > 1:
        names = ", ".join(p.name for p in pickles[:6])
        raise InputError(f"{path} holds {len(pickles)} pickles ({names}).", hint="name the file of one SAE.")
    with _beside(out) as made:
        skipped = _convert_sae(pickles[0], facts, made)
        return _check_sae(made, out, skipped)


def _pickles(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in PICKLED:
            raise InputError(f"{path} is no pickle.", hint=f"these are converted: {', '.join(PICKLED)}.")
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix in PICKLED and p.is_file() and p.name != "training_args.bin")
    if not found:
        raise InputError(f"{path} holds no pickle.", hint=f"these are converted: {', '.join(PICKLED)}.")
    return found


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its name at the end, or leaves nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        made = Path(temporary) / out.name
        made.mkdir()
        yield made
        if out.exists():
            out.rmdir()  # empty: it was looked at before
        made.rename(out)


# ---------------------------------------------------------------------- SAEs


def _convert_sae(pickle: Path, facts: SaeFacts, made: Path) -> list[str]:
    beside = _settings_beside(pickle)
    if "dict_class" in beside.get("trainer", beside):
        if given := [name for name, value in asdict(facts).items() if value is not None]:
            raise InputError(
                f"{pickle.parent / 'config.json'} says already what --{given[0].replace('_', '-')} would.",
                hint="leave that option out, or convert the file from a folder without config.json.",
            )
        skipped = unpickle(pickle, made / "ae.safetensors")
        (made / "config.json").write_text(json.dumps(beside, indent=1) + "\n")
        return skipped
    facts = _all_facts(facts, beside, pickle)
    raw = made / "raw.safetensors"
    skipped = unpickle(pickle, raw)
    state, left = _sae_state(load_file(raw), pickle)
    raw.unlink()
    config = _sae_config(state, facts, pickle)
    if config["architecture"] != "jumprelu":
        left += [name for name in state if name == "threshold"]
        state.pop("threshold", None)
    save_file(state, made / "sae_weights.safetensors", metadata={"format": "pt"})
    (made / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")
    return [*skipped, *left]


def _settings_beside(pickle: Path) -> dict[str, Any]:
    """The JSON that describes ``pickle``, under the names that training codes use; empty if there is none."""
    for name in (f"{pickle.stem}_cfg.json", f"{pickle.stem}.json", "cfg.json", "config.json"):
        path = pickle.with_name(name)
        if path.is_file():
            try:
                found = json.loads(path.read_text())
            except ValueError as error:
                raise InputError(f"{path} is not JSON ({error}).", hint="repair it, or move it away.") from error
            return found if isinstance(found, dict) else {}
    return {}


def _sae_state(found: Mapping[str, Tensor], pickle: Path) -> tuple[dict[str, Tensor], list[str]]:
    """SAELens's names and orientation (``W_enc [d_in, d_sae]``), and the names of what was not needed."""
    state: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in found.items():
        key = _LINEAR.get(name) or _BIASES.get(name) or (name if name in _OWN else None)
        if key is None or key in state:
            left.append(name)
        else:
            state[key] = tensor.T.contiguous() if name in _LINEAR else tensor
    if missing := [name for name in _NEEDED if name not in state]:
        raise InputError(
            f"{pickle} is no SAE that can be told: it lacks {', '.join(missing)} and holds {_some(found)}.",
            hint=f"an SAE has {', '.join(_NEEDED)}, or encoder.weight, decoder.weight and biases.",
        )
    d_sae, d_in = state["b_enc"].numel(), state["b_dec"].numel()
    for name, shape in (("W_enc", (d_in, d_sae)), ("W_dec", (d_sae, d_in))):
        if tuple(state[name].shape) == shape[::-1] != shape:
            state[name] = state[name].T.contiguous()  # stored output first under SAELens's name (Qwen Scope)
        if tuple(state[name].shape) != shape:
            raise InputError(
                f"{name} of {pickle} is {list(state[name].shape)}, with biases of {d_in} and {d_sae}.",
                hint="the biases say what it should be; the file is not of one SAE.",
            )
    if "threshold" in state:
        state["threshold"] = state["threshold"].to(state["W_enc"].dtype).expand(d_sae).clone()
    return state, left


def _all_facts(facts: SaeFacts, beside: Mapping[str, Any], pickle: Path) -> SaeFacts:
    """``facts``, and what the settings ``beside`` the pickle say where they are silent; the hook as sae-lens has it."""
    metadata = beside.get("metadata")
    known = {**beside, **(metadata if isinstance(metadata, dict) else {})}
    model = facts.model or known.get("model_name") or known.get("model")
    hook = facts.hook or known.get("hook_name") or known.get("hook_point") or known.get("act_name")
    if not model or not hook:
        lacking = " and ".join(name for name, value in (("--model", model), ("--hook", hook)) if not value)
        raise InputError(
            f"nothing beside {pickle} says what it was trained on.",
            hint=f"add {lacking}, for example --model meta-llama/Llama-3.1-8B-Instruct --hook resid_post.19.",
        )
    if from_transformer_lens(str(hook), str(model)) is None:
        point = HookPoint.parse(str(hook))
        hook = transformer_lens_name(point) or str(point)
    k, architecture = facts.k or known.get("k"), facts.architecture or known.get("architecture")
    if architecture not in (None, "standard", "topk", "jumprelu"):
        raise InputError(f"{architecture!r} cannot be converted.", hint="write standard, topk or jumprelu.")
    if architecture == "topk" and not k:
        raise InputError(f"{pickle} is a TopK SAE, and nothing says its k.", hint="add --k.")
    subtract = known.get("apply_b_dec_to_input", False) if facts.subtract_bias is None else facts.subtract_bias
    return SaeFacts(str(model), str(hook), architecture, k, bool(subtract))


def _sae_config(state: Mapping[str, Tensor], facts: SaeFacts, pickle: Path) -> dict[str, Any]:
    """SAELens's ``cfg.json`` of weights that have its names."""
    told = "topk" if facts.k else "jumprelu" if "threshold" in state else "standard"
    architecture = facts.architecture or told
    if architecture == "jumprelu" and "threshold" not in state:
        raise InputError(f"{pickle} has no threshold, so it is no JumpReLU SAE.", hint="leave --architecture out.")
    d_in, d_sae = state["W_enc"].shape
    metadata = {"sae_lens_version": "6.0.0", "model_name": facts.model, "hook_name": facts.hook, "prepend_bos": True}
    return {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(state["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": facts.subtract_bias,
        "normalize_activations": "none",
        **({"k": facts.k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        "metadata": metadata,
    }


def _check_sae(made: Path, out: Path, skipped: Iterable[str]) -> Converted:
    """Open what was made as any command will, so that a folder that cannot be used never gets its name."""
    sae = load_sae(made)
    with torch.no_grad():
        finite = all(bool(tensor.isfinite().all()) for tensor in sae.sae.state_dict().values())
    if not finite:
        raise InputError(f"the weights of {out.name} are not all finite numbers.", hint="take another checkpoint.")
    spec = sae.spec
    about = {
        "architecture": spec.architecture,
        "model": spec.model_name,
        "hook": str(spec.hook),
        "d_in": spec.d_in,
        "d_sae": spec.d_sae,
        "fingerprint": spec.fingerprint,
    }
    return Converted("sae", out, about, tuple(skipped))


# ---------------------------------------------------------------------- models


def _is_model(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and ("architectures" in config or "model_type" in config)


def _convert_model(folder: Path, pickles: Iterable[Path], made: Path) -> list[str]:
    """File by file, so that memory holds one of them at a time; an index of shards is rewritten."""
    index = folder / "pytorch_model.bin.index.json"
    weights = [p for p in pickles if re.match(r"pytorch_model.*\.bin$", p.name)]
    if not weights:
        raise InputError(f"{folder} has no pytorch_model*.bin.", hint="name a folder written by save_pretrained.")
    skipped: list[str] = []
    for path in weights:
        skipped += unpickle(path, made / _model_name(path.name))
    if index.is_file():
        known = json.loads(index.read_text())
        known["weight_map"] = {name: _model_name(file) for name, file in known["weight_map"].items()}
        if absent := sorted(set(known["weight_map"].values()) - {path.name for path in made.iterdir()}):
            raise InputError(f"{folder} lacks {absent[0]}'s pickle.", hint="download every shard.")
        (made / "model.safetensors.index.json").write_text(json.dumps(known, indent=1) + "\n")
    for path in sidecar_files(folder):
        shutil.copyfile(path, made / path.name)
    return skipped


def _model_name(pickle: str) -> str:
    return pickle.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
