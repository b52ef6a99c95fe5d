"""Config files of the services: valid for RayLens and for Ray Serve, and what is built from them is what they say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema
from ray.serve.scripts import build as serve_build

from raylens.bundle.paths import list_saes
from raylens.catalog.lookup import built_in
from raylens.ids import SaeId
from raylens_serve.config_file import IMPORT_PATH, read_config
from raylens_serve.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/serve"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
by_name = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def application(path: Path) -> dict[str, Any]:
    (found,) = yaml.safe_load(path.read_text())["applications"]
    return found


@by_name
def test_it_is_a_config_of_ray_serve_and_of_raylens(path: Path) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    (one,) = schema.applications
    # `serve deploy` and `raylens serve up` give it the same name and place.
    assert (one.name, one.route_prefix, one.import_path) == ("raylens", "/", IMPORT_PATH)
    # No secret, and no option of a deployment beside those that the settings have: only Ray would read it.
    assert application(path).keys() == {"name", "route_prefix", "import_path", "args"}
    assert one.runtime_env == {}
    read_config(path)


def test_they_listen_on_this_machine_unless_they_are_for_a_cluster() -> None:
    hosts = {path.stem: read_config(path).host for path in CONFIGS}
    assert {name for name, host in hosts.items() if host != "127.0.0.1"} == {"gemma-2-2b-cluster"}


@by_name
def test_saes_are_of_their_models(path: Path) -> None:
    for model in read_config(path).settings.models:
        assert model.saes
        assert {SaeId.parse(sae) for sae in model.saes} <= {entry.sae for entry in built_in().find(model.model)}


def test_the_bundle_is_the_default_and_serves_all_of_its_saes() -> None:
    assert read_config(FOLDER / "bundle.yaml").settings == ServeSettings()
    (pico,) = ServeSettings().models
    assert {str(sae.id) for sae in list_saes() if sae.model == pico.model} == set(pico.saes or ())


def implied(args: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Deployments with what the file says of them; what it leaves out is Ray's or RayLens's own business."""
    encoder, explainer = args.get("encoder", {}), args.get("explainer")
    said: dict[str, dict[str, Any]] = {
        "Ledger": {"num_replicas": 1, "num_cpus": 0, "num_gpus": 0},
        "Gateway": {"num_replicas": args.get("gateways", 1), "num_cpus": 0, "num_gpus": 0},
        "Encoder": {"num_cpus": encoder.get("num_cpus", 0), "num_gpus": encoder.get("num_gpus", 0)},
    }
    fewest, most = encoder.get("min_replicas", 1), encoder.get("max_replicas", 1)
    said["Encoder"] |= {"num_replicas": 1} if fewest == most else {"min_replicas": fewest, "max_replicas": most}
    if explainer is not None:
        said["Explainer"] = {
            "num_replicas": explainer.get("replicas", 1),
            "num_cpus": explainer.get("num_cpus", 0),
            "num_gpus": explainer.get("num_gpus", 0),
        }
    return said


def options(deployment: Any) -> dict[str, Any]:
    config, actor = deployment._deployment_config, deployment.ray_actor_options or {}
    found = {"num_cpus": actor["num_cpus"], "num_gpus": actor.get("num_gpus", 0)}
    if (scaling := config.autoscaling_config) is not None:
        return found | {"min_replicas": scaling.min_replicas, "max_replicas": scaling.max_replicas}
    return found | {"num_replicas": config.num_replicas}


@by_name
def test_what_is_built_is_what_the_file_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raylens_serve.build import build

    secret = "a-token-of-more-than-sixteen-characters"
    monkeypatch.setenv("RAYLENS_API_TOKEN", secret)
    args = application(path)["args"]
    built = build_app(build(args), name="raylens")
    assert {one.name: options(one) for one in built.deployments} == implied(args)
    assert built.ingress_deployment_name == "Gateway"
    for one in built.deployments:
        # Ray shows options and arguments to whoever may look at its dashboard.
        assert secret not in repr((one.ray_actor_options, one.init_args, one.init_kwargs))


def test_serve_build_writes_the_deployments_that_the_bundle_implies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds its folder
    file = tmp_path / "built.yaml"
    done = CliRunner().invoke(serve_build, ["raylens_serve.default_app:app", "--output-path", str(file)])
    assert done.exit_code == 0, done.output
    written = yaml.safe_load(file.read_text())
    ServeDeploySchema.model_validate(written)
    (one,) = written["applications"]
    wanted = implied(application(FOLDER / "bundle.yaml")["args"])
    assert {found["name"] for found in one["deployments"]} == wanted.keys()
    for found in one["deployments"]:
        actor = found["ray_actor_options"]
        assert {
            "num_replicas": found["num_replicas"],
            "num_cpus": actor["num_cpus"],
            "num_gpus": actor.get("num_gpus", 0),
        } == wanted[found["name"]]
