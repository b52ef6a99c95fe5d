"""Workbench: a session over real services, live; what is refused is said, and the address brings it back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from app_here import app_on, charts, page, run, said, titles
from gateway_here import TOKEN, Here, gateway_here

PROMPT = "def area(radius):"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with gateway_here(tmp_path_factory.mktemp("bench") / "workspace") as found:
        yield found


@pytest.fixture(autouse=True)
def services(here: Here, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    with app_on(here.workspace.url, here.url):
        yield


def begun(**params: str) -> AppTest:
    app = page("workbench", prompt=PROMPT, **params)
    (load,) = (one for one in app.button if one.label == "Load")
    load.click()
    return run(app)


def press(app: AppTest, label: str) -> AppTest:
    next(one for one in app.button if one.label == label).click()
    return run(app)


def shown(app: AppTest, model: str) -> list[float]:
    return list(app.dataframe[0].value[model])


# A4.03, A3.05: patches are made, switched and changed while the model stays loaded.
def test_a_patch_moves_the_probabilities_and_off_is_as_before(here: Here) -> None:
    app = begun()
    assert "raylens/pico" in said(app)
    assert "no patch is on" in charts(app)[0]["title"]["subtitle"]
    assert {"What comes next after the text", "probability of the token"} <= titles(charts(app)[0])
    assert shown(app, "baseline") == shown(app, "patched")
    untouched = shown(app, "baseline")
    app.text_input(key="new-feature").set_value("f_3_7")
    app = press(app, "Add patch")
    assert "1 patch on" in charts(app)[0]["title"]["subtitle"]
    assert max(abs(a - b) for a, b in zip(shown(app, "baseline"), shown(app, "patched"), strict=True)) > 1e-3
    session = app.query_params["session"]
    assert isinstance(session, str)
    bench = here.client.workbench(session)
    (patch,) = bench.patches()
    assert (patch.spec.edits[0].strength, patch.enabled) == (2.0, True)
    asked = here.client.workbench(session).infer(text=PROMPT)
    assert shown(app, "patched") == [one.patched for one in asked.next]

    app.slider(key=f"strength-{patch.id}").set_value(5.0)
    run(app)
    assert bench.patches()[0].spec.edits[0].strength == 5.0
    app.toggle(key=f"on-{patch.id}").set_value(False)
    run(app)
    assert not bench.patches()[0].enabled
    assert shown(app, "patched") == shown(app, "baseline") == untouched
    bench.toggle(patch.id, True)  # somebody else does
    run(app)
    assert app.toggle(key=f"on-{patch.id}").value is True

    again = page("workbench", session=session, prompt=PROMPT)
    assert shown(again, "patched") == shown(app, "patched"), "the address brings it back"
    app = press(app, "Write on")
    written = bench.infer(text=PROMPT, max_new_tokens=48)
    both = [f"{PROMPT}{one}".strip() for one in (written.baseline, written.patched)]
    assert [one.value for one in app.code if one.value.startswith(PROMPT)] == both
    next(one for one in app.button if one.key == f"delete-{patch.id}").click()
    run(app)
    assert bench.patches() == []


def test_sessions_do_not_see_each_other() -> None:
    one, other = begun(), begun()
    one.text_input(key="new-feature").set_value("f_3_7")
    one = press(one, "Add patch")
    assert one.query_params["session"] != other.query_params["session"]
    assert "no patch is on" in charts(run(other))[0]["title"]["subtitle"]


def test_what_is_refused_is_said_and_the_page_goes_on() -> None:
    app = begun(feature="f_3_999999")
    assert app.text_input(key="new-feature").value == "f_3_999999", "as the link said"
    app = press(app, "Add patch")
    (error,) = app.error
    assert "no feature" in error.value.replace("\\", "")
    assert charts(app), "the page goes on"
    assert not run(app).error, "and says it once"
    app.text_input(key="bench-sae").set_value("no-such/sae")
    app = press(app, "Attach")
    assert app.error


def test_an_unknown_session_leads_to_a_new_one() -> None:
    app = page("workbench", session="never-opened")
    assert app.error
    app = press(app, "Begin a new session")
    assert "session" not in app.query_params
    assert not app.error


def test_without_services_it_says_how_they_are_started(here: Here) -> None:
    with app_on(here.workspace.url):
        app = page("workbench")
    assert "do not answer" in said(app)
    assert any("serve up --detach" in one.value for one in app.code)
