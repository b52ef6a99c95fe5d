"""Parts of the Traces page."""
