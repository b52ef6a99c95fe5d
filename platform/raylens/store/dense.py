"""Dense activations as Parquet: what ``raylens record`` writes, and ``train`` and ``evaluate`` read.

A record is a folder, in a workspace (``records/<name>``) or anywhere::

    record.json               what was recorded, and everything that determines it
    lock/<token>.json         who may write it
    shards/00000000.parquet   one row a token, one list column a hook point
    shards/00000000.json      the shard's manifest row: written last, it makes the shard exist

Shards follow one another without gaps, so a reader that finds no row for shard k knows that there
are k. Rows of special tokens (BOS) are kept and marked; training and metrics leave them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from raylens.errors import DamagedFileError, InputError, RunError, UnknownNameError
from raylens.home import from_home
from raylens.ids import HookPoint, digest
from raylens.store.files import Files
from raylens.store.lock import Lock, acquire
from raylens.store.parquet import Layout, TableFile, table_writer

FORMAT: Final = "raylens.dense.v1"
GROUP_ROWS: Final = 8192
TOKEN_COLUMNS: Final = (
    ("window_id", pa.int32()),
    ("doc_id", pa.int32()),
    ("position", pa.int32()),  # within the window, BOS at 0
    ("token_id", pa.int32()),
    ("special", pa.bool_()),
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_REMEDY: Final = "remove that file and its .json, and run raylens record again: it makes only what is missing."


class RecordInfo(BaseModel):
    """What a record holds; everything here but ``texts`` determines the shards.

    Attributes:
        model: Reference of the model.
        revision: What fixes its weights.
        hooks: The recorded points.
        widths: Width of each.
        stored_dtype: Of the values on disk.
        ctx_len: Tokens per window, BOS included.
        prefix_ids: What every window begins with (BOS), special tokens all.
        shard_windows: Windows per shard.
        texts: The ``--text`` items.
        corpus: Fingerprint of each text.
        settings: Seed, packing, device, dtype …
    """

    model_config = ConfigDict(frozen=True)

    model: str
    revision: str
    hooks: tuple[str, ...]
    widths: tuple[int, ...]
    stored_dtype: Literal["float16", "float32"]
    ctx_len: int
    prefix_ids: tuple[int, ...]
    shard_windows: int
    texts: tuple[str, ...]
    corpus: tuple[dict[str, Any], ...]
    settings: dict[str, Any]

    @property
    def identity(self) -> str:
        """Equal for records whose shards may stand side by side."""
        return digest(self.model_dump(mode="json", exclude={"texts"}))

    def column(self, hook: str | None) -> tuple[str, int]:
        """Name and width of the column of ``hook``, which may be left out where there is one.

        Raises:
            UnknownNameError: It was not recorded, or several were and none is named.
        """
        if hook is None and len(self.hooks) == 1:
            hook = self.hooks[0]
        if hook is None or hook not in self.hooks:
            raise UnknownNameError.among("recorded hook point", hook or "(none named)", self.hooks)
        return column_name(hook), self.widths[self.hooks.index(hook)]

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of a shard."""
        kind = pa.float16() if self.stored_dtype == "float16" else pa.float32()
        lists = [
            (column_name(hook), pa.list_(kind, width)) for hook, width in zip(self.hooks, self.widths, strict=True)
        ]
        return pa.schema([*TOKEN_COLUMNS, *lists])


@dataclass(frozen=True, slots=True)
class DenseShard:
    """The manifest row of one shard.

    Attributes:
        index: From 0, without gaps.
        name: Hash of the record's identity and of the tokens in it.
        n_rows: Tokens, special ones included.
        n_special: Special tokens among them.
        window_first: Its first window.
        n_windows: Windows in it; fewer than a full shard's only in the last.
        bytes: Size on disk.
        cursor: The place in the text after it.
    """

    index: int
    name: str
    n_rows: int
    n_special: int
    window_first: int
    n_windows: int
    bytes: int
    cursor: Mapping[str, int]

    @property
    def n_text(self) -> int:
        return self.n_rows - self.n_special


@dataclass(frozen=True, slots=True)
class DenseTokens:
    """The tokens of a shard, window after window; all arrays are ``[n]``."""

    window_id: NDArray[np.int32]
    doc_id: NDArray[np.int32]
    position: NDArray[np.int32]
    token_id: NDArray[np.int32]
    special: NDArray[np.bool_]


class _Layout(Layout):
    """float16 is stored plain: DuckDB reads no byte-stream-split halves (and split saves 8 % only)."""

    def _encoding(self, path: str, kind: pa.DataType) -> str:
        return "PLAIN" if pa.types.is_float16(kind) else Layout._encoding(self, path, kind)


class DenseRecord:
    """One record: ``folder`` below the root of ``files`` (empty for the root itself)."""

    def __init__(self, files: Files, folder: str, info: RecordInfo) -> None:
        self.files = files
        self.folder = folder
        self.info = info

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.files, self.folder, self.info)

    @classmethod
    def open(cls, files: Files, folder: str = "") -> Self:
        """The record that is there.

        Raises:
            InputError: There is none.
            DamagedFileError: Its description cannot be read.
        """
        path = _join(folder, "record.json")
        try:
            values = files.read_json(path)
        except FileNotFoundError:
            raise InputError(
                f"{files.native(folder)} holds no recorded activations.", hint="raylens record --out makes them."
            ) from None
        try:
            if values["format"] != FORMAT:
                raise InputError(
                    f"{files.native(folder)} is in format {values['format']!r}, not {FORMAT!r}.",
                    hint="record it again.",
                )
            return cls(files, folder, RecordInfo.model_validate(values))
        except (KeyError, ValidationError) as error:
            raise DamagedFileError(
                f"{files.native(path)} does not describe a record.", hint="restore it, or record into another folder."
            ) from error

    @classmethod
    def create(cls, files: Files, folder: str, info: RecordInfo) -> Self:
        """The record there, which must be of the same activations, or a new one.

        Raises:
            InputError: The folder holds another record.
        """
        path = _join(folder, "record.json")
        if files.exists(path):
            found = cls.open(files, folder)
            if found.info.identity != info.identity:
                raise InputError(
                    f"{files.native(folder)} holds other activations ({_differences(found.info, info)} differ).",
                    hint="name another --out, or remove that folder.",
                )
        else:
            files.commit_json(path, {"format": FORMAT, **info.model_dump(mode="json")})
        return cls(files, folder, info)

    def discard_if_empty(self) -> None:
        """Take away a record that holds not one shard; what else is in the folder stays.

        Not :meth:`shards`, which ends at the first gap: behind it may be others.
        """
        if any(path.endswith(".json") for path in self.files.list(_join(self.folder, "shards"))):
            return
        for part in ("shards", "lock"):
            self.files.delete(_join(self.folder, part), recursive=True)
        self.files.delete(_join(self.folder, "record.json"))

    def lock(self, owner: str) -> Lock:
        """Hold the right to write, as run ``owner``; BusyError where another run holds it."""
        return acquire(self.files, _join(self.folder, "lock"), owner, what=f"record {self.files.native(self.folder)}")

    def row(self, index: int) -> DenseShard | None:
        """The manifest row of one shard; None where it does not exist yet."""
        path = self._path(index, "json")
        try:
            return DenseShard(**self.files.read_json(path))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise DamagedFileError(f"{self.files.native(path)} does not describe a shard.", hint=_REMEDY) from error

    def shards(self) -> tuple[DenseShard, ...]:
        """All shards in order."""
        have = {path.rpartition("/")[2] for path in self.files.list(_join(self.folder, "shards"))}
        rows: list[DenseShard] = []
        while f"{len(rows):08d}.json" in have and (row := self.row(len(rows))) is not None:
            rows.append(row)
        return tuple(rows)

    def write(
        self,
        index: int,
        name: str,
        tokens: DenseTokens,
        activations: Mapping[str, NDArray[np.floating]],
        *,
        window_first: int,
        n_windows: int,
        cursor: Mapping[str, int],
    ) -> DenseShard:
        """Commit one shard, its manifest row last.

        Args:
            index: Which shard.
            name: What determines its content, hashed.
            tokens: One entry a token.
            activations: Hook point → ``[n, width]``, any float dtype.
            window_first: Id of its first window.
            n_windows: Windows in it.
            cursor: The place in the text after it.

        Raises:
            RunError: A value is not finite, or too large for the stored dtype.
        """
        columns: dict[str, Any] = {field: getattr(tokens, field) for field, _ in TOKEN_COLUMNS}
        for hook in self.info.hooks:
            column, _ = self.info.column(hook)
            columns[column] = self._list_array(hook, activations[hook])
        layout = _Layout(
            self.info.arrow_schema(),
            rising=frozenset({"window_id", "doc_id"}),
            seek=("window_id", "doc_id"),
            group_rows=GROUP_ROWS,
            level=1,
        )
        path = self._path(index, "parquet")
        with table_writer(self.files, path, layout) as writer:
            writer.append(pa.table(columns, schema=layout.table))
        row = DenseShard(
            index=index,
            name=name,
            n_rows=len(tokens.token_id),
            n_special=int(tokens.special.sum()),
            window_first=window_first,
            n_windows=n_windows,
            bytes=self.files.size(path),
            cursor=dict(cursor),
        )
        self.files.commit_json(self._path(index, "json"), asdict(row))
        return row

    def read(self, index: int, hook: str | None, *, special: bool = False) -> NDArray[np.floating]:
        """Activations ``[n, width]`` of one shard in the stored dtype, special tokens left out unless asked for.

        Raises:
            DamagedFileError: The shard is missing or damaged.
        """
        column, width = self.info.column(hook)
        with self._open(index) as table:
            rows = table.read(columns=[column, "special"])
        return _matrix(rows, column, width, keep_special=special)

    def groups(self, hook: str | None) -> Iterator[tuple[NDArray[np.int32], NDArray[np.floating]]]:
        """Stream ``(doc_id [n], activations [n, width])`` in corpus order, special tokens left out.

        At most ``GROUP_ROWS`` rows at a time, whatever the size of a shard.
        """
        column, width = self.info.column(hook)
        for shard in self.shards():
            with self._open(shard.index) as table:
                for group in range(table.n_groups):
                    rows = table.read_group(group, [column, "special", "doc_id"])
                    keep = ~rows["special"].to_numpy(zero_copy_only=False)
                    yield rows["doc_id"].to_numpy()[keep], _matrix(rows, column, width, keep_special=False)

    def _open(self, index: int) -> TableFile:
        return TableFile(self.files, self._path(index, "parquet"), remedy=_REMEDY)

    def _path(self, index: int, suffix: str) -> str:
        return _join(self.folder, f"shards/{index:08d}.{suffix}")

    def _list_array(self, hook: str, values: NDArray[np.floating]) -> pa.Array:
        _, width = self.info.column(hook)
        with np.errstate(over="ignore"):
            flat = np.ascontiguousarray(values, dtype=self.info.stored_dtype).reshape(-1)
        if not np.isfinite(flat).all():
            raise RunError(
                f"{hook} of {self.info.model} holds values that {self.info.stored_dtype} cannot store.",
                hint="record with --stored-dtype float32 into another folder"
                " (and load the model with --dtype float32 or bfloat16, if it computes infinities itself).",
            )
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)


def column_name(hook: str) -> str:
    """The column of a hook point: ``resid_post.3`` → ``resid_post_3``, which SQL takes without quotes."""
    HookPoint.parse(hook)
    return re.sub(r"\W", "_", hook)


def record_place(text: str, workspace: Files, *, kind: str = "records") -> tuple[Files, str]:
    """Where a record (or with ``kind="saes"`` an SAE) named on the command line lies: files and folder.

    A plain name (letters, digits, ``_`` and ``-``) means ``records/<name>`` of the workspace; anything
    with a slash, a dot or a scheme is a folder of its own, such as ``activations.parquet``.

    Raises:
        InputError: It is empty, or names a file.
    """
    if not text.strip():
        raise InputError("a place has an empty name.", hint="give a plain name, or a folder such as ./activations.")
    if _NAME.fullmatch(text):
        return workspace, f"{kind}/{text}"
    if from_home(text).is_file():
        raise InputError(f"{text} is a file, and not a folder.", hint="give a plain name, or another folder.")
    return Files.open(text), ""


def _matrix(rows: pa.Table, column: str, width: int, *, keep_special: bool) -> NDArray[np.floating]:
    values = rows[column].combine_chunks()
    matrix = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if keep_special:
        return matrix
    keep = ~rows["special"].to_numpy(zero_copy_only=False)
    return matrix if keep.all() else matrix[keep]


def _differences(one: RecordInfo, other: RecordInfo) -> str:
    a, b = one.model_dump(), other.model_dump()
    return ", ".join(name for name in a if a[name] != b[name] and name != "texts")


def _join(folder: str, rel: str) -> str:
    return f"{folder}/{rel}" if folder else rel


def n_text_tokens(shards: Sequence[DenseShard]) -> int:
    """Tokens that are not special."""
    return sum(shard.n_text for shard in shards)
