"""Names of things, each parsed once, strictly, into a frozen type that prints back the same.

======================  ==========================================  ===========================
type                    string form                                 names
======================  ==========================================  ===========================
:class:`HookPoint`      ``resid_post.4``, ``path.model.layers.4#0``  a tensor inside a forward pass
:class:`SaeId`          ``gemma-scope-2b-pt-res/layer_20/width_16k``  one sparse autoencoder
:class:`FeatureId`      ``<sae>/<index>``                           one latent of one SAE
:class:`ShortFeature`   ``f_15_4109``                               how a latent is shown
======================  ==========================================  ===========================
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from raylens.errors import InputError

_POINT = re.compile(r"([a-z][a-z0-9_]*)(?:\.([0-9]+))?")
_TRANSFORMER_LENS = re.compile(r"blocks\.([0-9]+)\.(?:hook_|attn\.hook_|mlp\.hook_)[a-z_]+")
_MODULE_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
_SAE_ID = re.compile(r"[^/\s]+(?:/[^/\s]+)+")
_INDEX = re.compile(r"[0-9]{1,10}")
_SHORT = re.compile(r"f_([0-9]{1,10})_([0-9]{1,10})")
_LAYER_IN_PATH = re.compile(r"(?:layers|h|blocks|block)\.([0-9]+)\b")


@dataclass(frozen=True, slots=True, order=True)
class HookPoint:
    """Which tensor of a forward pass, shaped ``[batch, position, d_model]`` or the point's own width.

    Either a canonical point name of interp-engine with its layer (``resid_post.4``), or a dotted
    module path (``path.model.layers.4.mlp``), with ``#k`` to pick element ``k`` of a tuple output.
    """

    name: str
    layer: int | None = None
    output: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse either form; TransformerLens names are translated by ``engine.points``.

        Raises:
            InputError: ``text`` is neither form.
        """
        if text.startswith("path."):
            path, _, output = text.removeprefix("path.").partition("#")
            if _MODULE_PATH.fullmatch(path) and (not output or output.isdecimal()):
                return cls(path, None, int(output) if output else None)
        elif match := _POINT.fullmatch(text):
            return cls(match[1], int(match[2]) if match[2] is not None else None)
        hint = "write resid_post.4, or path.model.layers.4 for a module."
        if _TRANSFORMER_LENS.fullmatch(text):
            hint = f"that is a TransformerLens name; write resid_post.N instead of {text}."
        raise InputError(f"{text!r} is not a hook point.", hint=hint)

    @classmethod
    def from_template(cls, template: str, layer: int, output: int | None = None) -> Self:
        """The point of a module-path template such as ``model.layers.{layer}`` (A2.08)."""
        if "{layer}" not in template:
            raise InputError(f"template {template!r} has no {{layer}}.", hint="write model.layers.{layer}.")
        return cls(template.replace("{layer}", str(layer)), None, output)

    @property
    def is_module_path(self) -> bool:
        return "." in self.name

    @property
    def layer_index(self) -> int | None:
        """The layer, read from the path where the point is a module path."""
        if not self.is_module_path:
            return self.layer
        match = _LAYER_IN_PATH.search(self.name)
        return int(match[1]) if match else None

    def __str__(self) -> str:
        if self.is_module_path:
            return f"path.{self.name}" + (f"#{self.output}" if self.output is not None else "")
        return self.name if self.layer is None else f"{self.name}.{self.layer}"


@dataclass(frozen=True, slots=True, order=True)
class SaeId:
    """One SAE: a release and its id within it, as sae-lens names them.

    A folder on disk gets the release ``local`` (``local/<folder>-<8 hex of its weights>``).
    """

    release: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        if not _SAE_ID.fullmatch(text):
            raise InputError(
                f"{text!r} is not an SAE id.",
                hint="write release/id, for example raylens-pico-res/layer_3; raylens catalog lists them.",
            )
        release, _, name = text.partition("/")
        return cls(release, name)

    @property
    def key(self) -> str:
        """A file-system-safe name, unique to this id."""
        text = str(self)
        return re.sub(r"[^A-Za-z0-9._]+", "-", text)[:60] + "-" + digest(text)[:8]

    def __str__(self) -> str:
        return f"{self.release}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class FeatureId:
    """One latent of one SAE; ``index`` counts from 0."""

    sae: SaeId
    index: int

    @classmethod
    def parse(cls, text: str) -> Self:
        sae, _, index = text.rpartition("/")
        if not _INDEX.fullmatch(index) or "/" not in sae:
            raise InputError(
                f"{text!r} is not a feature id.", hint="write <sae>/<index>, or f_<layer>_<index> as it is shown."
            )
        return cls(SaeId.parse(sae), int(index))

    def __str__(self) -> str:
        return f"{self.sae}/{self.index}"


@dataclass(frozen=True, slots=True, order=True)
class ShortFeature:
    """``f_<layer>_<index>``: unique only where one SAE of that layer is in sight (A0.16)."""

    layer: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _SHORT.fullmatch(text)
        if not match:
            raise InputError(f"{text!r} is not a feature id.", hint="write f_<layer>_<index>, for example f_3_17.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"f_{self.layer}_{self.index}"


def digest(value: str | bytes | Mapping[str, object]) -> str:
    """Hex SHA-256 of text, bytes or a JSON mapping (keys sorted): the one content hash of RayLens."""
    if isinstance(value, Mapping):
        value = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def cache_id(identity: Mapping[str, object]) -> str:
    """The 16-hex id of a cache, from what determines its windows and activations.

    ``identity`` holds model, revision, tokenizer, corpus, context length, seed and packing, and
    never the number of tokens, workers or the run's name: those do not change what a shard holds.
    """
    return digest(identity)[:16]


def new_run_id(kind: str, at: datetime | None = None) -> str:
    """A fresh run id that sorts by time: ``cache-20260102-030405-9f3a``."""
    return f"{kind}-{at or datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
