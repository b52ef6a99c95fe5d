"""The user's own catalogue: one YAML file, read strictly, so that a typo is an error with its line.

.. code-block:: yaml

    aliases:
      /models/gemma-2-2b: google/gemma-2-2b      # a local copy *is* this model
    saes:
      - sae: my-saes/layer_3                     # release/id, as --sae takes it
        model: google/gemma-2-2b
        hook: resid_post.3
        path: ./saes/layer_3                     # or repo: <owner>/<name> on the hub
        width: 16384                             # from here on all optional
        d_in: 2304
        architecture: topk
        neuronpedia_id: gemma-2-2b/3-my-res-16k
        note: trained on our own text
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raylens.catalog.aliases import Aliases
from raylens.catalog.entries import CatalogEntry
from raylens.catalog.points import KNOWN
from raylens.catalog.remote import api_only
from raylens.catalog.sources import LabelSource, label_problem
from raylens.errors import InputError
from raylens.home import from_home
from raylens.ids import HookPoint, SaeId

VARIABLE: Final = "RAYLENS_CATALOG"
FILE_NAME: Final = "catalog.yaml"

Location = tuple[str | int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Sae(_Strict):
    sae: str
    model: Annotated[str, Field(min_length=1)]
    hook: str
    path: Annotated[str, Field(min_length=1)] | None = None
    repo: Annotated[str, Field(min_length=3)] | None = None
    width: Annotated[int, Field(gt=0)] | None = None
    d_in: Annotated[int, Field(gt=0)] | None = None
    architecture: str | None = None
    neuronpedia_id: str | None = None
    note: str = ""


class _File(_Strict):
    aliases: dict[str, Annotated[str, Field(min_length=1)]] = {}
    saes: list[_Sae] = []


def find_user_file(
    option: str | None, workspace: str | None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Which file to read: the option, else ``RAYLENS_CATALOG``, else ``catalog.yaml`` in the workspace.

    The first two must exist (reading says so); the last may be missing.
    """
    named = option or environment.get(VARIABLE)
    if named or not workspace:
        return named or None
    filesystem, root = _filesystem(workspace)
    candidate = f"{root.rstrip('/')}/{FILE_NAME}"
    return filesystem.unstrip_protocol(candidate) if filesystem.isfile(candidate) else None


def read_user_file(file: str | Path) -> tuple[dict[str, str], tuple[CatalogEntry, ...]]:
    """The user's aliases and SAEs.

    Args:
        file: A local path, or a URL that fsspec reads.

    Raises:
        InputError: the file is missing, is no YAML, or says something the schema does not know; the
            message names the line and the key.
    """
    filesystem, path = _filesystem(str(file))
    shown = str(file).removeprefix("file://")
    try:
        data = filesystem.cat_file(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reason = "is a folder" if isinstance(error, IsADirectoryError) else "cannot be read"
        reason = "does not exist" if isinstance(error, FileNotFoundError) else reason
        raise InputError(f"the catalogue file {shown} {reason}.", hint=f"see --catalog-file and {VARIABLE}.") from None
    value, lines = _parse(data, shown)
    try:
        content = _File.model_validate({} if value is None else value)
    except ValidationError as error:
        first = error.errors()[0]
        raise _problem(shown, lines, first["loc"], first["msg"], first["input"]) from None
    folder = Path(path).parent if "file" in _protocols(filesystem) else None
    return dict(content.aliases), _entries(content, shown, lines, folder)


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InputError(f"{url} cannot be opened: {error}.", hint="use a local path or an s3:// URL.") from None


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _entries(
    content: _File, shown: str, lines: Mapping[Location, int], folder: Path | None
) -> tuple[CatalogEntry, ...]:
    aliases = Aliases(content.aliases)
    first: dict[SaeId, int] = {}
    entries = []
    for index, item in enumerate(content.saes):
        at: Location = ("saes", index)
        key = "sae"
        try:
            sae = SaeId.parse(item.sae)
            if first.setdefault(sae, index) != index:
                raise InputError(f"{sae} is listed twice.", hint="keep one.")
            key = "model"
            if remote := api_only(item.model):
                raise InputError(f"{remote.reason}.", hint=remote.hint)
            key = "hook"
            hook = _hook(item.hook)
            key = "path" if item.path else "repo"
            path = _path(item, folder)
            key = "neuronpedia_id"
            model = aliases.canonical(item.model)
            _check_label(item, model, hook, aliases)
        except InputError as error:
            raise _problem(shown, lines, (*at, key), error.message, getattr(item, key), hint=error.hint) from None
        entries.append(
            CatalogEntry(
                sae=sae,
                model=model,
                hook=hook,
                layer=hook.layer_index,
                width=item.width,
                architecture=item.architecture,
                neuronpedia_id=item.neuronpedia_id,
                source="user",
                note=item.note,
                repo=item.repo,
                path=path,
                d_in=item.d_in,
            )
        )
    return tuple(sorted(entries, key=CatalogEntry.order))


def _hook(text: str) -> HookPoint:
    hook = HookPoint.parse(text)
    if not hook.is_module_path and hook.name not in KNOWN:
        raise InputError(f"there is no hook point {hook.name}.", hint=f"there are {', '.join(sorted(KNOWN))}.")
    return hook


def _path(item: _Sae, folder: Path | None) -> str | None:
    if (item.path is None) == (item.repo is None):
        raise InputError("name either path or repo.", hint="path is a local folder, repo a hub repository.")
    if item.path is None:
        return None
    path = from_home(item.path)
    if not path.is_absolute() and folder is None:
        raise InputError("a relative path in a remote catalogue names nothing.", hint="write the whole path.")
    return os.path.normpath(folder / path if folder else path)


def _check_label(item: _Sae, model: str, hook: HookPoint, aliases: Aliases) -> None:
    if item.neuronpedia_id is None:
        return
    source = LabelSource.parse(item.neuronpedia_id)
    problem = label_problem(
        source, model=model, canonical=aliases.canonical, layer=hook.layer_index, hook=hook, width=item.width
    )
    if problem:
        raise InputError(f"this label source {problem}.", hint="name the labels of this SAE, or none.")


def _problem(
    shown: str, lines: Mapping[Location, int], where: Location, message: str, value: object, hint: str = ""
) -> InputError:
    """An error for one key of the file, with the line of that key or of the nearest thing around it."""
    known = next((where[:n] for n in range(len(where), -1, -1) if where[:n] in lines), ())
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in where) or "the file"
    told = message if message.endswith(".") else f"{message} (got {value!r})."
    return InputError(
        f"{shown}, line {lines.get(known, 1)}: {key}: {told[0].lower()}{told[1:]}",
        hint=hint or f"an SAE takes {', '.join(_Sae.model_fields)}; beside saes there are aliases.",
    )


def _parse(data: bytes, shown: str) -> tuple[Any, dict[Location, int]]:
    """A YAML document's value, and the line (from 1) of each place in it."""
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Location, int] = {}
        _walk(node, (), lines, set(), shown)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{shown}{line}: {error.problem or error.context}.", hint="write plain YAML.") from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "reason", "") or "nested too deeply"
        raise InputError(f"{shown} is no YAML text: {reason}.", hint="write plain YAML.") from None


def _walk(node: yaml.Node, at: Location, lines: dict[Location, int], seen: set[int], shown: str) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if id(node) in seen:  # an alias (*x): its places are known by their anchor, and it may hold itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*at, index), lines, seen, shown)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, item in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else str(line)
            if name in keys:
                raise InputError(f"{shown}, line {line}: {name} is given twice.", hint="keep one of them.")
            keys.add(name)
            lines[(*at, name)] = line
            _walk(item, (*at, name), lines, seen, shown)
