"""The login of an app that others can reach: a session names the API token of the services once.

The token is compared in constant time, and only that it was right is kept, in the session's own state on the server: a
new tab, or a reload, asks again. Wrong tokens are answered slowly.
"""

from __future__ import annotations

import hmac
import time
from typing import Final

import streamlit as st

from raylens.errors import InputError
from raylens.net.api_token import VARIABLE, find_token

_SIGNED_IN: Final = "raylens-signed-in"
_WRONG_S: Final = 1.0


def signed_in(*, required: bool) -> bool:
    """Whether this session may see anything; where it may not, the page asks for the token."""
    if not required or st.session_state.get(_SIGNED_IN) is True:
        return True
    st.title("RayLens")
    with st.form("login", border=True):
        given = st.text_input("API token", type="password", help=f"{VARIABLE} of whoever started this app.")
        sent = st.form_submit_button("Sign in", type="primary")
    if sent:
        if is_right(given):
            st.session_state[_SIGNED_IN] = True
            st.rerun()
        time.sleep(_WRONG_S)
        st.error("That is not the token. It is printed where the app or its services were started first.")
    return False


def is_right(given: str) -> bool:
    """Whether ``given`` is the API token; never where there is none."""
    try:
        token = find_token()
    except InputError:
        return False
    return token is not None and hmac.compare_digest(given.strip().encode(), token.encode())
