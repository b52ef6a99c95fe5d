"""The image: pinned, without secrets, not root, and made of what there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dockerfile import Stage, is_sent, read_dockerfile
from raylens_serve.config_file import read_config
from raylens_serve.guard import OPEN
from raylens_serve.ray_environment import SERVE_VARIABLES
from shown_commands import require_known

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/docker"
TEXT = (FOLDER / "Dockerfile").read_text()
IGNORE = (FOLDER / "Dockerfile.dockerignore").read_text()
STAGES = read_dockerfile(TEXT)
PINNED = re.compile(r"^[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?$")


def lineage(name: str) -> list[Stage]:
    """A stage and those it is built upon, the first one first."""
    stage = STAGES[name]
    return [*(lineage(stage.base) if stage.base in STAGES else []), stage]


def test_there_are_targets_with_and_without_a_gpu_and_bases_are_pinned() -> None:
    assert {"cpu", "cuda"} <= STAGES.keys()
    arguments = dict(one.split("=", 1) for one in STAGES[""].values("ARG"))
    assert arguments
    assert all(PINNED.match(image) for image in arguments.values())
    for stage in list(STAGES.values())[1:]:
        assert stage.base in STAGES or stage.base.strip("${}") in arguments


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_container_is_not_root_and_answers_who_asks_for_its_health(target: str) -> None:
    said = {one.name: one.value for stage in lineage(target) for one in stage.instructions}
    defaults = dict(one.split("=", 1) for stage in lineage(target) for one in stage.values("ARG"))
    user, group = (defaults[one.strip("${}")] for one in said["USER"].split(":"))
    # Numbers, so that Kubernetes can tell that it is not root.
    assert int(user) > 0
    assert int(group) > 0
    command = json.loads(said["ENTRYPOINT"]) + json.loads(said["CMD"])
    assert command[:2] == ["tini", "--"]
    assert require_known(command[2:])
    config = Path(command[command.index("--config") + 1])
    file = read_config(ROOT / "infra/serve" / config.relative_to("/etc/raylens"))
    assert said["EXPOSE"] == str(file.port)
    health = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", health[-1])
    assert asked
    assert (int(asked[1]), asked[2]) == (file.port, *OPEN)
    compile(health[-1], "health", "exec")


def test_ray_wants_its_token_in_every_process_of_a_container() -> None:
    """Ray reads this when it is imported: a command beside the services would not find its way in otherwise."""
    variables = [value for stage in lineage("cpu") for value in stage.values("ENV")]
    assert any("RAY_AUTH_MODE=token" in value.split() for value in variables)


def test_the_workspace_is_a_volume_of_the_user() -> None:
    (runtime,) = [stage for stage in lineage("cpu") if stage.values("VOLUME")]
    variables = dict(one.split("=", 1) for one in shlex.split(" ".join(runtime.values("ENV"))))
    assert json.loads(*runtime.values("VOLUME")) == [variables["RAYLENS_WORKSPACE"]]
    (made,) = [one for one in runtime.values("RUN") if "install -d" in one]
    for place in (variables["RAYLENS_WORKSPACE"], variables["HF_HOME"]):
        assert place in made


def test_all_packages_are_the_pinned_ones() -> None:
    runs = STAGES["packages"].values("RUN")
    installs = [found[1] for run in runs if (found := re.search("pip install ([^&]*)", run))]
    assert len(installs) == 3
    for arguments in installs[:2]:
        assert "-c constraints.txt" in arguments
    # The wheel of the project itself: nothing is fetched for it.
    assert "--no-deps" in installs[2]
    assert "--no-index" in installs[2]
    assert "PIP_INDEX_URL" not in TEXT
    assert "ARG TORCH_INDEX_URL" in TEXT.splitlines(), "no index is a default"


def test_no_address_and_no_secret_is_part_of_it() -> None:
    assert set(re.findall(r"\w+://[^/'\s]+", TEXT)) == {"http://127.0.0.1:8000"}
    for stage in STAGES.values():
        for name in (*stage.values("ARG"), *stage.values("ENV")):
            assert not re.search("TOKEN|SECRET|PASSWORD|KEY", name.replace("TOKENIZERS_PARALLELISM", ""))
        assert not stage.values("ADD")


def test_what_is_copied_exists_and_reaches_the_build_and_nothing_else_does() -> None:
    copied = set()
    for stage in STAGES.values():
        for value in stage.values("COPY"):
            words = [word for word in value.split() if not word.startswith("--")]
            if "--from=" in value:
                continue
            for source in words[:-1]:
                assert (ROOT / source).exists(), source
                copied.add(source)
    assert all(is_sent(f"{source}/x.py" if (ROOT / source).is_dir() else source, IGNORE) for source in copied)
    for path in (".git/config", ".env", "infra/.env", "infra/compose.yaml", "raylens-data/x", "tests/conftest.py"):
        assert not is_sent(path, IGNORE), path
    assert not is_sent("platform/raylens/__pycache__/ids.cpython-311.pyc", IGNORE)
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {package.split("/")[0] for package in packaging["packages"]} <= copied


def test_the_requirements_are_those_of_the_project(tmp_path: Path) -> None:
    (step,) = [one for one in STAGES["requirements"].instructions if one.heredoc]
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    done = subprocess.run(
        [sys.executable, "-"], input=step.heredoc, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = {*project["dependencies"], "boto3"}
    (everything,) = extras["all"]
    for extra in everything.removeprefix("raylens[").removesuffix("]").split(","):
        expected.update(extras[extra])
    assert set(done.stdout.split("\n")) - {""} == expected


def test_replicas_have_the_event_loops_of_the_services_here() -> None:
    """Their processes have the environment of their node, not that of who deploys them."""
    variables = {value for stage in lineage("cpu") for said in stage.values("ENV") for value in said.split()}
    assert {f"{name}={value}" for name, value in SERVE_VARIABLES.items()} <= variables
