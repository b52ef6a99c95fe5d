"""An SAE that only encodes and decodes, by the operations of sae-lens's own classes and with the same bits.

sae-lens imports TransformerLens, which takes longer (2.6 s of CPU in every process) than to import torch and to load
a small model together. Its formats are many, and older ones mean what only it knows; so what can be read here without
a guess (:func:`read_inference_sae`) is, and sae-lens reads everything else, trains, and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raylens.engine.sae_formats import SaeFolder, read_config, read_state

if TYPE_CHECKING:
    from sae_lens import SAE

_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_COMMON: Final = frozenset({"W_enc", "W_dec", "b_dec"})
_WEIGHTS: Final[Mapping[str, frozenset[str]]] = {
    "standard": _COMMON | {"b_enc"},
    "topk": _COMMON | {"b_enc"},
    "jumprelu": _COMMON | {"b_enc", "threshold"},
    "gated": _COMMON | {"b_gate", "b_mag", "r_mag"},
}
_OF_LATENTS: Final = frozenset({"b_enc", "threshold", "b_gate", "b_mag", "r_mag"})
# The first two leave inputs as they are. sae-lens knows others besides.
_NORMS: Final = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
_FIRST_PLAIN_VERSION: Final = 6
_SETTINGS: Final = ("apply_b_dec_to_input", "normalize_activations", "k", "rescale_acts_by_decoder_norm")


@dataclass(frozen=True)
class InferenceConfig:
    """What sae-lens's config of the same names says, of what encoding needs.

    Attributes:
        kind: ``standard``, ``topk``, ``jumprelu`` or ``gated``.
        written: The config in the form that sae-lens reads.
    """

    kind: str
    d_in: int
    d_sae: int
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    k: int = 100
    rescale_acts_by_decoder_norm: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)

    def architecture(self) -> str:
        return self.kind


class InferenceSae(nn.Module):
    """Encoder and decoder of one SAE, without gradients for its weights.

    Attributes:
        W_enc: ``[d_in, d_sae]``.
        W_dec: ``[d_sae, d_in]``.
        b_dec: ``[d_in]``; the other weights are ``[d_sae]``.
        run_time_activation_norm_fn_in: What is done to an input before it is encoded …
        run_time_activation_norm_fn_out: … and to what was decoded of it; it remembers the input, once.
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, cfg: InferenceConfig, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.cfg = cfg
        for name, tensor in state.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        take, give = _norm(cfg)
        self.run_time_activation_norm_fn_in: Callable[[Tensor], Tensor] = take
        self.run_time_activation_norm_fn_out: Callable[[Tensor], Tensor] = give

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    def process_sae_in(self, x: Tensor) -> Tensor:
        """What the encoder's weights are multiplied with: ``[..., d_in]`` in the SAE's dtype."""
        taken = self.run_time_activation_norm_fn_in(x.to(self.dtype))
        return taken - self.b_dec * self.cfg.apply_b_dec_to_input

    def encode(self, x: Tensor) -> Tensor:
        """Activations ``[..., d_sae]`` of inputs ``[..., d_in]``."""
        sae_in, weight = self.process_sae_in(x), self.get_parameter
        if self.cfg.kind == "gated":
            opened = (sae_in @ self.W_enc + weight("b_gate") > 0).to(self.dtype)
            return opened * (sae_in @ (self.W_enc * weight("r_mag").exp()) + weight("b_mag")).relu()
        hidden = sae_in @ self.W_enc + weight("b_enc")
        if self.cfg.kind == "topk":
            if self.cfg.rescale_acts_by_decoder_norm:
                hidden = hidden * self.W_dec.norm(dim=-1)
            values, features = torch.topk(hidden, k=self.cfg.k, dim=-1, sorted=False)
            return torch.zeros_like(hidden).scatter(-1, features, values.relu())
        if self.cfg.kind == "jumprelu":
            return hidden.relu() * (hidden > weight("threshold")).to(hidden.dtype)
        return hidden.relu()

    def decode(self, activations: Tensor) -> Tensor:
        """Reconstructions ``[..., d_in]`` of activations ``[..., d_sae]``; of the input encoded last, where normed."""
        if self.cfg.rescale_acts_by_decoder_norm:
            activations = activations * (1 / self.W_dec.norm(dim=-1))
        return self.run_time_activation_norm_fn_out(activations @ self.W_dec + self.b_dec)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def saelens(self) -> SAE[Any]:
        """The same SAE as sae-lens's own object; it shares the weights."""
        from sae_lens import SAE

        def found(
            path: str | Path, device: str, cfg_overrides: dict[str, Any] | None
        ) -> tuple[dict[str, Any], dict[str, Tensor]]:
            return {**self.cfg.written, "device": device, **(cfg_overrides or {})}, dict(self.state_dict())

        dtype = str(self.dtype).removeprefix("torch.")
        return SAE.load_from_disk("", str(self.device), dtype, converter=found)

    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        """Write a folder in SAELens format, by sae-lens; gives the files of weights and config."""
        return self.saelens().save_model(path)


def read_inference_sae(folder: SaeFolder, device: str, dtype: str) -> InferenceSae | None:
    """Read a folder, or None where sae-lens has to: an older or rarer format, or weights that do not fit the config.

    Args:
        folder: What was found there.
        device: Where the weights go.
        dtype: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        SafetensorError: The weights cannot be read.
        DamagedFileError: Likewise, of other formats.
        InputError: The file is not of the format that its folder claims.
    """
    written = read_config(folder) if folder.format == "saelens" else dict(folder.config)
    cfg = _config(written)
    if cfg is None or folder.fold_decoder_norm:
        return None
    found = load_file(folder.weights, device) if folder.format == "saelens" else read_state(folder)
    if set(found) != _WEIGHTS[cfg.kind] or any(list(one.shape) != _shape(name, cfg) for name, one in found.items()):
        return None
    # One at a time: two precisions of the whole would not fit where one just does.
    return InferenceSae(cfg, {name: found.pop(name).to(device, _DTYPES[dtype]) for name in list(found)})


def _config(written: Mapping[str, Any]) -> InferenceConfig | None:
    metadata = written.get("metadata")
    version = str(metadata.get("sae_lens_version") or "") if isinstance(metadata, dict) else ""
    major = version.partition(".")[0]
    # A release candidate of version 6, and a version beside the metadata, are for sae-lens itself to compare.
    if not major.isdigit() or int(major) < _FIRST_PLAIN_VERSION or "rc" in version or "sae_lens_version" in written:
        return None
    kind, d_in, d_sae = written.get("architecture"), written.get("d_in"), written.get("d_sae")
    if kind not in _WEIGHTS or not isinstance(d_in, int) or not isinstance(d_sae, int):
        return None
    given = {name: written[name] for name in _SETTINGS if name in written}
    cfg = InferenceConfig(kind, d_in, d_sae, **given, metadata=metadata or {}, written=written)
    if kind != "topk" and cfg.rescale_acts_by_decoder_norm:
        return None
    return cfg if cfg.normalize_activations in _NORMS else None


def _shape(name: str, cfg: InferenceConfig) -> list[int]:
    if name in _OF_LATENTS:
        return [cfg.d_sae]
    return {"W_enc": [cfg.d_in, cfg.d_sae], "W_dec": [cfg.d_sae, cfg.d_in], "b_dec": [cfg.d_in]}[name]


def _norm(cfg: InferenceConfig) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    kept: dict[str, Tensor] = {}

    def rescale(x: Tensor) -> Tensor:
        kept["scale"] = cfg.d_in**0.5 / x.norm(dim=-1, keepdim=True)
        return x * kept["scale"]

    def unscale(x: Tensor) -> Tensor:
        return x / kept.pop("scale")

    def standardise(x: Tensor, eps: float = 1e-5) -> Tensor:
        kept["mean"] = x.mean(dim=-1, keepdim=True)
        x = x - kept["mean"]
        kept["std"] = x.std(dim=-1, keepdim=True)
        return x / (kept["std"] + eps)

    def restore(x: Tensor) -> Tensor:
        return x * kept.pop("std") + kept.pop("mean")

    if cfg.normalize_activations == "constant_norm_rescale":
        return rescale, unscale
    if cfg.normalize_activations == "layer_norm":
        return standardise, restore
    return _same, _same


def _same(x: Tensor) -> Tensor:
    return x
