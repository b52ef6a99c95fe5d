"""``python -m raylens``: runs whatever the ``raylens`` console entry point names.

The library never imports its faces, so the entry point is looked up in the installed metadata.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points


def main() -> int:
    """Run the ``raylens`` command and return its exit code."""
    for entry in entry_points(group="console_scripts", name="raylens"):
        return entry.load()()
    sys.stderr.write("error: no raylens command is installed. hint: run pip install raylens.\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
