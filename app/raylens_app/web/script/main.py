"""The script that Streamlit runs, once for every click of every session."""

from raylens_app.web.frame import run

run()
