"""KubeRay's manifests: fields that exist, pods that may do little, one workspace, and jobs that are commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml
from ray.scripts.scripts import start as ray_start

import raylens
from kuberay_schema import SCHEMAS
from raylens.catalog.lookup import built_in
from raylens.ids import SaeId
from raylens.suites.shipped import shipped_names
from raylens_serve.config_file import read_config
from shown_commands import require_known

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/kuberay"
NAMES = ("raycluster", "rayservice", "rayjob-cache", "rayjob-audit")
CLUSTER_OF = {"RayCluster": (), "RayService": ("rayClusterConfig",), "RayJob": ("rayClusterSpec",)}


class Pod(NamedTuple):
    """A pod's template with whose it is."""

    group: str
    template: dict[str, Any]
    container: dict[str, Any]


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def cluster_of(name: str) -> dict[str, Any]:
    found = manifest(name)
    spec = found["spec"]
    for key in CLUSTER_OF[found["kind"]]:
        spec = spec[key]
    return spec


def pods(name: str) -> Iterator[Pod]:
    cluster = cluster_of(name)
    for group, template in [
        ("head", cluster["headGroupSpec"]["template"]),
        *((group["groupName"], group["template"]) for group in cluster["workerGroupSpecs"]),
    ]:
        (container,) = template["spec"]["containers"]
        yield Pod(group, template, container)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_fields_are_those_of_the_objects(path: Path) -> None:
    (found,) = yaml.safe_load_all(path.read_text())
    jsonschema.Draft202012Validator(SCHEMAS[found["kind"]]).validate(found)


def test_a_field_that_does_not_exist_or_lets_a_pod_do_more_is_refused() -> None:
    schema = jsonschema.Draft202012Validator(SCHEMAS["RayCluster"])
    for change in ({"privileged": True}, {"readOnlyRootFilesystem": False}, {"runAsUser": 0}):
        found = manifest("raycluster")
        found["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["securityContext"].update(change)
        assert not schema.is_valid(found)
    found = manifest("raycluster")
    found["spec"]["workerGroupSpec"] = found["spec"].pop("workerGroupSpecs")
    assert not schema.is_valid(found)


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_sees_the_same_workspace_and_runs_the_same_image(name: str) -> None:
    (claim,) = yaml.safe_load_all((FOLDER / "workspace.yaml").read_text())
    images, places = set(), set()
    for pod in pods(name):
        mounts = {mount["name"]: mount["mountPath"] for mount in pod.container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod.template["spec"]["volumes"]}
        assert mounts.keys() == volumes.keys()
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        variables = {one["name"]: one.get("value") for one in pod.container["env"]}
        for variable in ("RAYLENS_WORKSPACE", "HF_HOME", "RAYLENS_BASE_DIR"):
            assert Path(variables[variable]).is_relative_to(mounts["shared"])
        # The root is read-only: what Ray and libraries write goes to volumes.
        assert {"/tmp", "/home/raylens"} <= set(mounts.values())
        places.add(variables["RAYLENS_WORKSPACE"])
        images.add(pod.container["image"])
    assert images == {f"registry.example.com/raylens:{raylens.__version__}-cuda"}
    assert len(places) == 1


@pytest.mark.parametrize("name", NAMES)
def test_secrets_come_from_the_secret_alone(name: str) -> None:
    for pod in pods(name):
        for one in pod.container["env"]:
            if re.search("TOKEN|KEY|SECRET|PASSWORD", one["name"]):
                assert one["valueFrom"]["secretKeyRef"]["name"] == "raylens-secrets"
        names = {one["name"] for one in pod.container["env"]}
        # Jobs serve nobody.
        assert ("RAYLENS_API_TOKEN" in names) is not name.startswith("rayjob")
    # Ray's own port starts jobs: nobody without its token.
    assert cluster_of(name)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", NAMES)
def test_versions_and_parameters_are_those_of_the_installed_ray(name: str) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned
    cluster = cluster_of(name)
    assert cluster["rayVersion"] == pinned[1]
    options = {option.removeprefix("--") for parameter in ray_start.params for option in parameter.opts}
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert group["rayStartParams"].keys() <= options


@pytest.mark.parametrize("name", NAMES)
def test_gpus_are_the_workers_and_metrics_are_found(name: str) -> None:
    monitored = manifest("podmonitor")["spec"]
    for pod in pods(name):
        limits, requests = pod.container["resources"]["limits"], pod.container["resources"]["requests"]
        assert ("nvidia.com/gpu" in limits) is (pod.group != "head")
        assert limits["memory"] == requests["memory"]
        ports = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
        assert {one["port"] for one in monitored["podMetricsEndpoints"]} <= ports.keys()
        assert monitored["selector"]["matchLabels"].items() <= pod.template["metadata"]["labels"].items()


def test_clusters_that_wait_for_work_grow_with_it_and_jobs_get_a_fixed_number() -> None:
    for name in NAMES:
        cluster = cluster_of(name)
        (group,) = cluster["workerGroupSpecs"]
        fewest, most = group["minReplicas"], group["maxReplicas"]
        if name.startswith("rayjob"):
            assert "enableInTreeAutoscaling" not in cluster
            assert fewest == group["replicas"] == most > 0
        else:
            assert cluster["enableInTreeAutoscaling"]
            assert fewest <= group["replicas"] < most


def test_the_service_runs_a_committed_config() -> None:
    service = manifest("rayservice")
    committed = ROOT / "infra/serve/gemma-2-2b-cluster.yaml"
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == yaml.safe_load(committed.read_text())
    file = read_config(committed)
    ports = {port["name"]: port["containerPort"] for pod in pods("rayservice") for port in pod.container["ports"]}
    assert (file.host, file.port) == ("0.0.0.0", ports["serve"])
    # The workers that it begins with hold what it begins with, and those it may grow to hold what it may grow to.
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    encoder, explainer = file.settings.encoder, file.settings.explainer
    assert encoder.num_gpus
    assert explainer
    assert explainer.num_gpus
    always = explainer.replicas * explainer.num_gpus
    assert group["minReplicas"] == encoder.min_replicas * encoder.num_gpus + always
    assert group["maxReplicas"] == encoder.max_replicas * encoder.num_gpus + always
    # A worker gets requests once the proxy of Ray Serve answers on it.
    (worker,) = [pod for pod in pods("rayservice") if pod.group != "head"]
    assert worker.container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": file.port}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("rayjob")])
def test_a_job_is_a_command_that_joins_the_cluster_it_runs_on(name: str) -> None:
    words = shlex.split(manifest(name)["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "raylens"]
    assert require_known(words)
    assert words[words.index("--address") + 1] == "auto"


def test_what_the_jobs_name_is_in_the_catalogue() -> None:
    for name in ("rayjob-cache", "rayjob-audit"):
        words = shlex.split(manifest(name)["spec"]["entrypoint"])
        named = dict(pairwise(words))
        model = named.get("--model") or named["--reference"]
        assert SaeId.parse(named["--sae"]) in {entry.sae for entry in built_in().find(model)}
        assert named.get("--suite", "minimal") in shipped_names()
