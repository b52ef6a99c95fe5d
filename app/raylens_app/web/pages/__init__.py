"""A file a page; each has ``show(desk)``, and its line in :mod:`raylens_app.web.registry`."""
