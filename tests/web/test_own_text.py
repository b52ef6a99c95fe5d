"""A text of one's own is read by the services: a real gateway with a real model, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from app_here import app_on, html, page, run, said
from browsed import PICO, make_browsed
from gateway_here import TOKEN, Here, gateway_here


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("own-text")
    make_browsed(folder)
    with gateway_here(folder, models=[{"model": "raylens/pico", "saes": [str(PICO), EARLIER]}]) as found:
        yield found


EARLIER = "raylens-pico-res/layer_1"


def read(app: AppTest, text: str) -> AppTest:
    app.text_area(key="own-text-input").set_value(text)
    next(one for one in app.button if one.label == "Read it").click()
    return run(app)


def test_a_text_is_read_and_shaded(services: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    text = "def f(x):\n    return self.x  # <script>alert(1)</script>\n"
    answers = {index: services.client.features.activate(f"{PICO}/{index}", text) for index in range(12)}
    index = max(answers, key=lambda one: answers[one].peak)
    with app_on(services.workspace.url, services.url):
        app = read(page("feature", id=f"{PICO}/{index}", part="your text"), text)
        shown = html(app)
        assert "&lt;script&gt;" in shown
        assert "<script>" not in shown
        assert answers[index].peak > 0
        assert f'title="{answers[index].peak:.9g}"' in shown
        assert "read by raylens/pico" in said(app)
        app.toggle(key="own-text-values").set_value(True)
        assert f'<sub class="rl-value">{answers[index].peak:.5g}</sub>' in html(run(app))
        silent = min(answers, key=lambda one: answers[one].peak)
        assert answers[silent].position is None
        app = read(page("feature", id=f"{PICO}/{silent}", part="your text"), text)
        assert "It fires on none of the" in said(app)
        assert text not in str(app.query_params), "what is tried stays in the session"
        # The services card of Home says what each part says of itself.
        assert "not ready" not in said(page())


# A3.10: shown as a graph.
def test_a_feature_is_followed_back_in_a_text(services: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    text = "def f(x):\n    return self.x  # <script>alert(1)</script>\n"
    answers = {index: services.client.features.activate(f"{PICO}/{index}", text).peak for index in range(12)}
    name = f"{PICO}/{max(answers, key=lambda one: answers[one])}"
    found = services.client.sae.provenance(name, text, top=5)
    with app_on(services.workspace.url, services.url):
        app = page("feature", id=name, part="causes")
        assert "Nobody has followed this feature back yet" in said(app)
        next(one for one in app.text_area if one.label == "A text to follow it back in").set_value(text)
        next(one for one in app.selectbox if one.label == "sources a layer").set_value(5)
        next(one for one in app.button if one.label == "Follow it back").click()
        run(app)
        assert f"{len(found.edges)} edges, ablation confirms" in said(app)
        (frame,) = (one.proto.srcdoc for one in app.get("iframe"))  # pyright: ignore[reportAttributeAccessIssue]
        assert found.edges[0].source.short in frame
        assert "<script>" not in frame
        silent = page("feature", id=f"{PICO}/{min(answers, key=lambda one: answers[one])}", part="causes")
        next(one for one in silent.text_area if one.label == "A text to follow it back in").set_value(text)
        next(one for one in silent.button if one.label == "Follow it back").click()
        assert len(run(silent).error) == 1, "it does not fire there"


def test_a_feature_that_the_services_do_not_hold_is_refused(services: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    with app_on(services.workspace.url, services.url):
        app = read(page("feature", id="tiny-res/layer_3/1", part="your text"), "a b c")
        assert len(app.error) == 1


def test_a_wrong_token_is_said_and_not_taken_for_services_that_are_down(
    services: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", "another-token-of-sixteen-characters")
    with app_on(services.workspace.url, services.url):
        app = read(page("feature", id=f"{PICO}/1", part="your text"), "a b c")
        assert len(app.error) == 1
        assert "serve up" not in said(app)
        assert "token" in said(app).lower()
        assert len(page().error) == 1, "Home says so too"
