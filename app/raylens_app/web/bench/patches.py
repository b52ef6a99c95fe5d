"""Patches of a session: a switch and a strength each, and a form for new ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, get_args

import streamlit as st

from raylens.api.edits import Edit, Method, Patch, Where
from raylens.api.workbench import SessionAnswer
from raylens.errors import RaylensError
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens_app.web.bench.session import Bench
from raylens_app.web.plain import plain

_SLIDER: Final = 10.0
"""Times the maximum; a number beyond it is typed."""
_METHODS: Final[Sequence[Method]] = get_args(Method)
_WHERE: Final[Sequence[Where]] = get_args(Where)
_FORM: Final = ("feature", "method", "strength", "where")


def patches(bench: Bench, session: SessionAnswer) -> None:
    """Draw them in their order, which is that in which they are applied."""
    st.subheader("Patches", anchor=False)
    if not session.patches:
        st.caption("None yet: the model is as it is.")
    for patch in session.patches:
        _patch(bench, patch, works=patch.spec.model == session.model)
    _new(bench)


def _patch(bench: Bench, patch: Patch, *, works: bool) -> None:
    on, strength = f"on-{patch.id}", f"strength-{patch.id}"
    # Others may have switched it: what the services say goes before what this session remembers.
    st.session_state[on] = patch.enabled
    edit = _only(patch)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.toggle(
                plain(patch.spec.name or "; ".join(map(str, patch.spec.edits))),
                key=on,
                disabled=not works,
                on_change=_switch,
                args=(bench, patch.id, on),
                help=None if works else f"For {plain(patch.spec.model or '')}, which this session does not work on.",
            )
            st.button(
                "delete",
                key=f"delete-{patch.id}",
                icon=":material/delete:",
                type="tertiary",
                on_click=bench.click,
                args=(lambda asked: asked.delete(patch.id),),
            )
        _said(bench.desk.features, patch)
        if edit is not None and works:
            st.session_state[strength] = max(-_SLIDER, min(_SLIDER, edit.strength))
            unit = "× its maximum" if edit.unit == "max" and edit.feature else "as a length, or an activation"
            st.slider(
                f"strength, {unit}",
                -_SLIDER,
                _SLIDER,
                step=0.5,
                key=strength,
                on_change=_turn,
                args=(bench, patch, edit, strength),
            )


def _only(patch: Patch) -> Edit | None:
    """The edit of a patch that has one, with a strength."""
    found = patch.spec.edits
    return found[0] if len(found) == 1 and found[0].method in ("add", "clamp") else None


def _said(features: WorkspaceFeatures, patch: Patch) -> None:
    """What is said of features that it edits."""
    for edit in patch.spec.edits:
        if edit.feature is None:
            continue
        try:
            one, index = features.find(edit.feature)
            row = features.rows_of([one], [(0, index)])[0]
        except RaylensError:  # no cache of the workspace has it
            continue
        if said := row["label"] or row["explanation"]:
            st.caption(f"{plain(one.short(index))} · {plain(said)}")


def _switch(bench: Bench, patch: str, key: str) -> None:
    bench.click(partial(_toggled, patch=patch, enabled=bool(st.session_state[key])))


def _toggled(asked: Any, *, patch: str, enabled: bool) -> Patch:
    return asked.toggle(patch, enabled)


def _turn(bench: Bench, patch: Patch, edit: Edit, key: str) -> None:
    changed = edit.model_copy(update={"strength": float(st.session_state[key])}).model_dump()
    directions = [one.model_dump() for one in patch.spec.directions]
    told = {"name": patch.spec.name, "edits": [changed], "directions": directions}
    bench.click(lambda asked: asked.change(patch.id, **told))


def _new(bench: Bench) -> None:
    with st.form("new-patch", clear_on_submit=False):
        st.text_input(
            "Feature",
            key="new-feature",
            value=st.query_params.get("feature", ""),
            max_chars=1400,
            placeholder="f_3_17, or release/id/17",
        )
        left, middle, right = st.columns(3)
        left.selectbox("method", _METHODS, key="new-method", format_func=lambda one: one.replace("_", " "))
        middle.number_input(
            "strength", -100.0, 100.0, 2.0, 0.5, key="new-strength", help="In units of the feature's own maximum."
        )
        right.selectbox("on tokens", _WHERE, key="new-where")
        st.form_submit_button("Add patch", icon=":material/add:", on_click=_add, args=(bench,))


def _add(bench: Bench) -> None:
    told = {name: st.session_state[f"new-{name}"] for name in _FORM}
    feature = str(told.pop("feature")).strip()
    if told["method"] not in ("add", "clamp"):
        told.pop("strength")
    bench.click(lambda asked: asked.patch(feature=feature, **told))
