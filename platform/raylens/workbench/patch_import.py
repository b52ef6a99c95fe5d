"""Patches that others made: an exported folder, or a file of edits in YAML or JSON.

Nothing of either is taken at its word: sizes are bounded before anything is read, pickles are never opened, unknown
keys and numbers that are not finite are refused. Whether a patch fits a model is a second question, asked of shapes
and names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from raylens.api.edits import PatchSpec
from raylens.catalog.aliases import Aliases, is_folder
from raylens.engine.adapter_config import CONFIG
from raylens.engine.adapters import WEIGHTS, Adapter
from raylens.engine.unpickle import PICKLED
from raylens.errors import InputError, MismatchError, UnknownNameError
from raylens.ids import HookPoint
from raylens.specs import ModelInfo
from raylens.suites.suite_file import Fields, Items, Node, Scalar, read_tree
from raylens.workbench.patch_adapter import MOST_RECORD_BYTES, RECORD, read_patch
from raylens.workbench.patch_record import FORMAT, PatchRecord

_YAML: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, eq=False)
class ImportedPatch:
    """A patch that was read and checked.

    Attributes:
        spec: What it does.
        record: Of an exported folder.
        adapter: Likewise; its tensors are read when they are asked for.
    """

    spec: PatchSpec
    record: PatchRecord | None = None
    adapter: Adapter | None = None


def import_patch(path: Path) -> ImportedPatch:
    """Read a patch: an exported folder, its ``patch.json``, or a file of edits.

    Raises:
        UnknownNameError: There is no such file.
        InputError: It is a pickle, too large, of another format, or says what makes no sense.
        DamagedFileError: A file of an exported folder is damaged.
    """
    if path.is_dir():
        record, adapter = read_patch(path)
        return ImportedPatch(record.spec, record, adapter)
    if not path.is_file():
        raise UnknownNameError(f"there is no file or folder {path}.", hint="check the path.")
    if path.suffix.casefold() in PICKLED:
        raise InputError(
            f"{path} is a pickle, which can run code.",
            hint="load it with peft where you trust it, and save it again: save_pretrained writes safetensors.",
        )
    if path.name in (RECORD, CONFIG, WEIGHTS) and (path.parent / RECORD).is_file():
        return import_patch(path.parent)
    if path.suffix.casefold() not in (".json", *_YAML):
        raise InputError(f"{path} is no patch.", hint="name a folder that was exported, or a .yaml or .json of edits.")
    if path.stat().st_size > MOST_RECORD_BYTES:
        raise InputError(
            f"{path} is larger than the {MOST_RECORD_BYTES // 2**20} MiB of a patch.", hint="name a file of edits."
        )
    data = path.read_bytes()
    found = _yaml(data, path) if path.suffix.casefold() in _YAML else _json(data, path)
    if isinstance(found, Mapping) and found.get("format") == FORMAT:
        raise InputError(f"{path} is the record of an exported patch.", hint="name the folder that it came in.")
    return ImportedPatch(spec_of(found, str(path)))


def spec_of(found: object, shown: str) -> PatchSpec:
    """A patch of plain values.

    Args:
        found: As JSON has them.
        shown: Where they are from, for errors.

    Raises:
        InputError: They are no patch; names the first thing wrong.
    """
    if not isinstance(found, Mapping):
        raise InputError(f"{shown} holds no patch.", hint="write edits: [{feature: f_3_17, method: ablate}], say.")
    try:
        return PatchSpec.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    told = first["msg"].removeprefix("Value error, ")
    raise InputError(
        f"{shown}: {where + ': ' if where else ''}{told[0].lower()}{told[1:]}.",
        hint=f"a patch has {', '.join(PatchSpec.model_fields)}.",
    )


def require_fits(spec: PatchSpec, info: ModelInfo, aliases: Aliases | None = None) -> None:
    """Refuse a patch for another model, as far as names and directions tell.

    Args:
        spec: The patch.
        info: The model.
        aliases: The user's names for models among them.

    Raises:
        MismatchError: It names another model, a block that this one lacks, or a direction of another width.
        InputError: A direction's point is none.
    """
    names = aliases or Aliases()
    theirs = spec.model
    comparable = theirs is not None and not is_folder(theirs) and not is_folder(info.name)
    if theirs is not None and comparable and _differ(names, theirs, info.name):
        raise MismatchError(
            f"the patch is for {theirs}, and the model is {info.name}.", hint=f"name {theirs}, or another patch."
        )
    for one in spec.directions:
        hook = HookPoint.parse(one.hook)
        if hook.layer is not None and hook.layer >= info.n_layers:
            raise MismatchError(
                f"direction {one.name} is of {one.hook}, and {info.name} has the blocks 0 to {info.n_layers - 1}.",
                hint="it was made for another model.",
            )
        if len(one.vector) != info.d_model and not hook.is_module_path:
            raise MismatchError(
                f"direction {one.name} is {len(one.vector)} wide, and {info.name} is {info.d_model}.",
                hint="it was made for another model.",
            )


def _differ(names: Aliases, one: str, other: str) -> bool:
    return names.canonical(one).casefold() != names.canonical(other).casefold()


def _json(data: bytes, path: Path) -> object:
    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        return json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({' '.join(str(error).split())[:120]}).", hint="repair it.") from None


def _yaml(data: bytes, path: Path) -> object:
    try:
        return _plain(read_tree(data, str(path)))
    except InputError as error:
        raise InputError(error.message, hint="write plain YAML, or JSON, which may be larger.") from None


def _plain(node: Node) -> object:
    """Values of a YAML document as JSON has them."""
    if isinstance(node, Items):
        return [_plain(item) for item in node.items]
    if isinstance(node, Fields):
        return {key: _plain(value) for key, (_, value) in node.fields.items()}
    assert isinstance(node, Scalar)
    return node.value if node.kind == "str" else yaml.safe_load(node.value)
