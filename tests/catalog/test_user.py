"""The user's own YAML: what it adds, and errors that name line and key."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raylens.catalog import Catalog
from raylens.catalog.user import find_user_file, read_user_file
from raylens.errors import InputError
from raylens.ids import HookPoint, SaeId

GOOD = """
aliases:
  /models/gemma: google/gemma-2-2b
  house-gemma: gemma-2-2b
saes:
  - sae: ours/layer_3
    model: house-gemma
    hook: resid_post.3
    path: saes/layer_3
    width: 16384
    d_in: 2304
    architecture: topk
    neuronpedia_id: gemma-2-2b/3-ours-res-16k
    note: on our own text
  - sae: ours/layer_5
    model: me/private
    hook: path.model.layers.5
    repo: me/saes
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "catalog.yaml"


def test_a_file_adds_saes_and_names(file: Path) -> None:
    file.write_text(GOOD)
    aliases, (first, second) = read_user_file(file)
    assert aliases == {"/models/gemma": "google/gemma-2-2b", "house-gemma": "gemma-2-2b"}
    assert (first.sae, first.model, first.hook) == (
        SaeId("ours", "layer_3"),
        "google/gemma-2-2b",
        HookPoint("resid_post", 3),
    )
    assert (first.layer, first.width, first.d_in, first.architecture) == (3, 16384, 2304, "topk")
    assert (first.labels_available, first.source, first.note) == (True, "user", "on our own text")
    assert first.path == str(file.parent / "saes/layer_3"), "relative to the file"
    assert (second.layer, second.repo, second.path) == (5, "me/saes", None)

    catalog = Catalog.load(file)
    assert catalog.aliases.canonical("/models/gemma") == "google/gemma-2-2b"
    assert first in catalog.find("google/gemma-2-2b")
    assert catalog.find("me/private") == (second,)
    assert catalog.entry("ours/layer_5") == second


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "saes: []\n"])
def test_an_empty_file_adds_nothing(file: Path, text: str) -> None:
    file.write_text(text)
    assert read_user_file(file) == ({}, ())


def test_a_listed_id_may_be_redefined_and_a_bundled_one_may_not(file: Path) -> None:
    row = "saes:\n  - {{sae: {}, model: gpt2, hook: resid_post.2, repo: me/x}}\n"
    file.write_text(row.format("gpt2-small-res-jb/blocks.2.hook_resid_pre"))
    catalog = Catalog.load(file)
    entry = catalog.entry("gpt2-small-res-jb/blocks.2.hook_resid_pre")
    assert (entry.source, str(entry.hook)) == ("user", "resid_post.2")
    assert len([e for e in catalog.entries if e.sae == entry.sae]) == 1
    assert len([e for e in catalog.find("gpt2") if e.sae == entry.sae]) == 1

    file.write_text(row.format("raylens-pico-res/layer_9"))
    with pytest.raises(InputError, match="embedded bundle"):
        Catalog.load(file)


BASE = "  model: gpt2\n  hook: resid_post.3\n  path: x\n"
WRONG = {
    "unknown key": ("saes:\n- sae: a/b\n" + BASE + "  widht: 5\n", "line 6: saes.1.widht: extra inputs"),
    "top-level key": ("saes: []\nsae: []\n", "line 2: sae: extra inputs"),
    "missing key": ("saes:\n- sae: a/b\n  model: gpt2\n  path: x\n", "line 2: saes.1.hook: field required"),
    "not a list": ("saes: 5\n", "line 1: saes: input should be a valid list"),
    "not a mapping": ("- a\n- b\n", "line 1: the file: input should be a valid dictionary"),
    "a number as text": ("saes:\n- sae: 5\n" + BASE, "line 2: saes.1.sae: input should be a valid string"),
    "text as a number": ("saes:\n- sae: a/b\n" + BASE + "  width: '9'\n", "line 6: saes.1.width: input should be"),
    "width zero": ("saes:\n- sae: a/b\n" + BASE + "  width: 0\n", "line 6: saes.1.width: input should be greater"),
    "second entry": ("saes:\n- sae: a/b\n" + BASE + "- sae: a/c\n" + BASE + "  d_in: -1\n", "line 10: saes.2.d_in"),
    "not an id": ("saes:\n- sae: nameless\n" + BASE, "line 2: saes.1.sae: 'nameless' is not an SAE id"),
    "listed twice": ("saes:\n- sae: a/b\n" + BASE + "- sae: a/b\n" + BASE, "line 6: saes.2.sae: a/b is listed twice"),
    "unknown point": (
        "saes:\n- sae: a/b\n  model: gpt2\n  hook: resid_pots.3\n  path: x\n",
        "line 4: saes.1.hook: there is no hook point resid_pots",
    ),
    "a TransformerLens name": (
        "saes:\n- sae: a/b\n  model: gpt2\n  hook: blocks.3.hook_resid_post\n  path: x\n",
        "line 4: saes.1.hook: 'blocks.3.hook_resid_post' is not a hook point",
    ),
    "an API's model": (
        "saes:\n- sae: a/b\n  model: gpt-4o\n  hook: resid_post.3\n  path: x\n",
        "line 3: saes.1.model: gpt-4o is served by OpenAI",
    ),
    "path and repo": ("saes:\n- sae: a/b\n" + BASE + "  repo: me/x\n", "line 5: saes.1.path: name either"),
    "neither": ("saes:\n- sae: a/b\n  model: gpt2\n  hook: resid_post.3\n", "line 2: saes.1.repo: name either"),
    "labels of another layer": (
        "saes:\n- sae: a/b\n" + BASE + "  neuronpedia_id: gpt2-small/7-res-jb\n",
        "line 6: saes.1.neuronpedia_id: this label source is of layer 7, not 3",
    ),
    "labels of another model": (
        "saes:\n- sae: a/b\n" + BASE + "  neuronpedia_id: gemma-2-2b/3-res-jb\n",
        "line 6: saes.1.neuronpedia_id: this label source is of model google/gemma-2-2b",
    ),
    "no YAML": ("saes: [\n", "line 2: "),
    "bad indentation": ("saes:\n  - sae: a/b\n model: x\n", "line 3: "),
    "a key twice": ("saes: []\naliases: {}\nsaes: []\n", "line 3: saes is given twice"),
    "an alias to nothing": ("aliases:\n  x: ''\n", "line 2: aliases.x: string should have at least 1"),
    "a tag": ("saes: !!python/object:os.system {}\n", "line 1: "),
    "a loop": ("saes: &a [*a]\n", "line 1: saes.1"),
    "a key that is a list": ("? [a]\n: 5\n", "line 1: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_line(file: Path, case: str) -> None:
    text, expected = WRONG[case]
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read_user_file(file)
    assert expected in error.value.message
    assert str(file) in error.value.message
    assert error.value.hint


@settings(deadline=None)
@example(b"[" * 400)
@example(b"saes: \x00")
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_no_file_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    with suppress(InputError):
        read_user_file(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_user_file(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="is a folder"):
        read_user_file(tmp_path)


def test_which_file_is_read(tmp_path: Path) -> None:
    assert find_user_file(None, str(tmp_path), {}) is None
    assert find_user_file(None, None, {}) is None
    (tmp_path / "catalog.yaml").write_text(GOOD)
    found = find_user_file(None, str(tmp_path), {})
    assert found is not None
    assert len(read_user_file(found)[1]) == 2
    assert find_user_file(None, str(tmp_path), {"RAYLENS_CATALOG": "/e.yaml"}) == "/e.yaml"
    assert find_user_file("/o.yaml", str(tmp_path), {"RAYLENS_CATALOG": "/e.yaml"}) == "/o.yaml"


def test_a_workspace_in_an_object_store_has_its_file_there() -> None:
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/bucket/ws/catalog.yaml", GOOD.replace("path: saes/layer_3", "path: /abs/layer_3").encode())
    found = find_user_file(None, "memory://bucket/ws", {})
    assert found is not None
    assert read_user_file(found)[1][0].path == "/abs/layer_3"
    remote.pipe_file("/bucket/ws/catalog.yaml", GOOD.encode())
    with pytest.raises(InputError, match=r"line 9: saes\.1\.path: a relative path"):
        read_user_file(found)
