"""One step of a person is one entry in the browser's history, so that "back" leads to what they saw before.

Leaving a page whose address names the state of its widgets, Streamlit adds two entries: the old page without its state,
and the new page. "Back" then leads to the former, which nobody has ever looked at.
"""

from __future__ import annotations

from typing import Final

import streamlit as st

SCRIPT: Final = """
<script>
if (!window.raylensSteps) {
  window.raylensSteps = true;
  let stepped = true, left = location.href;
  const step = () => { stepped = true; left = location.href; };
  for (const kind of ["pointerdown", "keydown"]) window.addEventListener(kind, step, true);
  const push = history.pushState.bind(history);
  history.pushState = (state, title, url) => {
    if (!stepped) return history.replaceState(state, title, url);
    const [to, here, before] = [url ?? "", "", left].map(one => new URL(one, location.href));
    // Right after going back, the old page's state is not put aside in an entry of its own but overwritten.
    if (to.pathname !== here.pathname && here.pathname === before.pathname) history.replaceState(state, title, left);
    push(state, title, url);
    stepped = false;
  };
}
</script>
"""


def one_entry_a_step() -> None:
    """Have this browser add no entry without a click or key since the last one: what it adds is put in its place."""
    st.html(SCRIPT, unsafe_allow_javascript=True)
