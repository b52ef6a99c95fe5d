"""``--text`` items, parsed once, strictly.

==============================  =================================================================
form                            names
==============================  =================================================================
``stdlib``                      the running CPython's sources and reference text; ``stdlib:train``
                                and ``stdlib:held_out`` are its two parts, ``stdlib:tests`` are its
                                test folders, which belong to neither
``<path>``                      a file, a folder (all text files below it) or a glob, which may hold
                                ``**``; .txt, .jsonl (also .gz, .zst), .parquet, .csv
``hf:<repo>[:<config>][:<split>]``  a data set of the hub, streamed
==============================  =================================================================

A lone third part of ``hf:`` is a split if it is one of the usual split names or has a slice, else a
config; ``hf:repo:config:split`` and ``hf:repo::split`` leave nothing to guess. A split may be cut:
``train[:1%]``, ``train[1000:2000]``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from raylens.errors import InputError
from raylens.home import from_home

DEFAULT_COLUMN = "text"

_USUAL_SPLITS = frozenset({"train", "test", "validation", "valid", "val", "dev", "eval", "unlabeled", "unsupervised"})
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPO = re.compile(rf"{_NAME}(?:/{_NAME})?", re.ASCII)
_CONFIG = re.compile(r"[\w.+-]+")
_SPLIT = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:\[(?P<low>\d+%?)?:(?P<high>\d+%?)?\])?", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class StdlibSource:
    """The standard library's text."""

    spec: str
    part: Literal["all", "train", "held_out", "tests"]


@dataclass(frozen=True, slots=True)
class FileSource:
    """Local files; ``pattern`` is absolute, so that every process reads the same ones."""

    spec: str
    pattern: str
    column: str


@dataclass(frozen=True, slots=True)
class SplitSlice:
    """``name[low:high]`` of a data set, in rows, or in percent of the split's rows."""

    name: str
    low: int = 0
    high: int | None = None
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> SplitSlice:
        """Parse ``train``, ``train[:1%]``, ``train[100:]``.

        Raises:
            InputError: it is none of these, is empty, mixes rows and percent, or goes beyond 100 %.
        """
        match = _SPLIT.fullmatch(text)
        bounds = [bound for bound in (match["low"], match["high"]) if bound] if match else []
        percent = any(bound.endswith("%") for bound in bounds)
        if match and all(bound.endswith("%") == percent for bound in bounds):
            low = int((match["low"] or "0").rstrip("%"))
            high = int(match["high"].rstrip("%")) if match["high"] else None
            if (high is None or low < high) and not (percent and max(low, high or 0) > 100):
                return cls(match["name"], low, high, percent)
        raise InputError(
            f"{text!r} is not a split of a data set.", hint="write train, train[:1%], train[1000:2000] or the like."
        )

    def rows(self, n_rows: int) -> tuple[int, int]:
        """First row and one past the last, of a split of ``n_rows``; percent are rounded to the nearest row."""
        low, high = self.low, n_rows if self.high is None else self.high
        if self.percent:
            low = round(self.low * n_rows / 100)
            high = n_rows if self.high is None else round(self.high * n_rows / 100)
        return min(low, n_rows), min(high, n_rows)

    def __str__(self) -> str:
        sign = "%" if self.percent else ""
        if self.low == 0 and self.high is None:
            return self.name
        return f"{self.name}[{self.low}{sign}:{'' if self.high is None else f'{self.high}{sign}'}]"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set of the hub; without a config it is the repository's default one.

    ``revision`` is a commit; the newest where it is None.
    """

    spec: str
    repo: str
    config: str | None
    split: SplitSlice
    column: str
    revision: str | None = None


TextSource: TypeAlias = StdlibSource | FileSource | HubSource


def parse_source(spec: str, column: str | None = None) -> TextSource:
    """Parse one ``--text`` item; nothing is opened.

    Args:
        spec: The item as the user wrote it.
        column: Column that holds text or chat messages; ``text`` by default. Unused by .txt and stdlib.

    Raises:
        InputError: ``spec`` is none of the forms.
    """
    column = column or DEFAULT_COLUMN
    if not spec.strip():
        raise InputError("a text source is empty.", hint="write stdlib, a path, or hf:owner/name.")
    if spec == "stdlib":
        return StdlibSource(spec, "all")
    if spec.startswith("stdlib:"):
        part = spec.removeprefix("stdlib:")
        if part not in ("train", "held_out", "tests"):
            raise InputError(
                f"{spec!r} names no part of the standard library.",
                hint="write stdlib, stdlib:train, stdlib:held_out or stdlib:tests.",
            )
        return StdlibSource(spec, part)
    if spec.startswith("hf:") and not spec.startswith("hf://"):
        return _parse_hub(spec, column)
    if _URL.match(spec):
        raise InputError(
            f"{spec!r} is a URL, and text is read from local files or the hub.",
            hint="download it and give the path, or write hf:owner/name for a data set of the hub.",
        )
    return FileSource(spec, str(from_home(spec).absolute()), column)


def _parse_hub(spec: str, column: str) -> HubSource:
    repo, *rest = spec.removeprefix("hf:").split(":")
    # A slice holds a colon itself: put back together what lies between brackets.
    parts: list[str] = []
    for piece in rest:
        if parts and parts[-1].count("[") > parts[-1].count("]"):
            parts[-1] += f":{piece}"
        else:
            parts.append(piece)
    if len(parts) == 1:
        is_split = parts[0] in _USUAL_SPLITS or "[" in parts[0]
        parts = ["", parts[0]] if is_split else [parts[0], "train"]
    config, split = parts if len(parts) == 2 else ("", "train")
    if not _REPO.fullmatch(repo) or len(parts) > 2 or (config and not _CONFIG.fullmatch(config)) or not split:
        raise InputError(
            f"{spec!r} does not name a data set.",
            hint="write hf:owner/name, hf:owner/name:config or hf:owner/name:config:split.",
        )
    return HubSource(spec, repo, config or None, SplitSlice.parse(split), column)
