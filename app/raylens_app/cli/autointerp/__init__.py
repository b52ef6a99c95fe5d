"""One command for a whole run: cache a model's SAEs, explain their latents, score what was said, write results (A1.03).

``flags`` is the table of all flags, ``parser`` reads a command line, ``chat`` says who is asked, ``plan``
checks the request, ``run`` does the work, and ``command`` is how it is called.
"""

from __future__ import annotations

from raylens_app.cli.autointerp.command import COMMAND, in_full, register

__all__ = ["COMMAND", "in_full", "register"]
