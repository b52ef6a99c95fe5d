"""Tables of which a row can be chosen, as high as their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import streamlit as st

ROW_PX: Final = 35
_FRAME_PX: Final = 3


def height_of(n_rows: int, tallest: int | None = None) -> int:
    """Pixels of a table with its head: all of its rows, or as many as ``tallest`` holds; it then scrolls."""
    whole = ROW_PX * (n_rows + 1) + _FRAME_PX
    return whole if tallest is None else min(tallest, whole)


def chosen_row(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Any],
    *,
    key: str,
    alt: str,
    tallest: int | None = None,
    order: Sequence[str] | None = None,
    missing: str = "–",
) -> int | None:
    """Draw a table, and say which row is chosen.

    Args:
        rows: Cells by column.
        columns: Streamlit's configuration of columns.
        key: Of the widget; another one for other rows, for a choice belongs to those that were shown.
        alt: What the table is, for those who do not see it.
        tallest: Pixels, at most.
        order: Columns that are shown; None for all.
        missing: Stands where there is no value.
    """
    found = st.dataframe(
        rows,
        hide_index=True,
        column_config=dict(columns),
        column_order=order,
        height=height_of(len(rows), tallest),
        row_height=ROW_PX,
        placeholder=missing,
        key=key,
        on_select="rerun",
        selection_mode="single-row",
        alt=alt,
    )
    chosen = found["selection"]["rows"]
    return chosen[0] if chosen and chosen[0] < len(rows) else None
