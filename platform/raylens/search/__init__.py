"""Finding features by what is said of them: by words, and by meaning."""
