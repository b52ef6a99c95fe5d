"""The SAE tab of a span, and ablation and counterfactuals beside it: over a real gateway, and over what is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

from app_here import app_on, html, page, run, said
from browsed import PICO, make_browsed
from gateway_here import TOKEN, Here, gateway_here
from raylens.api.reading import Peaks
from raylens.errors import DiskFullError, InputError, MismatchError, OutOfMemoryError, RaylensError
from raylens.ids import FeatureId, SaeId
from raylens.labels.buckets import BUCKETS
from raylens.labels.span_labels import feature_line
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from raylens_app.web.theme import style_sheet
from span_pages import links, press, strip_lines, write_traces
from trace_samples import a_span, an_extraction

SENT = {"input": "def area(radius):\n    ", "output": "return math.pi * radius ** 2\n"}
GEMMA = SaeId.parse("gemma-scope-2b-pt-res/layer_15/width_16k/average_l0_78")
EFFECTS = "ablation and counterfactuals"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    folder = tmp_path_factory.mktemp("spans") / "workspace"
    make_browsed(folder)
    models = [{"model": "raylens/pico", "saes": [str(PICO), "raylens-pico-res/layer_1"]}]
    with gateway_here(folder, models=models) as found:
        yield found


@pytest.fixture
def served(here: Here, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    with app_on(here.workspace.url, here.url):
        yield here


def sent(here: Here, **said: object) -> str:
    (span,) = here.client.traces.add([{"model": "raylens/pico", **SENT, **said}])
    return span


def sae(span: str, **params: str) -> AppTest:
    return page("traces", span=span, tab="SAE", **params)


def buttons(app: AppTest) -> list[str]:
    return [one.label for one in app.button]


# A0.01, A0.12: the features of a span, and only after somebody asked for them.
def test_features_are_read_when_the_button_is_pressed_and_not_before(served: Here) -> None:
    span = sent(served)
    before = served.encoder.calls["peaks"]
    app = sae(span)
    assert "Which concepts was the model thinking about?" in said(app)
    assert "Extract now" in buttons(app)
    run(app)
    assert served.encoder.calls["peaks"] == before, "looking at a span reads nothing"
    assert served.client.sae.kept(span) == []
    app = press(app, "Extract now")
    (kept,) = served.client.sae.kept(span, 20)
    assert strip_lines(app) == [feature_line(one) for one in kept.features]
    assert len(strip_lines(app)) == 20
    # A0.10: the reason is shown; what is kept says so.
    assert re.search(r"raylens-pico-res/layer_3 · \d+ tokens, read .* ago · ok$", said(app), re.M)
    assert "Extract now" not in buttons(app)
    assert said(sae(span)).rstrip().endswith("· ok (cached)")


# A0.11: the next visit needs no services, and another number of features reads nothing anew.
def test_what_was_read_is_shown_without_services(served: Here) -> None:
    span = sent(served)
    answer = served.client.sae.extract(span, 256)
    calls = served.encoder.calls["peaks"]
    with app_on(served.workspace.url):
        app = sae(span, top_k="5")
        assert strip_lines(app) == [feature_line(one) for one in answer.features[:5]]
        app.number_input(key="top_k").set_value(30)
        assert strip_lines(run(app)) == [feature_line(one) for one in answer.features[:30]]
        assert not app.error
        assert len(strip_lines(sae(span, top_k="100000"))) == 20, "an address cannot ask for more than are kept"
    assert served.encoder.calls["peaks"] == calls


def test_another_sae_is_chosen_and_read(served: Here) -> None:
    span = sent(served)
    app = sae(span, span_sae="raylens-pico-res/layer_1")
    app = press(app, "Extract now")
    assert all(one.startswith("f_1_") for one in strip_lines(app))
    app = press(sae(span, span_sae=str(PICO)), "Extract now")
    assert all(one.startswith("f_3_") for one in strip_lines(app))
    assert {one.sae for one in served.client.sae.kept(span)} == {str(PICO), "raylens-pico-res/layer_1"}
    before = served.encoder.calls["peaks"]
    press(app, "Read it anew")
    assert served.encoder.calls["peaks"] == before + 1


def kept_of_gemma(workspace: Workspace) -> None:
    peaks = Peaks(indices=(7, 4109, 12, 3), activations=(3.5, 0.92, 0.5, 0.25), positions=(1, 2, 3, 4))
    read = an_extraction("seen", model="google/gemma-2-2b", sae=str(GEMMA), layer=15, peaks=peaks)
    write_traces(workspace, [a_span("seen", model="google/gemma-2-2b")], [read])
    labels = Labels(workspace)
    labels.say(FeatureId(GEMMA, 4109), "ann", label="hidden intent of the user")
    labels.say(FeatureId(GEMMA, 12), "ann", label="requests for weapons <script>alert(1)</script>")


# A0.16, A0.17: one line a feature; without a label its id and (label pending). A0.19: by activation, with a link.
def test_the_strip_says_id_label_and_activation_in_order(empty: Workspace) -> None:
    kept_of_gemma(empty)
    app = sae("seen")
    assert strip_lines(app)[:2] == ["f_15_7 · (label pending)  3.50", "f_15_4109 · hidden intent of the user  0.92"]
    assert [one.split(" ")[0] for one in strip_lines(app)] == ["f_15_7", "f_15_4109", "f_15_12", "f_15_3"]
    shown = html(app)
    assert "<script>" not in shown
    assert shown.count("View on Neuronpedia") == 4
    assert 'href="https://www.neuronpedia.org/gemma-2-2b/15-gemmascope-res-16k/4109"' in shown
    assert [one.page for one in links(app)] == [], "no cache holds this SAE: its features have no page"
    widths = [float(one) for one in re.findall(r"width:([\d.]+)%", shown)]
    assert widths == sorted(widths, reverse=True)
    assert widths[:2] == [100.0, 26.3], "a bar is as long as the activation is large"


# A0.18: five buckets by the label's words, each in the one colour that the theme has for it.
def test_each_bar_has_the_colour_of_its_bucket(empty: Workspace) -> None:
    kept_of_gemma(empty)
    bars = re.findall(r'<span class="rl-bucket-(\w+)" style=', html(sae("seen")))
    assert bars == ["unknown", "intent", "safety", "unknown"]
    assert 'style="margin' in html(sae("seen"))
    for bucket in BUCKETS:
        assert style_sheet().count(f".rl-bucket-{bucket}{{") == 1
    assert not re.findall(r"#[0-9a-f]{6}", html(sae("seen"))), "no colour is named anywhere but in the theme"


def test_a_feature_leads_to_its_page(served: Here) -> None:
    span = sent(served)
    served.client.sae.extract(span, 5)
    to = [one for one in links(sae(span, top_k="5")) if one.page == "feature"]
    assert len(to) == 5
    name = to[0].label.split(" ")[0].rpartition("_")[2]
    assert to[0].query == f"id=raylens-pico-res%2Flayer_3%2F{name}"


# A0.06: an API-only model has no extraction, says why, and names what works all the same. A0.23: so do the others.
@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("gpt-4o", "is served by OpenAI through an API only"),
        ("claude-sonnet-4-5", "is served by Anthropic through an API only"),
        (None, "no model is named"),
    ],
)
def test_where_nothing_can_be_read_the_span_says_why(empty: Workspace, model: str | None, why: str) -> None:
    write_traces(empty, [a_span("one", model=model)])
    app = sae("one")
    text = said(app)
    assert why in text
    assert "ablation and counterfactuals" in text
    assert not {"Extract now", "Read it anew"} & set(buttons(app))
    assert len(app.dataframe[-1].value) > 100, "and the catalogue"
    app = page("traces", span="one", tab=EFFECTS)
    assert why in said(app)
    assert "leave one part of the input out" in said(app)
    assert "Measure effects" not in buttons(app)


@pytest.mark.parametrize(
    ("model", "why", "remedy"),
    [
        ("nobody/knows", "no SAE is known for nobody/knows", "there are"),
        ("google/gemma-2-2b", "these services do not serve it", "add google/gemma-2-2b to models in the config"),
    ],
)
def test_a_model_that_is_not_served_says_what_to_do(served: Here, model: str, why: str, remedy: str) -> None:  # A0.23
    app = press(sae(sent(served, model=model)), "Extract now")
    (warning,) = app.warning
    assert why in warning.value.replace("\\", "")
    assert remedy in warning.value.replace("\\", "")


# A0.04, A0.23: an SAE of another model is named as what it is, and used only on explicit order.
def test_an_sae_of_another_model_is_used_on_order_only(empty: Workspace) -> None:
    write_traces(empty, [a_span("one", model="meta-llama/Meta-Llama-3-8B")])
    app = sae("one")
    assert "were trained on another model" in said(app)
    assert [(one.label, one.value) for one in app.checkbox] == [
        ("read it although the SAE was trained on another model", False)
    ]


ADVICE = "fewer SAEs, --dtype bfloat16 or a quantised model: Llama-3.1-8B takes 16 GB, Gemma-2-2b 8 GB."
TROUBLE = [
    OutOfMemoryError("cuda ran out of memory while reading a text.", hint=ADVICE),
    InputError("the model stack is not installed here (torch is missing).", hint="pip install 'raylens[models]'."),
    InputError("google/gemma-2-2b is gated.", hint="set HF_TOKEN (or RAYLENS_SAE_MODEL_KEY) to a read token."),
    MismatchError("the SAE was trained on another model.", hint="order it with override_guard."),
    DiskFullError("there is no space.", hint="free some."),
]


# A0.23: what went wrong in the services is said with its remedy, and not taken for services that are down.
@pytest.mark.parametrize("error", TROUBLE, ids=lambda error: type(error).__name__)
def test_what_fails_in_the_services_is_said(served: Here, monkeypatch: pytest.MonkeyPatch, error: RaylensError) -> None:
    app = sae(sent(served))

    async def fails(method: str, *arguments: object, model: str = "") -> object:
        raise error

    monkeypatch.setattr(served.encoder, "call", fails)
    app = press(app, "Extract now")
    (shown,) = app.error
    assert error.message in shown.value.replace("\\", "")
    assert error.hint in shown.value.replace("\\", "")
    assert "serve up" not in said(app)
    monkeypatch.undo()
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    assert len(strip_lines(press(app, "Extract now"))) == 20, "and it can be tried again"


def test_services_that_are_down_are_said_with_what_starts_them(empty: Workspace) -> None:
    write_traces(empty, [a_span("one", model="raylens/pico")])
    app = press(sae("one"), "Extract now")
    assert "do not answer" in said(app)
    assert f"raylens --workspace {empty.url} serve up --detach" in said(app)
    app = press(page("traces", span="one", tab=EFFECTS), "Measure effects")
    assert "serve up --detach" in said(app)


def test_a_wrong_token_is_said(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", "another-token-of-sixteen-characters")
    span = sent(here)
    with app_on(here.workspace.url, here.url):
        app = press(sae(span), "Extract now")
        (error,) = app.error
        assert "token" in error.value
        assert "serve up" not in said(app)


# A0.06, A0.01: beside features, what each token did; of a model that runs here by taking tokens out and replacing them.
def test_ablation_and_counterfactuals_stand_beside_the_features(served: Here) -> None:
    span = sent(served)
    app = press(page("traces", span=span, tab=EFFECTS, tokens="8"), "Measure effects")
    found = served.client.sae.span_effects(span, n_tokens=8).effects
    assert found is not None
    table = app.dataframe[-1].value
    assert list(table["effect"]) == sorted(one.effect for one in (*found.ablations, *found.counterfactuals))
    assert list(table["change"]).count("taken out") == len(found.ablations) == 8
    assert table["change"].str.startswith("replaced by").sum() == len(found.counterfactuals)
    strongest = max(-one.effect for one in found.ablations)
    assert f'title="{strongest:.9g}"' in html(app)
    assert "nats" in said(app)


def test_a_span_without_output_has_no_effects(served: Here) -> None:
    app = page("traces", span=sent(served, output=""), tab=EFFECTS)
    assert "This span has no output." in said(app)
    assert "Measure effects" not in buttons(app)
