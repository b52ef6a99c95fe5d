"""The config file of the services: Ray Serve's own, so that ``serve run`` and ``serve deploy`` take it as well.

::

    http_options: {host: 127.0.0.1, port: 8000}
    applications:
      - name: raylens
        import_path: raylens_serve.build:build
        args: {models: [{model: raylens/pico}]}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from raylens.errors import InputError
from raylens_serve.settings import ServeSettings

HOST: Final = "127.0.0.1"
PORT: Final = 8000
APPLICATION: Final = "raylens"
"""Its name in Ray Serve."""
IMPORT_PATH: Final = "raylens_serve.build:build"
_LARGEST: Final = 2**20


@dataclass(frozen=True, slots=True)
class ServeFile:
    """What a config file says.

    Attributes:
        settings: Of the application.
        host: Where HTTP listens.
        port: Likewise.
        http: All options of Ray Serve's HTTP proxy.
    """

    settings: ServeSettings
    host: str
    port: int
    http: dict[str, Any]


def read_config(path: Path) -> ServeFile:
    """Read and check a config file.

    Raises:
        InputError: It is missing, no YAML, no config of Ray Serve, or not of this application.
    """
    hint = "docs/deploy.md says what it holds; infra/serve has some."
    try:
        text = path.read_text("utf-8")
        if len(text) > _LARGEST:
            raise InputError(f"{path} is larger than a config file is.", hint=hint)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"the config {path} cannot be read ({reason.lower()}).", hint=hint) from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is no YAML ({' '.join(str(error).split())[:200]}).", hint=hint) from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings.", hint=hint)
    try:
        schema = ServeDeploySchema.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {where} is not valid: {first['msg']}.", hint=hint) from error
    own = [one for one in schema.applications if one.import_path == IMPORT_PATH]
    if len(own) != 1:
        raise InputError(f"{path} has {len(own) or 'no'} application of {IMPORT_PATH}.", hint=hint)
    try:
        settings = ServeSettings.of(own[0].args)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error
    http = dict(values.get("http_options") or {})
    return ServeFile(settings, str(http.get("host", HOST)), int(http.get("port", PORT)), http)
