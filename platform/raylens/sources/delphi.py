"""Reading what EleutherAI's delphi left on disk: latents, explanations and scores.

::

    <run>/run_config.json                                        what was run (explainer model, SAE)
    <run>/latents/<hookpoint>/config.json                        data set, context length, model name
    <run>/latents/<hookpoint>/<first>_<last>.safetensors         latents first … last, both inclusive:
        locations    [nnz, 3] unsigned: row, position, latent - first; in order of row and position
        activations  [nnz] float16
        tokens       [rows, ctx_len]: the same in every split
    <run>/explanations/<hookpoint>_latent<N>.txt                 a JSON string
    <run>/scores/<scorer>/<hookpoint>_latent<N>.txt              JSON; slashes of the hookpoint as --

Everything is checked before it is used, and read in slices: a split need not fit into memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError

LARGEST: Final = 65504.0
"""The largest float16: what was stronger is stored as infinity."""

UNPARSED: Final = ("Explanation could not be parsed.", "No explanation found")
"""What delphi writes in place of an explanation."""

_SPLIT: Final = re.compile(r"([0-9]+)_([0-9]+)\.safetensors")
_LATENT: Final = re.compile(r"(.+)_latent([0-9]+)\.txt")
_LAYER: Final = re.compile(r"(?:^|[./_])(?:layers?|h|blocks?)[._]?([0-9]+)(?![0-9])")
_CHUNK: Final = 1 << 21
_RIGHT_FOLDER: Final = "name the folder of a delphi run, with latents/ in it, or that latents folder itself."


@dataclass(frozen=True, slots=True)
class Explained:
    """One explanation.

    Attributes:
        latent: Of which latent.
        text: What it says; None where delphi could not parse the reply.
        at: When its file was written, UTC.
    """

    latent: int
    text: str | None
    at: datetime


class Split:
    """One file: latents ``first … last`` of a hookpoint.

    Args:
        path: The file.
        first: Its smallest latent.
        last: Its largest.

    Raises:
        InputError: It is no safetensors file, or its tensors are not delphi's.
    """

    def __init__(self, path: Path, first: int, last: int) -> None:
        from safetensors import SafetensorError, safe_open

        self.path, self.first, self.last = path, first, last
        try:
            self._file: Any = safe_open(path, framework="numpy")
            names = set(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error).splitlines()[0] if str(error) else "it cannot be read") from error
        if missing := sorted({"locations", "activations"} - names):
            raise _damaged(path, f"it has no tensor {missing[0]!r}")
        self.has_tokens = "tokens" in names
        shapes = {name: self._slice(name).get_shape() for name in ("locations", "activations")}
        self.n = shapes["locations"][0] if shapes["locations"] else 0
        if shapes["locations"] != [self.n, 3] or shapes["activations"] != [self.n]:
            raise _damaged(path, f"locations {shapes['locations']} and activations {shapes['activations']} do not fit")
        kinds = self._slice("locations").get_dtype()[0], self._slice("activations").get_dtype()
        if kinds[0] not in "UI" or kinds[1] not in {"F16", "F32", "F64"}:
            raise _damaged(path, f"its tensors are of types {kinds[0]} and {kinds[1]}")

    def tokens(self) -> NDArray[np.int64]:
        """``[rows, ctx_len]`` token ids.

        Raises:
            InputError: They are not a table of whole numbers.
        """
        part = self._slice("tokens")
        if len(part.get_shape()) != 2 or part.get_dtype()[0] not in "UI" or 0 in part.get_shape():
            raise _damaged(self.path, f"its tokens have shape {part.get_shape()}")
        return self._file.get_tensor("tokens").astype(np.int64)

    def read(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Activations ``begin … end - 1``: ``[n, 3]`` row, position and latent (of the SAE), and ``[n]`` values."""
        if begin == end:
            return np.zeros((0, 3), np.int64), np.zeros(0, np.float32)
        places = self._slice("locations")[begin:end].astype(np.int64)
        places[:, 2] += self.first
        with np.errstate(over="ignore"):
            return places, self._slice("activations")[begin:end].astype(np.float32)

    def ends_of_blocks(self, n_rows: int, ctx_len: int, block_rows: int) -> NDArray[np.int64]:
        """Where each block of ``block_rows`` rows ends among the activations: ``[blocks]``; all of them are checked.

        Raises:
            InputError: A place is outside the tokens or the split, rows are not in order, or a value is no number.
        """
        counts = np.zeros(-(-n_rows // block_rows), np.int64)
        largest = np.array([n_rows, ctx_len, self.last + 1])
        last = 0
        for begin in range(0, self.n, _CHUNK):
            places, values = self.read(begin, min(begin + _CHUNK, self.n))
            if (places < 0).any() or (places >= largest).any():
                worst = places[(places >= largest).any(axis=1) | (places < 0).any(axis=1)][0].tolist()
                raise _damaged(
                    self.path, f"it names row {worst[0]}, position {worst[1]}, latent {worst[2]}, which do not exist"
                )
            order = places[:, 0] * ctx_len + places[:, 1]
            if (np.diff(order) < 0).any() or order[0] < last:
                raise _damaged(self.path, "its rows are not in order")
            if np.isnan(values).any():
                raise _damaged(self.path, "it holds values that are no numbers")
            last = int(order[-1])
            counts += np.bincount(places[:, 0] // block_rows, minlength=len(counts))
        return np.cumsum(counts)

    def _slice(self, name: str) -> Any:
        return self._file.get_slice(name)


class Hookpoint:
    """The latents of one SAE.

    Args:
        name: As delphi names it: a path below ``latents``.
        folder: Where its splits are.

    Raises:
        InputError: A file is damaged, or splits are missing.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.config = _json_object(folder / "config.json")
        named = ((path, _SPLIT.fullmatch(path.name)) for path in sorted(folder.iterdir()))
        bounds = sorted((int(match[1]), int(match[2]), path) for path, match in named if match)
        expected = 0
        for first, last, path in bounds:
            if first != expected or last < first:
                raise InputError(
                    f"latents {expected} to {first - 1} of {name} are missing: {path.name} follows."
                    if first > expected
                    else f"{path} overlaps the split before it.",
                    hint="copy the whole folder of the hookpoint.",
                )
            expected = last + 1
        self.splits = [Split(path, first, last) for first, last, path in bounds]
        self.d_sae = expected

    @property
    def layer(self) -> int | None:
        """The layer that its name says."""
        match = _LAYER.search(self.name)
        return int(match[1]) if match else None

    def tokens(self) -> NDArray[np.int64]:
        """``[rows, ctx_len]``, which every split repeats.

        Raises:
            InputError: No split has them, or two differ.
        """
        having = [split for split in self.splits if split.has_tokens]
        if not having:
            raise InputError(
                f"the latents of {self.name} were saved without tokens, so there is no text to show.",
                hint="cache them again with delphi's save_tokens, its default.",
            )
        found = having[0].tokens()
        for other in having[1:]:
            if not np.array_equal(other.tokens(), found):
                raise _damaged(other.path, f"its tokens are not those of {having[0].path.name}")
        return found


class DelphiRun:
    """A run of delphi on disk.

    Args:
        folder: The run's folder, or its ``latents``.
        hookpoints: Which to read; all by default.

    Raises:
        InputError: It is no such folder, has no such hookpoint, or a file is damaged.
    """

    def __init__(self, folder: Path, hookpoints: Sequence[str] | None = None) -> None:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}.", hint=_RIGHT_FOLDER)
        latents = folder / "latents" if (folder / "latents").is_dir() else folder
        self.root = latents.parent if latents.name == "latents" else folder
        folders = sorted({path.parent for path in latents.rglob("*.safetensors") if _SPLIT.fullmatch(path.name)})
        known = {path.relative_to(latents).as_posix(): path for path in folders if path != latents}
        if not known:
            raise InputError(f"{folder} holds no latents that delphi cached.", hint=_RIGHT_FOLDER)
        for name in hookpoints or ():
            if name not in known:
                raise InputError(f"{folder} has no hookpoint {name!r}.", hint=f"there are {', '.join(known)}.")
        self.hookpoints = [Hookpoint(name, known[name]) for name in (hookpoints or known)]
        configured = self.root / "run_config.json"
        self.config = _json_object(configured) if configured.exists() else {}

    @cached_property
    def model(self) -> str | None:
        """The model whose latents these are."""
        named = self.hookpoints[0].config.get("model_name") or self.config.get("model")
        return str(named) if named else None

    def explanations(self, hookpoint: Hookpoint) -> list[Explained]:
        """All explanations of a hookpoint's latents, in order of latent.

        Raises:
            InputError: A file is damaged, or about a latent that does not exist.
        """
        found: list[Explained] = []
        for latent, path in _files(self.root / "explanations", hookpoint, hookpoint.name):
            text = _json(path)
            if not isinstance(text, str):
                raise _damaged(path, f"it holds a {type(text).__name__}, not a text")
            said = text.strip()
            at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            found.append(Explained(latent, said if said and said not in UNPARSED else None, at))
        return sorted(found, key=lambda one: one.latent)

    def scores(self, hookpoint: Hookpoint) -> dict[str, dict[int, list[dict[str, Any]]]]:
        """By scorer and latent, what delphi wrote; raises as :meth:`explanations`."""
        folder = self.root / "scores"
        found: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for scorer in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ():
            by_latent = found.setdefault(scorer.name, {})
            for latent, path in _files(scorer, hookpoint, hookpoint.name.replace("/", "--")):
                value = _json(path)
                if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                    raise _damaged(path, "it holds no list of answers")
                by_latent[latent] = value
        return found


def _files(folder: Path, hookpoint: Hookpoint, name: str) -> Iterator[tuple[int, Path]]:
    for path in sorted(folder.rglob("*.txt")):
        match = _LATENT.fullmatch(path.relative_to(folder).as_posix())
        if match and match[1] == name:
            if int(match[2]) >= hookpoint.d_sae:
                raise InputError(
                    f"{path} is about latent {match[2]}, and {hookpoint.name} has {hookpoint.d_sae}.",
                    hint="the explanations and latents of this folder are of different SAEs.",
                )
            yield int(match[2]), path


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    except OSError as error:
        raise _damaged(path, error.strerror or "it cannot be read") from error


def _json_object(path: Path) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds a {type(value).__name__}")
    return value


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is not what delphi writes: {why}.", hint="copy the folder again, or make it anew.")
