"""Patches in and out, colleagues' SAEs, and the way to weights."""

from __future__ import annotations

import shlex

import streamlit as st
from pydantic import ValidationError

from raylens.api.edits import Patch, PatchSpec
from raylens.api.workbench import SessionAnswer
from raylens.errors import InputError
from raylens_app.web.bench.session import REFUSED, Bench
from raylens_app.web.plain import plain

_MOST_BYTES = 64 * 2**20


def exchange(bench: Bench, session: SessionAnswer) -> None:
    """Draw it."""
    with st.expander("Take patches home, or bring some"):
        for patch in session.patches:
            name = patch.spec.name or "; ".join(map(str, patch.spec.edits))
            st.download_button(
                f"{plain(name)} as JSON",
                patch.absolute().model_dump_json(indent=1, exclude_none=True),
                file_name=f"patch-{patch.id}.json",
                mime="application/json",
                key=f"export-{patch.id}",
                icon=":material/download:",
                on_click="ignore",
            )
        _weights(session.patches, session)
        given = st.file_uploader("A patch that was exported", type=["json"], key="bench-import", max_upload_size=64)
        if given is not None:
            st.button("Add it", key="bench-take", on_click=_take, args=(bench, given.getvalue()))
    with st.expander("SAEs of this session"):
        for sae in session.saes:
            st.markdown(f"`{plain(sae.sae)}` at {plain(sae.hook)}, {sae.d_sae:,} features")
        with st.form("attach", border=False):
            ref = st.text_input(
                "A colleague's SAE",
                max_chars=4000,
                placeholder="release/id, or a folder inside RAYLENS_BASE_DIR",
                key="bench-sae",
            )
            override = st.checkbox("although it was trained on another model", key="bench-override")
            if st.form_submit_button("Attach") and ref.strip():
                bench.click(lambda asked: asked.load_sae(ref.strip(), override_guard=override))
                st.rerun()


def _weights(patches: tuple[Patch, ...], session: SessionAnswer) -> None:
    if not patches:
        st.caption("There is nothing to take home yet.")
        return
    adapter = f" --adapter-of {shlex.quote(session.adapter)}" if session.adapter else ""
    st.caption("As weights that plain peft loads, with their measured divergence from the patch:")
    st.code(
        f"raylens patch export patch-{patches[0].id}.json --model {shlex.quote(session.model)}{adapter} --out my-patch",
        language="bash",
        wrap_lines=True,
    )


def _take(bench: Bench, data: bytes) -> None:
    if len(data) > _MOST_BYTES:
        st.session_state[REFUSED] = InputError("the file is larger than patches are.", hint="choose another.")
        return
    try:
        spec = PatchSpec.model_validate_json(data)
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        st.session_state[REFUSED] = InputError(f"the file is no patch: {said}.", hint="choose an exported one.")
        return
    bench.click(lambda asked: asked.take(spec))
