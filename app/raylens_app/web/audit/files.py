"""Every file of an audit to take away, as it is stored, and what the audit was made with."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Final

import streamlit as st

from raylens.reports.markup import element
from raylens.reports.page import table
from raylens.reports.wording import trace
from raylens.store.audit_files import NAMES, changed
from raylens.store.audit_manifest import RUN
from raylens.store.audit_paths import RunPlace
from raylens_app.web.audit.shelf import Audited
from raylens_app.web.plain import plain

ABOUT: Final = {
    "report.html": "the report as one page, with plots",
    "report.md": "the report as Markdown",
    "decision.json": "the verdict, and on what",
    "score.json": "every method's score, the benign scores, inserts found",
    "suite_results.json": "what both models wrote, checks, the capability panel",
    "interp_evidence.json": "features that changed, and what they mean",
    RUN: "when and with what it was made, with a hash of every file",
}
_TYPES: Final = {"json": "application/json", "md": "text/markdown", "html": "text/html"}
# No file says when it was made but run.json, and an archive of the same files is to be the same bytes.
_AT: Final = (1980, 1, 1, 0, 0, 0)


def files(audited: Audited) -> None:
    """Draw the downloads and the audit's trace."""
    if audited.made is not None:
        for one in changed(audited.texts, audited.made):
            st.warning(plain(f"{one.file} {one.what}."), icon=":material/warning:")
    downloads(audited.place, audited.texts)
    st.markdown("**Audit trace**")
    rows = trace(audited.artefacts)
    if audited.made is not None:
        rows += [(f"made with {name}", said) for name, said in audited.made.versions.items()]
    st.html(element("div", table("audit trace", ["step", "with"], rows), class_="rl-report"))


def downloads(place: RunPlace, texts: Mapping[str, str]) -> None:
    """A button a file, and one for all."""
    names = [name for name in ABOUT if name in texts]
    names += [name for name in (*NAMES, RUN) if name in texts and name not in names]
    stem = f"{place.session}-{place.run}"
    for name in names:
        with st.container(horizontal=True, vertical_alignment="center"):
            data = texts[name].encode()
            st.download_button(
                name,
                data,
                f"{stem}-{name}",
                _TYPES.get(name.rpartition(".")[2], "text/plain"),
                key=f"download-{name}",
                on_click="ignore",
                icon=":material/download:",
                width=230,
            )
            st.caption(f"{ABOUT.get(name, 'a file of the run')}, {len(data) / 1000:,.0f} kB", width="content")
    st.download_button(
        "all of them",
        archive(texts, names),
        f"{stem}.zip",
        "application/zip",
        key="download-all",
        on_click="ignore",
        icon=":material/folder_zip:",
        width=230,
    )


def archive(texts: Mapping[str, str], names: Sequence[str]) -> bytes:
    """Files as one zip; the same files give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.writestr(zipfile.ZipInfo(name, _AT), texts[name].encode(), zipfile.ZIP_DEFLATED)
    return out.getvalue()
