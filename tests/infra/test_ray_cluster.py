"""The file of Ray's cluster launcher: as Ray's own schema and checks have it, no secrets, an image that is pinned."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import raylens
from raylens.net.api_token import token_file
from shown_commands import command_lines, require_known

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "infra/ray-cluster.yaml").read_text()
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)


def options() -> dict[str, str]:
    """Variables of the container."""
    pairs = [shlex.split(one) for one in CONFIG["docker"]["run_options"]]
    return dict(value.split("=", 1) for name, value in pairs if name == "-e")


def test_ray_takes_it() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(CONFIG)
    prepared = prepare_config(copy.deepcopy(CONFIG))
    validate_config(prepared)
    # Nothing of Ray's own defaults installs another Ray over that of the image.
    assert not any(prepared[f"{step}setup_commands"] for step in ("", "head_", "worker_"))
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_ray_starts_as_it_says() -> None:
    ports = set()
    for step in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = (next(command_lines(line)) for line in CONFIG[step])
        assert stop == ["ray", "stop"]
        assert require_known(start)
        ports.update(word for word in start if word.startswith("--metrics-export-port="))
        # Only through the launcher's tunnel: whoever reaches the dashboard could start jobs otherwise.
        assert "--dashboard-host=127.0.0.1" in start or "--head" not in start
    assert len(ports) == 1


def test_work_goes_to_nodes_with_a_gpu_that_come_when_they_are_needed() -> None:
    kinds = CONFIG["available_node_types"]
    head, gpu = kinds[CONFIG["head_node_type"]], kinds["gpu"]
    assert head["resources"] == {"CPU": 0}
    assert gpu["resources"]["GPU"] == 1
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= CONFIG["max_workers"]


def test_the_image_is_pinned_and_secrets_are_files_of_who_starts_it() -> None:
    assert CONFIG["docker"]["image"] == f"registry.example.com/raylens:{raylens.__version__}-cuda"
    variables = options()
    assert variables["RAY_AUTH_MODE"] == "token"
    # Every node sees the same workspace.
    assert variables["RAYLENS_WORKSPACE"].startswith("s3://")
    for name, value in variables.items():
        if re.search("TOKEN|KEY|SECRET|PASSWORD", name):
            assert value.startswith("/home/raylens/"), "a path, and no secret"
    kept = Path("/home/raylens") / token_file({}).relative_to(Path.home())
    assert str(kept.parent) in CONFIG["file_mounts"]


def test_what_has_to_be_filled_in_is_marked() -> None:
    marked = [line for line in TEXT.splitlines() if "# EDIT" in line]
    for placeholder in ("region:", "registry.example.com", "s3://example-bucket", "ami-0000", "IamInstanceProfile"):
        lines = [line for line in TEXT.splitlines() if placeholder in line and not line.startswith("#")]
        assert lines
        assert all(line in marked for line in lines), placeholder


def test_the_commands_in_front_are_ones_that_there_are() -> None:
    head = "\n".join(line[1:] for line in TEXT.splitlines() if line.startswith("#   "))
    known = [words for words in command_lines(head) if require_known(words)]
    assert [words[1] for words in known] == ["get-auth-token", "up", "dashboard", "down"]
    for words in known[1:]:
        assert (ROOT / words[2]).is_file()
