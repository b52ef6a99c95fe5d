"""SAE folders on disk, each format read into what sae-lens understands.

====================  ===========================================  ==================================
format                files                                        made by
====================  ===========================================  ==================================
``saelens``           ``cfg.json``, ``sae_weights.safetensors``    SAELens, and ``raylens train``
``sparsify``          ``cfg.json``, ``sae.safetensors``            EleutherAI sparsify (TopK)
``gemma-scope``       ``params.npz``                               Gemma Scope (JumpReLU)
``dictionary``        ``config.json``, ``ae.safetensors``          dictionary_learning, converted
====================  ===========================================  ==================================

Pickles (``ae.pt``, ``*.pth`` …) are never read: they can run code when loaded.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from raylens.errors import DamagedFileError, InputError

# From this version on, sae-lens takes a config as it stands, without guessing what older files meant.
_METADATA: Final[Mapping[str, Any]] = {"sae_lens_version": "6.0.0"}
_PICKLED: Final = (".pt", ".pth", ".pkl", ".bin", ".ckpt")
_FORMATS: Final = (
    ("cfg.json", "sae_weights.safetensors", "saelens"),
    ("cfg.json", "sae.safetensors", "sparsify"),
    ("params.npz", "params.npz", "gemma-scope"),
    ("config.json", "ae.safetensors", "dictionary"),
)
_GEMMA_SCOPE: Final = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att)\b")
_GEMMA_SCOPE_HOOKS: Final = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_SPARSIFY_HOOK: Final = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.([0-9]+)(?:\.(mlp|attn|self_attn|attention))?")
# Kept for the shape of a dictionary_learning class: sae-lens's architecture, whether b_dec is subtracted
# from the input, and whether its activations are in units of the decoder's norms.
_DICTIONARY_CLASSES: Final = {
    "AutoEncoder": ("standard", True, False),
    "AutoEncoderNew": ("standard", False, False),
    "GatedAutoEncoder": ("gated", True, True),
    "JumpReluAutoEncoder": ("jumprelu", False, True),
    "AutoEncoderTopK": ("topk", True, False),
    "BatchTopKSAE": ("jumprelu", True, False),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True, False),
}
_DICTIONARY_NAMES: Final = {
    "encoder.bias": "b_enc",
    "bias": "b_dec",
    "decoder.bias": "b_dec",
    "decoder_bias": "b_dec",
    "mag_bias": "b_mag",
    "gate_bias": "b_gate",
}


@dataclass(frozen=True, slots=True)
class SaeFolder:
    """One SAE on disk; ``config`` is sae-lens's own form of it, ``metadata`` included.

    ``fold_decoder_norm`` asks for the decoder's norms to be folded into the encoder after loading,
    where a format states activations in those units.
    """

    format: str
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    fold_decoder_norm: bool = False

    @property
    def folder(self) -> Path:
        return self.files[-1].parent

    @property
    def weights(self) -> Path:
        return self.files[-1]


def open_folder(path: Path) -> SaeFolder:
    """Tell the format of ``path`` (a folder, or a ``params.npz``) and read its configuration.

    Raises:
        InputError: no SAE is there, only a pickled one, or one of a kind that cannot be encoded with.
        DamagedFileError: a file cannot be read.
    """
    if path.suffix in _PICKLED:
        raise _pickled(path, path.name)
    folder = path.parent if path.name == "params.npz" else path
    for config, weights, name in _FORMATS:
        if (folder / config).is_file() and (folder / weights).is_file():
            files = tuple(dict.fromkeys((folder / config, folder / weights)))
            try:
                return _READERS[name](files)
            except KeyError as error:
                raise InputError(f"{files[0]} does not say {error}.", hint=f"a {name} config does.") from error
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED) if folder.is_dir() else []
    if pickles:
        raise _pickled(folder, pickles[0])
    expected = "; ".join(" + ".join(dict.fromkeys((config, weights))) for config, weights, _ in _FORMATS)
    raise InputError(f"{path} holds no SAE.", hint=f"a folder with one of these is read: {expected}.")


def read_config(sae: SaeFolder) -> dict[str, Any]:
    """The configuration of a folder as its file has it.

    Raises:
        DamagedFileError: The file is no JSON object.
    """
    return _json(sae.files[0])


def read_state(sae: SaeFolder) -> dict[str, Tensor]:
    """The weights of a foreign format under sae-lens's names: ``W_enc [d_in, d_sae]``, ``W_dec [d_sae, d_in]`` …

    Raises:
        DamagedFileError: the file cannot be read.
        InputError: it is not of the format its folder claims.
    """
    try:
        if sae.format == "gemma-scope":
            with np.load(sae.weights, allow_pickle=False) as archive:
                found = {name: torch.from_numpy(archive[name]) for name in archive.files}
            return {("W" + name[1:] if name.startswith("w_") else name): tensor for name, tensor in found.items()}
        found = load_file(sae.weights)
    except (SafetensorError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(sae.weights, error) from error
    except ValueError as error:  # what numpy says of pickled objects, and of truncated arrays
        raise InputError(f"{sae.weights} is not plain arrays ({error}).", hint="pickles are never read.") from error
    return _sparsify_state(found, sae) if sae.format == "sparsify" else _dictionary_state(found, sae)


def _read_saelens(files: tuple[Path, ...]) -> SaeFolder:
    raw = _json(files[0])
    metadata = {**raw, **raw["metadata"]} if isinstance(raw.get("metadata"), dict) else raw
    # Files written before SAELens 6 hold everything flat, under older names.
    config = {
        "architecture": raw.get("architecture") or "standard",
        "d_in": raw.get("d_in"),
        "d_sae": raw.get("d_sae"),
        "dtype": str(raw.get("dtype", "float32")).removeprefix("torch."),
        "metadata": {**metadata, "hook_name": metadata.get("hook_name") or metadata.get("hook_point")},
    }
    if "topk" in (raw.get("activation_fn"), raw.get("activation_fn_str")):
        config["architecture"] = "topk"
    return SaeFolder("saelens", config, files)


def _read_sparsify(files: tuple[Path, ...]) -> SaeFolder:
    raw, folder = _json(files[0]), files[0].parent
    for setting in ("transcode", "skip_connection", "embed_skip", "gram_lookup", "signed"):
        if raw.get(setting):
            raise InputError(f"{folder} is a sparsify coder with {setting}.", hint="plain TopK autoencoders are read.")
    if raw.get("activation", "topk") != "topk":
        raise InputError(f"{folder} selects latents by {raw['activation']}.", hint="sparsify's topk is read.")
    shared = folder.parent / "config.json"
    run = _json(shared) if shared.is_file() else {}
    d_sae = raw.get("num_latents") or raw["d_in"] * raw["expansion_factor"]
    config = _config("topk", raw["d_in"], d_sae, _stored_dtype(files[1], "encoder.weight"), _sparsify_hook(folder.name))
    # sparsify subtracts b_dec from what it encodes, whatever normalize_decoder says.
    config |= {"k": raw["k"], "apply_b_dec_to_input": True}
    config["metadata"] |= {"model_name": run.get("model"), "context_size": run.get("ctx_len")}
    return SaeFolder("sparsify", config, files)


def _read_gemma_scope(files: tuple[Path, ...]) -> SaeFolder:
    path = files[0]
    try:
        with np.load(path, allow_pickle=False) as archive:
            d_in, d_sae = archive["W_enc" if "W_enc" in archive.files else "w_enc"].shape
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is not a Gemma Scope SAE ({error}).", hint="it holds plain arrays W_enc …") from error
    # The file itself does not say what it reads; Gemma Scope's own folder names do.
    release, layer = _GEMMA_SCOPE.search(str(path)), re.search(r"layer_([0-9]+)", str(path))
    hook = f"blocks.{layer[1]}.{_GEMMA_SCOPE_HOOKS[release[3]]}" if release and layer else None
    config = _config("jumprelu", d_in, d_sae, "float32", hook)
    if release:
        size = release[1] + ("-it" if release[2] == "it" else "")
        config["metadata"] |= {"model_name": f"gemma-2-{size}", "context_size": 1024}
    return SaeFolder("gemma-scope", config, files)


def _read_dictionary(files: tuple[Path, ...]) -> SaeFolder:
    raw = _json(files[0])
    trainer = raw.get("trainer", raw)
    kind = trainer.get("dict_class")
    if kind not in _DICTIONARY_CLASSES:
        raise InputError(
            f"{files[0].parent} is a dictionary_learning {kind}.",
            hint=f"these are read: {', '.join(_DICTIONARY_CLASSES)}.",
        )
    architecture, subtract, scaled = _DICTIONARY_CLASSES[kind]
    layer, module = trainer.get("layer"), trainer.get("submodule_name") or ""
    hook = f"blocks.{layer}.hook_resid_post" if layer is not None and "resid_post" in (module or "resid_post") else None
    config = _config(architecture, trainer["activation_dim"], trainer["dict_size"], _stored_dtype(files[1]), hook)
    config |= {"apply_b_dec_to_input": subtract} | ({"k": int(trainer["k"])} if architecture == "topk" else {})
    context = raw.get("buffer", {}).get("ctx_len")
    config["metadata"] |= {"model_name": trainer.get("lm_name"), "context_size": context}
    return SaeFolder("dictionary", config, files, fold_decoder_norm=scaled)


_READERS: Final = {
    "saelens": _read_saelens,
    "sparsify": _read_sparsify,
    "gemma-scope": _read_gemma_scope,
    "dictionary": _read_dictionary,
}


def _config(architecture: str, d_in: int, d_sae: int, dtype: str, hook: str | None) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "d_in": int(d_in),
        "d_sae": int(d_sae),
        "dtype": dtype,
        "apply_b_dec_to_input": False,
        "metadata": {**_METADATA, "hook_name": hook, "prepend_bos": True},
    }


def _sparsify_hook(folder: str) -> str | None:
    if folder == "embed_tokens":
        return "embeddings"
    match = _SPARSIFY_HOOK.fullmatch(folder)
    if not match:
        return None
    return f"{'resid_post' if not match[2] else 'mlp_out' if match[2] == 'mlp' else 'attn_out'}.{match[1]}"


def _sparsify_state(found: Mapping[str, Tensor], sae: SaeFolder) -> dict[str, Tensor]:
    try:
        return {
            "W_enc": found["encoder.weight"].T.contiguous(),
            "b_enc": found["encoder.bias"],
            "W_dec": found["W_dec"],
            "b_dec": found["b_dec"],
        }
    except KeyError as error:
        raise InputError(f"{sae.weights} lacks {error}.", hint="a sparsify autoencoder has it.") from error


def _dictionary_state(found: Mapping[str, Tensor], sae: SaeFolder) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if name in ("encoder.weight", "decoder.weight"):
            state["W_enc" if name.startswith("enc") else "W_dec"] = tensor.T.contiguous()
        elif name in ("W_enc", "W_dec", "b_enc", "b_dec", "r_mag", *_DICTIONARY_NAMES):
            state[_DICTIONARY_NAMES.get(name, name)] = tensor
    if sae.config["architecture"] == "jumprelu" and "threshold" in found:
        # BatchTopK keeps one threshold for all latents.
        state["threshold"] = found["threshold"].to(state["W_enc"].dtype).expand(sae.config["d_sae"]).clone()
    return state


def _stored_dtype(path: Path, name: str | None = None) -> str:
    try:
        with safe_open(path, framework="pt") as stream:
            first = name or next(key for key in stream.keys() if key.endswith(("weight", "W_enc")))  # noqa: SIM118
            return {"F16": "float16", "BF16": "bfloat16"}.get(stream.get_slice(first).get_dtype(), "float32")
    except (SafetensorError, StopIteration) as error:
        raise _damaged(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path} is not a JSON object.", hint="copy or download the SAE again.")
    return found


def _pickled(folder: Path, name: str) -> InputError:
    return InputError(
        f"{folder} holds a pickled SAE ({name}), which could run code when loaded.",
        hint=f"convert it first: raylens convert {folder} --out FOLDER, then name that folder.",
    )


def _damaged(path: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(f"{path} cannot be read ({error}).", hint="copy or download the SAE again.")
