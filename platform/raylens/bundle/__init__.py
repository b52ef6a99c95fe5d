"""The embedded models and the corpora that come with CPython."""
