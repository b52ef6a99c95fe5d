"""The application with default settings, ready made: ``serve build raylens_serve.default_app:app`` writes it out.

Ray Serve's ``build`` takes an application, and not the function that makes one; a config file names that function.
"""

from __future__ import annotations

from typing import Final

from ray import serve

from raylens_serve.build import build

app: Final[serve.Application] = build({})
