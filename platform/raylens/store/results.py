"""``results/<name>/``: what one run found, as files that people and other programs open without RayLens (A1.10).

::

    results/<name>/run_config.json                                  every setting, and what was made with it
    results/<name>/explanations/<hook point>_latent<index>.json     one explanation
    results/<name>/scores/<scorer>/<hook point>_latent<index>.json  its figures by one scorer
    results/<name>/latents/<hook point>/<first>_<last>.parquet      activations of these latents
    results/<name>/latents/windows.parquet                          the text and tokens they lie in

The workspace stays the source of truth; this tree is copied out of it and may be deleted. Each file is
written whole or not at all. A rerun with the same settings adds what is missing; a rerun with others is
refused unless the results that they change are to be overwritten.

Latents are Parquet and not safetensors splits: pandas, polars and DuckDB read them as they are, a file
holds about a third of the bytes, activations beyond 65 504 stay what they are, and a latent's rows are
found through the file's own statistics. Names of files are those that users of delphi know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.ids import SaeId, digest
from raylens.store.files import Files
from raylens.store.parquet import ACTIVATIONS, WINDOWS, TableFile, table_writer
from raylens.store.reader import CacheReader
from raylens.store.redact import plain_settings

Stage = Literal["cache", "neighbours", "explanations", "scores"]
STAGES: Final[tuple[Stage, ...]] = ("cache", "neighbours", "explanations", "scores")
"""In the order in which one makes the next."""

CONFIG: Final = "run_config.json"
_MADE: Final = "made"
_WINDOWS: Final = "latents/windows"
_FOLDERS: Final[Mapping[Stage, tuple[str, ...]]] = {
    "cache": ("latents", "explanations", "scores"),
    "neighbours": ("explanations", "scores"),
    "explanations": ("explanations", "scores"),
    "scores": ("scores",),
}
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+@-]{0,99}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._=+@-]+")
_SKIPPED: Final = frozenset({"dead", "too_few", "one_sided"})
"""Statuses of latents without enough examples: counted in ``run_config.json``, and no file each."""
_REMEDY: Final = "run the same command again: it merges anew from what is stored."


def checked_name(name: str) -> str:
    """``name`` if it can be a folder's name on any file system.

    Raises:
        InputError: It cannot.
    """
    if _NAME.fullmatch(name):
        return name
    raise InputError(
        f"{name!r} cannot name a folder of results.",
        hint="use letters, digits and . _ - + = @, at most 100, and no slash or leading dot.",
    )


def file_word(text: str) -> str:
    """``text`` as part of a file's name: a run of other characters becomes one ``-``."""
    return _UNSAFE.sub("-", text).strip("-.") or "_"


class ResultsTree:
    """The folder of one run.

    Args:
        base: The folder that holds ``name``; a local path or an ``s3://`` address.
        name: As :func:`checked_name` takes it.

    Raises:
        InputError: The name or the folder cannot be used.
    """

    def __init__(self, base: str, name: str) -> None:
        self.files = Files.open(f"{base.rstrip('/') or '/'}/{checked_name(name)}")

    @property
    def url(self) -> str:
        return self.files.url

    def refuse_unless_mine(
        self, settings: Mapping[str, object], stages: Mapping[str, Stage], overwrite: Sequence[Stage]
    ) -> None:
        """See whether results with these settings may be written here; nothing is.

        Args:
            settings: All of the run's.
            stages: Of those that determine results, the first results that they determine.
            overwrite: What the user lets go.

        Raises:
            InputError: The folder holds something else, or results of other settings that stay.
        """
        known = self._known()
        if known is None:
            return
        now = _as_stored(settings)
        lost = min((STAGES.index(stage) for stage in overwrite), default=len(STAGES))
        for name, stage in stages.items():
            if name in known and known[name] != now.get(name) and STAGES.index(stage) < lost:
                raise InputError(
                    f"{self.url} holds results with {name} {_short(known[name])}, and this run has "
                    f"{_short(now.get(name))}.",
                    hint=f"name another folder with --name, or let these go with --overwrite {stage}.",
                )

    def begin(self, settings: Mapping[str, object], overwrite: Sequence[Stage]) -> None:
        """Remove what is overwritten and write the settings; call :meth:`refuse_unless_mine` first."""
        made = (self._known() or {}).get(_MADE, {})
        for folder in sorted({folder for stage in overwrite for folder in _FOLDERS[stage]}):
            self.files.delete(folder, recursive=True)
            if folder == "latents":
                made = {}
        self._write(CONFIG, {**_as_stored(settings), _MADE: made})

    def note(self, about: str, made: Mapping[str, object]) -> None:
        """Add to ``run_config.json`` what was made, of the SAE at hook point ``about`` say."""
        known = self._known() or {}
        all_made = dict(known.get(_MADE, {}))
        all_made[about] = {**all_made.get(about, {}), **_as_stored(made)}
        self._write(CONFIG, {**known, _MADE: all_made})

    def write_latents(
        self, source: Files, reader: CacheReader, sae: SaeId, about: str, features: Sequence[int], n_splits: int
    ) -> dict[str, object]:
        """Export the activations of some latents in at most ``n_splits`` files, and the windows they lie in.

        Memory is that of a few row groups, however many activations there are. What was exported of the same
        merged files and holds these latents is left as it is; latents that were exported before stay.

        Args:
            source: The workspace that ``reader`` reads.
            reader: The cache.
            sae: Whose latents.
            about: The hook point, as file names have it.
            features: Which, rising.
            n_splits: Files at most.

        Returns:
            What to :meth:`note`: which latents, and a hash of the merged files that they come from.
        """
        folder, merged = f"latents/{about}", _made_of(reader, "activations", sae)
        before = self._made(about)
        there = set(_numbers(before["latents"])) if before.get("merged") == merged else set()
        wanted = sorted(there.union(features))
        made: dict[str, object] = {"latents": _ranges(wanted), "n_splits": n_splits, "merged": merged}
        windows = _made_of(reader, "windows")
        if self._made(_WINDOWS).get("merged") != windows:
            with table_writer(self.files, f"{_WINDOWS}.parquet", WINDOWS) as writer:
                for table in _windows(source, reader):
                    writer.append(table)
            self.note(_WINDOWS, {"merged": windows})
        if all(before.get(name) == value for name, value in made.items()) and self.files.list(folder):
            return made
        kept: set[str] = set()
        for chunk in np.array_split(np.array(wanted, np.int64), min(n_splits, len(wanted)) or 1):
            path = f"{folder}/{chunk[0]}_{chunk[-1]}.parquet"
            with table_writer(self.files, path, ACTIVATIONS) as writer:
                for table in _activations(source, reader, sae, chunk):
                    writer.append(table)
            kept.add(path)
        for path in set(self.files.list(folder)) - kept:
            self.files.delete(path)
        return made

    def write_explanations(self, about: str, sae: SaeId, cache_id: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """One file for each latent that an explainer was given; returns how many there are.

        Args:
            about: The hook point, as file names have it.
            sae: Whose latents.
            cache_id: Of which cache.
            rows: Of ``schema.EXPLANATIONS``.
        """
        found = 0
        for row in rows:
            if row["status"] in _SKIPPED:
                continue
            rule = json.loads(row["rule"]) if row.get("rule") else None
            values = {"sae": str(sae), "latent": row["feature"], "cache_id": cache_id, **row, "rule": rule}
            del values["feature"]
            self._write(f"explanations/{about}_latent{row['feature']}.json", values)
            found += 1
        return found

    def write_scores(self, about: str, sae: SaeId, cache_id: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """One file for each latent and scorer; returns how many there are.

        A file holds each metric with its interval, of the latent's own explanation and, under ``shuffled``,
        of another latent's, which shows what chance gives. ``rows`` are of ``schema.SCORES``, in order of feature;
        the other arguments are those of :meth:`write_explanations`.
        """
        n_files = 0
        for feature, of_latent in groupby(rows, key=itemgetter("feature")):
            files: dict[str, dict[str, Any]] = {}
            for row in of_latent:
                begun = {"sae": str(sae), "latent": feature, "cache_id": cache_id, "scorer": row["scorer"]}
                one = files.setdefault(f"scores/{file_word(row['scorer'])}/{about}_latent{feature}.json", begun)
                figures = {name: row[name] for name in ("value", "ci_low", "ci_high", "n", "n_failed")}
                if row["control"] is None:
                    one |= {name: row[name] for name in ("explanation_id", "explainer", "judge", "run_id")}
                one.setdefault("metrics" if row["control"] is None else row["control"], {})[row["metric"]] = figures
            for path, values in files.items():
                self._write(path, values)
            n_files += len(files)
        return n_files

    def _write(self, path: str, values: Mapping[str, object]) -> None:
        """Commit JSON, unless the very same is there."""
        data = json.dumps(_plain(values), indent=1, ensure_ascii=False).encode()
        try:
            if self.files.read_bytes(path) == data:
                return
        except FileNotFoundError:
            pass
        self.files.commit(path, data)

    def _known(self) -> dict[str, Any] | None:
        try:
            return self.files.read_json(CONFIG)
        except FileNotFoundError:
            if self.files.list() or self.files.folders():
                raise InputError(
                    f"{self.url} is not empty and holds no {CONFIG}, so it is no folder of results.",
                    hint="name another one with --name or --results_dir.",
                ) from None
            return None

    def _made(self, about: str) -> dict[str, Any]:
        return (self._known() or {}).get(_MADE, {}).get(about, {})


def _as_stored(settings: Mapping[str, object]) -> dict[str, Any]:
    """What ``run_config.json`` gives back: plain JSON, and nothing that may be secret."""
    return plain_settings(settings)


def _plain(value: object) -> object:
    """``value`` as JSON: times as ISO 8601, and what is no number as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Iterable):
        return [_plain(one) for one in value]
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if callable(isoformat) else str(value)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _made_of(reader: CacheReader, kind: Literal["windows", "activations"], sae: SaeId | None = None) -> str:
    """Names the content of a merged table: a later merge that changes nothing keeps its files."""
    return digest({"files": sorted(entry.path for entry in reader.manifest.of(kind, sae))})[:16]


def _windows(source: Files, reader: CacheReader) -> Iterator[pa.Table]:
    """Every window of a cache, a row group at a time."""
    for entry in reader.manifest.of("windows"):
        with TableFile(source, entry.path, remedy=_REMEDY) as file:
            yield from (file.read_group(group) for group in range(file.n_groups))


def _activations(source: Files, reader: CacheReader, sae: SaeId, features: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Activations of some latents (``[n]``, rising), in order, a row group at a time."""
    for entry in sorted(reader.manifest.of("activations", sae), key=lambda one: one.feature_first or 0):
        with TableFile(source, entry.path, remedy=_REMEDY) as file:
            first, last = file.bounds("feature")
            holds = np.searchsorted(features, first, "left") < np.searchsorted(features, last, "right")
            for group in np.flatnonzero(holds).tolist():
                rows = file.read_group(group)
                yield rows.filter(pa.array(np.isin(rows["feature"].to_numpy(), features)))


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers, runs of them shortened: ``0-19,40``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _numbers(ranges: str) -> Iterator[int]:
    """What :func:`_ranges` shortened."""
    for run in filter(None, ranges.split(",")):
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)
