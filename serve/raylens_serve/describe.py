"""``python -m raylens_serve.describe > docs/openapi.json``: the description of the API, nothing being up."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from raylens.catalog.lookup import built_in
from raylens.store.workspace import Workspace
from raylens_serve.gateway import Parts, gateway_app
from raylens_serve.job_submission import Jobs
from raylens_serve.services import Local
from raylens_serve.settings import ServeSettings


def description() -> dict[str, Any]:
    """OpenAPI of the gateway, as ``/openapi.json`` answers."""
    nobody = Local(None)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.open(Path(folder) / "workspace", create=True)
        settings = ServeSettings(workspace=workspace.url)
        parts = Parts(settings, workspace, nobody, nobody, nobody, Jobs(workspace), built_in())
        return gateway_app(parts, "described").openapi()


if __name__ == "__main__":
    json.dump(description(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
