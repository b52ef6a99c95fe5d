"""The workbench from Python and from the command line, against a real gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway_here import TOKEN, Here, gateway_here
from raylens.errors import InputError, MismatchError, UnknownNameError
from raylens_app.cli.main import main

TEXT = "def area(radius):"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with gateway_here(tmp_path_factory.mktemp("bench") / "workspace") as found:
        yield found


# A3.05 A3.07
def test_a_session_from_python(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_BASE_DIR", str(tmp_path))
    bench = here.client.workbench()
    assert bench.session is None
    opened = bench.load_model("raylens/pico")
    assert opened.session == bench.session != ""
    assert bench.load_sae("raylens-pico-res/layer_5").saes[-1].layer == 5
    made = bench.patch(feature="f_3_7", strength=3.0)
    assert bench.patches() == [made]
    on = bench.infer(text=TEXT)
    assert on.patches == (made.id,)
    assert bench.toggle(made.id).enabled is False
    assert bench.infer(text=TEXT).kl == 0.0 < on.kl
    weaker = bench.change(made.id, feature="f_3_7", strength=0.5)
    assert (weaker.id, weaker.enabled, weaker.spec.edits[0].strength) == (made.id, False, 0.5)
    assert bench.patches() == [weaker]
    back = bench.change(made.id, feature="f_3_7", strength=3.0, enabled=True)
    assert bench.infer(text=TEXT).next == on.next, "as it was made"
    assert back == made
    with pytest.raises(InputError, match="no feature"):
        bench.change(made.id, feature="f_3_999999")
    assert bench.patches() == [made], "what is refused changes nothing"
    other = here.client.workbench()
    other.load_model()
    taken = other.take(bench.export(made.id))
    assert other.infer(text=TEXT).next == on.next
    other.delete(taken.id)
    assert other.show().patches == ()
    assert Path(bench.export_sae("raylens-pico-res/layer_3", "sae").path) == tmp_path / "sae"
    with pytest.raises(UnknownNameError, match="no patch"):
        other.toggle(made.id)
    with pytest.raises(UnknownNameError, match="no patch"):
        other.change(made.id, feature="f_3_7")
    with pytest.raises(InputError, match="no session"):
        here.client.workbench("never-opened").show()
    with pytest.raises(MismatchError, match="is for"):
        other.take(bench.export(made.id).model_copy(update={"model": "gpt2-small"}))


@pytest.fixture
def command(
    here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("RAYLENS_URL", here.url)
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["patch", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_a_session_from_the_command_line(
    here: Here, command: Callable[..., tuple[int, str, str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = command("list")
    assert (code, out) == (0, "")
    assert "raylens patch create" in err
    code, out, err = command("create", "f_3_7", "--strength", "3", "--name", "mine")
    assert code == 0, err
    made = out.strip()
    assert "its largest activation is" in err
    bench = here.client.workbench("cli")
    assert [(one.id, one.enabled) for one in bench.patches()] == [(made, True)]
    assert command("toggle", made)[1] == f"{made} is off\n"
    assert command("toggle", made, "--on")[1] == f"{made} is on\n"
    assert made in command("list")[1]
    (listed,) = json.loads(command("list", "--json")[1])
    assert listed["spec"]["name"] == "mine"
    assert json.loads(command("list", "--session", "another", "--json")[1]) == []
    (tmp_path / "mine.json").write_text(bench.export(made).model_dump_json())
    code, out, err = command("import", "mine.json", "--session", "theirs", "--json")
    assert code == 0, err
    theirs = here.client.workbench("theirs")
    assert json.loads(out)["id"] == theirs.patches()[0].id
    assert theirs.infer(text=TEXT).next == bench.infer(text=TEXT).next
    words = [
        "--workspace",
        here.workspace.url,
        "patch",
        "export",
        made,
        "--out",
        "weights",
        "--text",
        "stdlib:held_out",
    ]
    assert main([*words, "--n-tokens", "128", "--ctx-len", "32"]) == 0, capsys.readouterr().err
    exported = json.loads((tmp_path / "weights/patch.json").read_text())["spec"]["edits"]
    assert exported == [one.model_dump() for one in bench.export(made).edits]
    assert main(["--workspace", here.workspace.url, "patch", "export", "0123456789ab", "--out", "none"]) == 2
    assert "no session of this workspace has a patch" in capsys.readouterr().err
    assert command("delete", made)[0] == 0
    code, out, err = command("toggle", made)
    assert (code, out) == (2, "")
    assert "no patch" in err
    assert command("create", "f_2_7")[0] == 2
