"""What came of a query: a table, a chart, and files to take home."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types
import streamlit as st

from raylens_app.cli.table_files import cell_of, distinct, write_csv, write_parquet
from raylens_app.web.query.running import Kept

BOUND: Final = "query-params"
_EXPLAINED: Final = ["explain_key", "explain_value"]
_ROW_PX: Final = 35
_TALLEST: Final = 560


def result(kept: Kept) -> None:
    """Draw it."""
    table = kept.table.rename_columns(distinct(kept.table.column_names))
    if table.column_names == _EXPLAINED:
        for plan in table["explain_value"].to_pylist():
            st.code(str(plan), language=None)
        return
    _said(kept)
    if not table.num_rows:
        return
    view = st.segmented_control(
        "show", ("table", "chart"), default="table", required=True, key="drawn", bind=BOUND,
        label_visibility="collapsed",
    )  # fmt: skip
    if view == "chart":
        # Charts are imported where they are wanted: that takes a quarter of a second.
        from raylens_app.web.query.chart import chart

        chart(table)
    else:
        _table(table)
    _files(table)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers."""
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _said(kept: Kept) -> None:
    n_rows = kept.table.num_rows
    more = ": the first ones, there are more" if kept.truncated and not kept.cut else ""
    st.caption(f"{n_rows:,} {'row' if n_rows == 1 else 'rows'}{more}")
    if kept.cut:
        st.warning("Further rows were left out: together they are too large. Ask for fewer columns or rows.")


def _table(table: pa.Table) -> None:
    config = {
        field.name: st.column_config.DatetimeColumn(f"{field.name} (UTC)", timezone="UTC")
        for field in table.schema
        if types.is_timestamp(field.type)
    }
    st.dataframe(
        readable(table),
        hide_index=True,
        height=min(_TALLEST, _ROW_PX * (table.num_rows + 1) + 3),
        row_height=_ROW_PX,
        column_config=config,
        placeholder="NULL",
        alt="rows of the query",
    )


def readable(table: pa.Table) -> pa.Table:
    """The same in types that a browser shows: decimals as floats, what is nested as JSON, all else unknown as text."""
    columns = [_readable(table[name]) for name in table.column_names]
    return pa.table(columns, names=table.column_names)


def _readable(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if types.is_decimal(kind):
        return pc.cast(column, pa.float64())
    if (
        types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_string(kind)
        or types.is_timestamp(kind)
        or types.is_date(kind)
        or (types.is_list(kind) and (types.is_string(kind.value_type) or is_number(kind.value_type)))
    ):
        return column
    cells = (cell_of(value) for value in column.to_pylist(maps_as_pydicts="lossy"))
    return pa.array([None if one is None else str(one) for one in cells], pa.string())


def _files(table: pa.Table) -> None:
    with st.container(horizontal=True):
        _file("CSV", "csv", "text/csv", lambda: _csv(table))
        _file("Parquet", "parquet", "application/vnd.apache.parquet", lambda: _parquet(table))


def _file(title: str, ending: str, mime: str, made: Callable[[], bytes]) -> None:
    # Made when it is wanted: a large result is not packed at every click.
    data: Any = made
    st.download_button(
        title, data, file_name=f"raylens-query.{ending}", mime=mime, key=f"file-{ending}", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip


def _csv(table: pa.Table) -> bytes:
    text = io.StringIO()
    write_csv(table, text, safe=False)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    write_parquet(table, stream)
    return stream.getvalue()
