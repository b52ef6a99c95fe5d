"""The config file: Ray Serve's own, checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from raylens.errors import InputError
from raylens_serve.config_file import IMPORT_PATH, read_config
from raylens_serve.settings import ServeSettings


def written(path: Path, args: object, **more: object) -> Path:
    application = {"name": "raylens", "import_path": IMPORT_PATH, "args": args, **more}
    path.write_text(yaml.safe_dump({"http_options": {"port": 8123}, "applications": [application]}))
    return path


def test_a_file_that_serve_run_takes_is_read(tmp_path: Path) -> None:
    args = {"workspace": "/data", "models": [{"model": "raylens/pico", "saes": ["raylens-pico-res/layer_3"]}]}
    path = written(tmp_path / "serve.yaml", args)
    found = read_config(path)
    assert (found.host, found.port) == ("127.0.0.1", 8123)
    assert found.settings.workspace_url == "/data"
    assert found.settings.models[0].saes == ("raylens-pico-res/layer_3",)
    ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    # What is written back is read the same.
    again = written(tmp_path / "again.yaml", found.settings.model_dump(mode="json"))
    assert read_config(again).settings == found.settings


def test_settings_have_defaults_that_bind_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServeSettings()
    assert [one.model for one in settings.models] == ["raylens/pico"]
    assert settings.cors_origins == ()
    assert settings.neuronpedia is None
    monkeypatch.setenv("RAYLENS_WORKSPACE", "/elsewhere")
    assert settings.workspace_url == "/elsewhere"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"modles": []}, "modles is not valid"),
        ({"models": []}, "models is not valid"),
        ({"models": [{"model": "m", "dtype": "int3"}]}, "models.0.dtype is not valid"),
        ({"limits": {"tokens": 0}}, "limits.tokens is not valid"),
        ({"cors_origins": ["*"]}, "cors_origins is not valid"),
        ({"token": "secret"}, "token is not valid"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, args: object, said: str) -> None:
    path = written(tmp_path / "serve.yaml", args)
    with pytest.raises(InputError) as refused:
        read_config(path)
    assert said in refused.value.message
    assert "serve.yaml" in refused.value.message


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    with pytest.raises(InputError, match="cannot be read"):
        read_config(path)
    for text, said in [
        ("a: [", "no YAML"),
        ("- a", "holds no settings"),
        ("applications: []", "no application of"),
        ("applications: 3", "applications"),
        ("applications: [{name: a, import_path: 'other:build'}]", "no application of"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_config(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_config(path)
