"""Compose for one machine: what it names exists, what it opens is open to this machine alone, and little is allowed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import raylens
from dockerfile import read_dockerfile
from raylens.net.api_token import FILE_VARIABLE
from raylens_serve.config_file import read_config
from shown_commands import require_known

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra"
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
KNOWN = {
    "build", "cap_drop", "command", "depends_on", "deploy", "environment", "hostname", "image", "network_mode", "ports",
    "profiles", "read_only", "restart", "secrets", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "user",
    "volumes",
}  # fmt: skip


def interpolated(name: str, **variables: str) -> dict[str, Any]:
    """The file with its variables filled in as Compose does: ``${NAME:-default}``, ``${NAME:?why it is needed}``."""

    def value(found: re.Match[str]) -> str:
        given = variables.get(found[1], "")
        if found[2] == "?" and not given:
            raise LookupError(found[1])
        return given or (found[3] if found[2] == "-" else "")

    return yaml.safe_load(_VARIABLE.sub(value, (FOLDER / name).read_text()))


@pytest.fixture
def services() -> dict[str, Any]:
    return interpolated("compose.yaml", RAYLENS_API_TOKEN_FILE="/home/me/token")["services"]


def test_the_token_is_needed_and_is_a_file() -> None:
    with pytest.raises(LookupError, match=FILE_VARIABLE):
        interpolated("compose.yaml")
    found = interpolated("compose.yaml", RAYLENS_API_TOKEN_FILE="/home/me/token")
    (secret,) = found["secrets"]
    assert found["secrets"][secret] == {"file": "/home/me/token"}
    service = found["services"]["raylens"]
    assert service["secrets"] == [secret]
    assert service["environment"][FILE_VARIABLE] == f"/run/secrets/{secret}"
    # No secret has a value here, nor a default.
    for service in found["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("TOKEN|SECRET|PASSWORD|KEY", name) and not name.endswith("_FILE"):
                assert not value, name


def test_keys_are_those_of_compose(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service.keys() <= KNOWN
    assert interpolated("compose.gpu.yaml")["services"]["raylens"].keys() <= KNOWN


def test_ports_are_open_to_this_machine_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8000:8000", "127.0.0.1:3000:3000"]


def test_containers_may_do_little(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert not any(source.startswith("/") for source in (one.split(":")[0] for one in service["volumes"]))
    assert services["raylens"]["user"] == "1000:1000"
    # Limits can be set.
    smaller = interpolated("compose.yaml", RAYLENS_API_TOKEN_FILE="t", RAYLENS_MEMORY="4g", RAYLENS_CPUS="2")
    assert smaller["services"]["raylens"]["deploy"]["resources"]["limits"] == {"cpus": 2, "memory": "4g"}


def test_images_are_pinned(services: dict[str, Any]) -> None:
    gpu = interpolated("compose.gpu.yaml")["services"]["raylens"]
    assert services["raylens"]["image"] == f"raylens:{raylens.__version__}-{services['raylens']['build']['target']}"
    assert gpu["image"] == f"raylens:{raylens.__version__}-{gpu['build']['target']}"
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"])


def test_the_build_is_one_that_there_is(services: dict[str, Any]) -> None:
    build = services["raylens"]["build"]
    context = (FOLDER / build["context"]).resolve()
    assert context == ROOT
    stages = read_dockerfile((context / build["dockerfile"]).read_text())
    gpu = interpolated("compose.gpu.yaml")["services"]["raylens"]["build"]
    assert {build["target"], gpu["target"]} <= stages.keys()
    arguments = {value.split("=")[0] for stage in stages.values() for value in stage.values("ARG")}
    assert build["args"].keys() <= arguments


@pytest.mark.parametrize("config", sorted(path.name for path in (FOLDER / "serve").glob("*.yaml")))
def test_the_command_is_one_that_there_is(config: str) -> None:
    found = interpolated("compose.yaml", RAYLENS_API_TOKEN_FILE="t", RAYLENS_CONFIG=config)
    service = found["services"]["raylens"]
    assert require_known(service["command"])
    options = dict(pairwise(service["command"]))
    (mounted,) = [one for one in service["volumes"] if one.startswith("./serve:")]
    place = Path(options["--config"]).relative_to(mounted.split(":")[1])
    file = read_config(FOLDER / "serve" / place)
    assert service["ports"][0].endswith(f":{file.port}")
    # Inside of the container it has to listen to all, or the published port reaches nothing.
    assert options["--host"] == "0.0.0.0"


def test_every_file_and_volume_is_there(services: dict[str, Any]) -> None:
    volumes = interpolated("compose.yaml", RAYLENS_API_TOKEN_FILE="t")["volumes"]
    used = set()
    for service in services.values():
        for one in service["volumes"]:
            source = one.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), source
                assert one.endswith(":ro")
            else:
                used.add(source)
        assert set(service.get("depends_on", [])) <= services.keys()
    assert used == volumes.keys()


def test_dashboards_come_when_asked_for(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("profiles") == ["metrics"]} == {
        "prometheus",
        "grafana",
    }
    assert "profiles" not in services["raylens"]
    # Prometheus shares the network and the session of the Ray that it reads.
    assert services["prometheus"]["network_mode"] == "service:raylens"
    scraped = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    for job in scraped:
        for discovered in job["file_sd_configs"]:
            assert {str(Path(path).parent) for path in discovered["files"]} == {"/tmp/ray"}
    assert {"ray:/tmp/ray:ro"} <= set(services["prometheus"]["volumes"])
    assert {"ray:/tmp/ray"} <= set(services["raylens"]["volumes"])
