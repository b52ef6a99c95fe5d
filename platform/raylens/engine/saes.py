"""Finding and loading SAEs: the bundle, sae-lens's directory, folders on the hub, folders on disk.

=========================================  =========================================================
reference                                  what it names
=========================================  =========================================================
``raylens-pico-res/layer_3``               an SAE of the bundle
``gemma-scope-2b-pt-res/layer_20/…``       release and id of sae-lens's directory
``EleutherAI/sae-pythia-70m/layers.3``     a folder of a hub repository, in any format of ``sae_formats``
a path                                     a folder on disk, likewise; named ``local/<folder>-<8 hex>``
=========================================  =========================================================

An SAE comes back as :class:`~raylens.engine.inference_sae.InferenceSae` where that can read it, else as sae-lens's own
object, which has the same methods; either is set up for what RayLens taps: transformers' activations, flat in their
last axis.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor

from raylens.bundle.paths import sae_path
from raylens.catalog.points import from_transformer_lens
from raylens.engine import fingerprint, sae_hub
from raylens.engine.inference_sae import InferenceSae, read_inference_sae
from raylens.engine.memory import memory_advice
from raylens.engine.sae_formats import SaeFolder, open_folder, read_state
from raylens.errors import DamagedFileError, InputError, UnknownNameError
from raylens.home import from_home
from raylens.ids import HookPoint, SaeId
from raylens.specs import SaeSpec

if TYPE_CHECKING:
    from sae_lens import SAE

ARCHITECTURES: Final = ("standard", "gated", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk")
"""What can be encoded with. The last two are checkpoints of training; they run as JumpReLU."""

_DTYPES: Final = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, eq=False)
class LoadedSae:
    """An SAE ready to encode: ``sae`` has sae-lens's methods, and is on its device, without gradients."""

    sae: SAE[Any] | InferenceSae
    spec: SaeSpec

    @property
    def id(self) -> SaeId:
        return self.spec.id

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    @property
    def d_sae(self) -> int:
        return self.spec.d_sae

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    @cached_property
    def decoder_norms(self) -> Tensor:
        """L2 norm of each decoder row, ``[d_sae]``, in the SAE's dtype."""
        return self.sae.W_dec.detach().norm(dim=-1)


def load_sae(
    ref: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: str = "float32",
    hook: HookPoint | None = None,
    model_name: str | None = None,
) -> LoadedSae:
    """Load the SAE that ``ref`` names.

    Args:
        ref: See the table above.
        device: Where its weights go.
        dtype: ``float32`` (what sae-lens takes by default), ``float16`` or ``bfloat16``.
        hook: What it reads, where its own config does not say or says it wrongly.
        model_name: Likewise, what it was trained on.

    Raises:
        UnknownNameError: no such release, id or folder.
        InputError: a pickle, an architecture that cannot be encoded with, or files that do not fit together.
        HubUnreachableError: not cached, and no hub.
        DamagedFileError: a weights file is truncated.
        OutOfMemoryError: it does not fit; says what to lower.
    """
    if dtype not in _DTYPES:
        raise InputError(f"{dtype!r} is not a dtype.", hint=f"write {', '.join(_DTYPES)}.")
    source = _find(ref, weights=True)
    spec = _spec(source, hook, model_name)
    with memory_advice(f"loading the SAE {spec.id}", device), _readable(spec.id):
        if isinstance(source.place, SaeFolder):
            sae = _from_folder(source.place, str(device), dtype)
        else:
            sae = sae_hub.load_release(source.place, str(device), dtype)
    return LoadedSae(_set_up(sae), spec)


def describe_sae(ref: str | Path, *, hook: HookPoint | None = None, model_name: str | None = None) -> SaeSpec:
    """What ``ref`` is, from its configuration; arguments and errors are those of :func:`load_sae`.

    Of a hub SAE only the configuration is fetched; a folder's weights are hashed, as they are its identity.
    """
    return _spec(_find(ref, weights=False), hook, model_name)


def fetch_sae(ref: str | Path) -> None:
    """Bring the files of ``ref`` here without reading them; errors are those of :func:`load_sae`."""
    _find(ref, weights=True)


@dataclass(frozen=True, slots=True)
class _Source:
    """An SAE that was found: its identity, sae-lens's form of its config, and where its weights are."""

    id: SaeId
    fingerprint: str
    config: Mapping[str, Any]
    place: SaeFolder | sae_hub.Release


def _find(ref: str | Path, *, weights: bool) -> _Source:
    path = from_home(ref)
    if path.exists():
        folder = open_folder(path.resolve())
        content = fingerprint.of_files(folder.files)
        name = re.sub(r"\s+", "-", folder.folder.name)
        return _Source(SaeId("local", f"{name}-{content[:8]}"), content, folder.config, folder)
    text = str(ref)
    if isinstance(ref, Path) or text.startswith((".", "/", "~")):
        raise UnknownNameError(f"there is no folder {text}.", hint="check the path; raylens catalog lists named SAEs.")
    sae = SaeId.parse(text)
    bundled = sae_path(sae)
    if bundled is not None:
        folder = open_folder(bundled)
        return _Source(sae, fingerprint.of_files(folder.files), folder.config, folder)
    found = sae_hub.find(sae, weights=weights)
    if isinstance(found.place, sae_hub.Release):
        return _Source(sae, found.fingerprint, sae_hub.release_config(found.place), found.place)
    folder = open_folder(found.place)
    return _Source(sae, found.fingerprint, folder.config, folder)


def _spec(source: _Source, hook: HookPoint | None, model_name: str | None) -> SaeSpec:
    config = source.config
    metadata: Mapping[str, Any] = config.get("metadata") or {}
    architecture = str(config.get("architecture"))
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{source.id} is of architecture {architecture}, which RayLens cannot encode with.",
            hint=f"these it can: {', '.join(ARCHITECTURES)}.",
        )
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    if not isinstance(d_in, int) or not isinstance(d_sae, int):
        raise InputError(f"the config of {source.id} does not say d_in and d_sae.", hint="repair its cfg.json.")
    model = model_name or metadata.get("model_name")
    return SaeSpec(
        id=source.id,
        model_name=model,
        hook=hook or _hook(source.id, metadata.get("hook_name"), model),
        d_in=d_in,
        d_sae=d_sae,
        architecture=architecture,
        neuronpedia_id=metadata.get("neuronpedia_id") or config.get("neuronpedia_id"),
        prepend_bos=bool(metadata.get("prepend_bos", True)),
        dtype=str(config.get("dtype", "float32")).removeprefix("torch."),
        fingerprint=source.fingerprint,
    )


def _hook(sae: SaeId, name: str | None, model: str | None) -> HookPoint:
    if not name:
        raise InputError(
            f"{sae} does not say which tensor it reads.", hint="name its hook point, in your catalog entry for it."
        )
    point = from_transformer_lens(name, model)
    if point is not None:
        return point
    try:
        return HookPoint.parse(name)
    except InputError as error:
        raise InputError(
            f"{sae} reads {name}, which no hook point of RayLens is.", hint="name one, in your catalog entry for it."
        ) from error


def _from_folder(folder: SaeFolder, device: str, dtype: str) -> SAE[Any] | InferenceSae:
    light = read_inference_sae(folder, device, dtype)
    if light is not None:
        return light
    from sae_lens import SAE, TrainingSAE

    if folder.format != "saelens":

        def convert(
            path: str | Path, device: str, cfg_overrides: dict[str, Any] | None
        ) -> tuple[dict[str, Any], dict[str, Tensor]]:
            config = {**folder.config, "device": device, "normalize_activations": "none", **(cfg_overrides or {})}
            return config, {name: tensor.to(device) for name, tensor in read_state(folder).items()}

        fold = folder.fold_decoder_norm
        return SAE.load_from_disk(folder.folder, device, dtype, converter=convert, fold_W_dec_norm=fold)
    if folder.config["architecture"] in ("batchtopk", "matryoshka_batchtopk"):
        # A checkpoint of training: sae-lens turns its threshold into JumpReLU's when it saves for inference.
        with tempfile.TemporaryDirectory() as converted:
            TrainingSAE.load_from_disk(folder.folder, "cpu", dtype).save_inference_model(converted)
            return SAE.load_from_disk(converted, device, dtype)
    return SAE.load_from_disk(folder.folder, device, dtype)


@contextmanager
def _readable(sae: SaeId) -> Iterator[None]:
    with warnings.catch_warnings():
        # sae-lens warns that centred writing weights need TransformerLens; see _set_up.
        warnings.filterwarnings("ignore", message="[\\s\\S]*model_from_pretrained_kwargs")
        try:
            yield
        except SafetensorError as error:
            raise DamagedFileError(
                f"the weights of {sae} cannot be read ({error}).", hint="copy or download the SAE again."
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{sae} is not an SAE that sae-lens can build ({_one_line(error)}).", hint="check its config."
            ) from error
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            raise InputError(
                f"the weights of {sae} do not fit its config ({_one_line(error)}).",
                hint="its cfg.json and its weights belong to two different SAEs.",
            ) from error


def _set_up(sae: SAE[Any] | InferenceSae) -> SAE[Any] | InferenceSae:
    """Make an SAE take what RayLens taps."""
    if not isinstance(sae, InferenceSae):
        sae.turn_off_forward_pass_hook_z_reshaping()  # taps give heads side by side already
    sae.requires_grad_(False)
    sae.eval()
    settings = sae.cfg.metadata.get("model_from_pretrained_kwargs") or {}
    if settings.get("center_writing_weights") and sae.cfg.normalize_activations == "none":
        _centre(sae)
    return sae


def _centre(sae: SAE[Any] | InferenceSae) -> None:
    """Take the mean off each input and give it back to each output.

    The SAE was trained on TransformerLens's model with centred writing weights. Its residual stream
    is the original model's less its mean over ``d_model``, which a LayerNorm does not see, so this is
    exactly what the SAE was trained on.
    """
    means: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        means[:] = [x.mean(dim=-1, keepdim=True)]
        return x - means[0]

    def give(x: Tensor) -> Tensor:
        return x + means[0]

    sae.run_time_activation_norm_fn_in = take
    sae.run_time_activation_norm_fn_out = give


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
