"""Whether a feature analysis from elsewhere is one: every table, every row, before anything is written.

What readers rely on is what is asked: dense ids, sorted rows, places within their windows, finite numbers. An error
is one sentence that names the file, the row (from 1) and the column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.store.analysis import REQUIRED, Analysis

_NULLABLE: Final[Mapping[str, frozenset[str]]] = {
    "documents": frozenset({"domain", "path", "split"}),
    "feature_stats": frozenset({"mean_activation", "max_activation"}),
    "explanations": frozenset(
        {"explanation_id", "run_id", "model", "prompt_hash", "explanation", "rule", "error", "n_examples", "trimmed"}
        | {"created_at"}
    ),
    "scores": frozenset({"run_id", "judge", "control", "value", "ci_low", "ci_high", "n", "n_failed"}),
}
_HINT: Final = "ask for the analysis anew: raylens export features makes it."
_TEXT: Final = 1_000_000
"""Characters of one text."""


def check(analysis: Analysis, name_of: Callable[[str], str] = lambda table: table) -> None:
    """Refuse what is no analysis.

    Args:
        analysis: What was read.
        name_of: What to call a table in errors.

    Raises:
        InputError: Something is wrong.
    """
    tables, header = analysis.tables, analysis.header
    for name in REQUIRED:
        if name not in tables:
            raise InputError(f"{name_of(name)} is missing.", hint=_HINT)
    for name, table in tables.items():
        _Table(name, table, name_of(name)).plain()
    _features(analysis, name_of)
    _texts(analysis, name_of)
    _activations(analysis, name_of)
    for name in ("explanations", "scores"):
        _findings(_Table(name, tables[name], name_of(name)), [one.kind for one in header.passes])


class _Table:
    """A table, and how its faults are told."""

    def __init__(self, name: str, table: pa.Table, file: str) -> None:
        self.name, self.table, self.file = name, table, file

    def column(self, name: str) -> NDArray[Any]:
        return self.table[name].to_numpy()

    def require(self, good: NDArray[np.bool_], column: str, what: str) -> None:
        """Refuse the first row that is not good."""
        if len(good) and not good.all():
            row = int(np.argmin(good))
            raise self.fault(row, column, what)

    def fault(self, row: int, column: str, what: str) -> InputError:
        value = repr(self.table[column][row].as_py())
        shown = value if len(value) <= 60 else f"{value[:60]}…"
        return InputError(f"{self.file}, row {row + 1}: {column} is {shown}, {what}.", hint=_HINT)

    def plain(self) -> None:
        """Nothing is missing, no number is none, no text is endless."""
        try:
            self.table.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InputError(f"{self.file} is damaged: {' '.join(str(error).split())[:200]}.", hint=_HINT) from error
        for field in self.table.schema:
            column = self.table[field.name].combine_chunks()
            if column.null_count and field.name not in _NULLABLE.get(self.name, ()):
                raise self.fault(int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))), field.name, "missing")
            if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
                if column.flatten().null_count:
                    raise InputError(f"{self.file}: {field.name} holds nulls.", hint=_HINT)
            elif pa.types.is_floating(field.type):
                filled = column.fill_null(0.0).to_numpy(zero_copy_only=False)
                self.require(np.isfinite(filled), field.name, "which is no number")
            elif pa.types.is_string(field.type):
                sizes = _call("utf8_length", column).fill_null(0).to_numpy(zero_copy_only=False)
                self.require(sizes <= _TEXT, field.name, f"longer than {_TEXT:,} characters")


def _features(analysis: Analysis, name_of: Callable[[str], str]) -> None:
    """Features are those of the SAE, in order; statistics are of each of them."""
    d_sae = analysis.header.d_sae
    for name, table in analysis.tables.items():
        if "feature" not in table.column_names:
            continue
        one = _Table(name, table, name_of(name))
        feature = one.column("feature")
        one.require((feature >= 0) & (feature < d_sae), "feature", f"and the SAE has {d_sae:,}, counted from 0")
        if name not in ("explanations", "scores"):
            one.require(np.diff(feature, prepend=feature[:1]) >= 0, "feature", "out of order")
        for other in {"neighbour", "other"} & set(table.column_names):
            values = one.column(other)
            one.require((values >= 0) & (values < d_sae), other, f"and the SAE has {d_sae:,}, counted from 0")
    stats = _Table("feature_stats", analysis.tables["feature_stats"], name_of("feature_stats"))
    if stats.table.num_rows != d_sae:
        raise InputError(
            f"{stats.file} has {stats.table.num_rows:,} rows, and the SAE has {d_sae:,} features.", hint=_HINT
        )
    stats.require(stats.column("feature") == np.arange(d_sae), "feature", "where each has a row of its own")
    for column in ("n_active", "n_windows", "density"):
        stats.require(stats.column(column) >= 0, column, "below 0")
    if (stats.table["histogram"].combine_chunks().flatten().to_numpy() < 0).any():
        raise InputError(f"{stats.file}: histogram holds a count below 0.", hint=_HINT)


def _texts(analysis: Analysis, name_of: Callable[[str], str]) -> None:
    """Documents and windows are numbered densely; a token begins within its window's text."""
    documents = _Table("documents", analysis.tables["documents"], name_of("documents"))
    windows = _Table("windows", analysis.tables["windows"], name_of("windows"))
    for one, column in ((documents, "doc_id"), (windows, "window_id")):
        one.require(one.column(column) == np.arange(one.table.num_rows), column, "where they count from 0")
    owners = windows.column("doc_id")
    windows.require((owners >= 0) & (owners < documents.table.num_rows), "doc_id", "and there is no such document")
    ids = windows.table["token_ids"].combine_chunks()
    windows.require(_lengths(ids) <= np.iinfo(np.int16).max, "token_ids", "more than a window can have")
    if (ids.flatten().to_numpy() < 0).any():
        raise InputError(f"{windows.file}: token_ids holds an id below 0.", hint=_HINT)
    offsets = windows.table["token_offsets"].combine_chunks()
    windows.require(_lengths(offsets) == _lengths(ids), "token_offsets", "not one for each token")
    sizes = _call("utf8_length", windows.table["text"].combine_chunks()).to_numpy(zero_copy_only=False)
    flat, row = offsets.flatten().to_numpy(), np.repeat(np.arange(len(sizes)), _lengths(offsets))
    rises = (np.diff(flat, prepend=flat[:1]) >= 0) | (np.diff(row, prepend=-1) > 0)
    good = np.ones(len(sizes), bool)
    np.logical_and.at(good, row, rises & (flat >= 0) & (flat <= sizes[row]))
    windows.require(good, "token_offsets", "which are no places in its text")


def _activations(analysis: Analysis, name_of: Callable[[str], str]) -> None:
    """Rows lie as a merge would have them, each on a token of its window."""
    one = _Table("activations", analysis.tables["activations"], name_of("activations"))
    feature, peak, window, position, value = (one.column(name) for name in one.table.column_names)
    lengths = _lengths(analysis.tables["windows"]["token_ids"].combine_chunks())
    one.require((window >= 0) & (window < len(lengths)), "window_id", "and there is no such window")
    one.require((position >= 0) & (position < lengths[window]), "position", "and its window has no such token")
    one.require(value > 0, "activation", "which is not above 0")
    one.require(peak > 0, "peak", "which is not above 0")
    if not len(feature):
        return
    same_feature = np.diff(feature, prepend=-1) == 0
    same_window = same_feature & (np.diff(window, prepend=-1) == 0)
    falls = np.diff(peak, prepend=np.inf)
    one.require(~same_feature | (falls <= 0), "peak", "out of order: a feature's strongest windows come first")
    one.require(~same_window | (falls == 0), "peak", "another than before in the same window")
    one.require(~same_window | (np.diff(position, prepend=-1) > 0), "position", "out of order")
    tied = same_feature & ~same_window & (falls == 0)
    one.require(~tied | (np.diff(window, prepend=-1) > 0), "window_id", "out of order")
    first = np.flatnonzero(~same_window)
    groups = np.stack([feature[first].astype(np.int64), window[first].astype(np.int64)])
    if len(np.unique(groups, axis=1)[0]) != len(first):
        raise InputError(f"{one.file}: a feature has the same window twice.", hint=_HINT)
    largest = np.maximum.reduceat(value, first)
    # On special tokens a feature may be stronger than its peak, and never weaker on all others.
    one.require(
        np.repeat(largest, np.diff(np.append(first, len(value)))) >= peak, "peak", "and no token is that strong"
    )
    most = analysis.header.top
    counts = np.unique(feature[first], return_counts=True)
    if len(first) and counts[1].max() > most:
        raise InputError(
            f"{one.file}: feature {int(counts[0][counts[1].argmax()])} has {int(counts[1].max()):,} windows, and the "
            f"analysis says at most {most:,}.",
            hint=_HINT,
        )


def _findings(one: _Table, kinds: list[str]) -> None:
    """Each row is of a pass of its kind, and says what its status says."""
    known = np.array([kind == one.name for kind in kinds] or [False])
    number = one.column("pass")
    inside = (number >= 0) & (number < len(kinds))
    one.require(inside & known[np.where(inside, number, 0)], "pass", "and the header has no such pass")
    if one.name == "explanations":
        is_ok = np.array([status == "ok" for status in one.table["status"].to_pylist()], bool)
        for column in ("explanation", "explanation_id"):
            there = one.table[column].is_valid().to_numpy()
            one.require(there | ~is_ok, column, "missing, and its status is ok")


def _call(function: str, array: pa.Array) -> pa.Array:
    """A function of Arrow by name: pyarrow makes them at run time, unseen by type checkers."""
    return pc.call_function(function, [array])


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    return _call("list_value_length", lists).to_numpy(zero_copy_only=False).astype(np.int64)
