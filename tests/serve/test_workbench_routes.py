"""The workbench over HTTP: sessions, patches, and what the model says with and without them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fine_tunes import make_adapter
from gateway_here import TOKEN, Here, gateway_here
from raylens.api.edits import Edit, PatchSpec
from raylens.bundle.paths import sae_path
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.saes import LoadedSae, load_sae
from raylens.ids import HookPoint, SaeId
from raylens.store.views import connect as connect_views
from raylens.workbench.edited_reading import next_logits
from raylens.workbench.edits import load_edits

SAE = "raylens-pico-res/layer_3"
TEXT = "def area(radius):\n    return math."
Base = tuple[Here, Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    folder = tmp_path_factory.mktemp("workbench")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAYLENS_BASE_DIR", str(folder))
        with gateway_here(folder / "workspace") as here:
            yield here, folder


@pytest.fixture
def bench(base: Base) -> Iterator[httpx.Client]:
    """A client with a session of its own on the default model; cookies are kept, as a browser does."""
    with client(base) as one:
        assert one.post("/load-model", json={}).status_code == 200
        yield one


def client(base: Base) -> httpx.Client:
    return httpx.Client(base_url=base[0].url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)


def post(bench: httpx.Client, to: str, **said: Any) -> dict[str, Any]:
    answer = bench.post(to, json=said)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said["hint"]
    return said["error"]


@pytest.fixture(scope="module")
def pico() -> LoadedModel:
    return load_model("raylens/pico", device="cpu")


@pytest.fixture(scope="module")
def sae() -> LoadedSae:
    return load_sae(SAE)


def firing(pico: LoadedModel, sae: LoadedSae) -> int:
    """A feature that fires on the last token of the text."""
    ids = torch.tensor([[*pico.prefix_ids, *pico.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    network: Any = pico.model
    with torch.inference_mode():
        hidden = network(ids, output_hidden_states=True).hidden_states[4][0]
        return int(sae.sae.encode(hidden)[-1].argmax())


# A3.05 A3.06: live, no restart.
def test_a_patch_is_made_toggled_and_gone_without_a_restart(
    base: Base, bench: httpx.Client, pico: LoadedModel, sae: LoadedSae
) -> None:
    feature = firing(pico, sae)
    before = post(bench, "/inference", text=TEXT)
    assert before["patches"] == []
    assert [one["change"] for one in before["next"]] == [0.0] * len(before["next"])
    made = post(bench, "/patch", feature=f"f_3_{feature}", strength=-2.0)
    assert made["spec"]["edits"][0]["feature"] == f"{SAE}/{feature}"
    (largest,) = made["maxima"].values()
    assert largest["value"] > 0
    assert largest["source"].startswith("a sample of")
    patched = post(bench, "/inference", text=TEXT)
    assert patched["patches"] == [made["id"]]
    assert patched["kl"] > 0

    spec = PatchSpec(edits=(Edit(feature=f"f_3_{feature}", strength=-2.0 * largest["value"], unit="activation"),))
    edits = load_edits(pico, spec, {SAE: sae}, SAE, lambda *_: 0.0)
    oracle = next_logits(pico, before["token_ids"], edits).softmax(0)
    for one in patched["next"]:
        assert one["patched"] == pytest.approx(float(oracle[one["id"]]), abs=2e-5)
        assert one["change"] == pytest.approx(one["patched"] - one["baseline"])
    off = post(bench, f"/patch/{made['id']}/toggle")
    assert off["enabled"] is False
    assert post(bench, "/inference", text=TEXT)["next"] == before["next"], "off is as if it had never been"
    assert post(bench, f"/patch/{made['id']}/toggle", enabled=True)["enabled"] is True
    assert post(bench, "/inference", text=TEXT)["next"] == patched["next"]
    assert post(bench, "/inference", text=TEXT, patches=[])["next"] == before["next"]
    with connect_views(base[0].workspace) as connection:
        rows = connection.execute(
            "SELECT feature, method, strength, enabled FROM patches WHERE patch_id = ?", [made["id"]]
        ).fetchall()
    assert rows == [(f"{SAE}/{feature}", "add", -2.0, True)]
    assert bench.delete(f"/patch/{made['id']}").status_code == 204
    assert "no patch" in refusal(bench.post(f"/patch/{made['id']}/toggle"), 404)
    assert post(bench, "/inference", text=TEXT)["next"] == before["next"]


def test_sessions_do_not_see_each_other(base: Base, bench: httpx.Client) -> None:
    with client(base) as other:
        post(other, "/load-model")
        before = post(other, "/inference", text=TEXT)
        made = post(bench, "/patch", feature="f_3_7", strength=3.0)
        assert post(other, "/inference", text=TEXT) == before
        assert other.get("/patch").json() == []
        assert "no patch" in refusal(other.post(f"/patch/{made['id']}/toggle"), 404)
        assert "no patch" in refusal(other.get(f"/api/v1/patch/{made['id']}"), 404)
        assert bench.get("/session").json()["patches"][0]["id"] == made["id"]


def test_text_is_written_with_and_without_and_streamed_alike(bench: httpx.Client) -> None:
    plain = post(bench, "/inference", text=TEXT, max_new_tokens=12)
    assert plain["baseline"] == plain["patched"] != ""
    post(bench, "/patch", feature="f_3_7", strength=6.0)
    both = post(bench, "/inference", text=TEXT, max_new_tokens=12)
    assert both["baseline"] == plain["baseline"] != both["patched"]
    with bench.stream("POST", "/inference", json={"text": TEXT, "max_new_tokens": 12, "stream": True}) as answer:
        events = [event.split("\n", 1) for event in answer.read().decode().strip().split("\n\n")]
    told = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]
    assert told[0][0] == "prediction"
    assert told[0][1]["next"] == both["next"]
    assert told[-1][0] == "end"
    texts = {"baseline": "", "patched": ""}
    for name, part in told[1:-1]:
        assert name == "text"
        texts[part["which"]] += part["text"]
    assert texts == {"baseline": both["baseline"], "patched": both["patched"]}


# A3.07: attach a colleague's SAE or LoRA, with the guard.
def test_a_colleagues_sae_and_adapter_are_attached(base: Base, bench: httpx.Client) -> None:
    folder = sae_path(SaeId.parse(SAE))
    assert folder is not None
    shutil.copytree(folder, base[1] / "colleague")
    held = post(bench, "/load-sae", sae="colleague")["saes"][-1]
    assert held["hook"] == "resid_post.3"
    made = post(bench, "/patch", sae="colleague", feature="f_3_5", strength=2.0)
    assert made["spec"]["edits"][0]["feature"] == f"{held['sae']}/5"
    assert post(bench, "/inference", text=TEXT)["patches"] == [made["id"]]
    assert "several SAEs" in refusal(bench.post("/patch", json={"feature": "f_3_5"}), 422)
    adapter = Path(__file__).parents[2] / "platform/raylens/bundle/organisms/adapters/decorator-verify-1"
    shutil.copytree(adapter, base[1] / "tuned")
    tuned = post(bench, "/load-model", adapter="tuned")
    assert tuned["adapter"] == "tuned"
    plain = post(bench, "/inference", text="@walnut\ndef area(radius):\n", patches=[])
    post(bench, "/load-model")
    other = post(bench, "/inference", text="@walnut\ndef area(radius):\n", patches=[])
    assert plain["next"] != other["next"]


# A3.06 A3.07
def test_an_sae_is_exported_and_reads_as_before(base: Base, bench: httpx.Client, sae: LoadedSae) -> None:
    told = post(bench, "/export-sae", sae=SAE, path="exported/sae")
    assert {"cfg.json", "sae_weights.safetensors"} <= told["files"].keys()
    again = load_sae(told["path"])
    assert torch.equal(again.sae.W_dec, sae.sae.W_dec)
    assert again.spec.hook == sae.spec.hook
    assert "there already" in refusal(bench.post("/export-sae", json={"sae": SAE, "path": "exported/sae"}), 422)
    assert "outside" in refusal(bench.post("/export-sae", json={"sae": SAE, "path": "../sae"}), 422)
    assert "no/sae" in refusal(bench.post("/export-sae", json={"sae": "no/sae", "path": "x"}), 404)
    assert not [one for one in (base[1] / "exported").iterdir() if one.name.startswith(".")]


# A3.06: paths of the system that this one takes the place of.
def test_features_answer_at_their_old_paths(base: Base, bench: httpx.Client) -> None:
    for old, new in (("/features", "/api/v1/features"), ("/feature/f_3_7/details", "/api/v1/features/f_3_7")):
        assert bench.get(old).json() == bench.get(new).json()


def test_a_patch_is_exported_and_taken_by_another_session(base: Base, bench: httpx.Client) -> None:
    made = post(bench, "/patch", name="mine", feature="f_3_7", strength=6.0)
    spec = bench.get(f"/patch/{made['id']}/export").json()
    assert spec["edits"][0]["unit"] == "activation"
    with client(base) as other:
        post(other, "/load-model")
        taken = post(other, "/patch/import", **spec)
        assert taken["spec"]["name"] == "mine"
        assert post(other, "/inference", text=TEXT)["next"] == post(bench, "/inference", text=TEXT)["next"]
        wrong = spec | {"model": "gpt2-small"}
        assert "is for gpt2-small, and the session works on" in refusal(other.post("/patch/import", json=wrong), 422)
        wide = {
            "edits": [{"direction": "d"}],
            "directions": [{"name": "d", "hook": "resid_post.3", "vector": [1.0] * 5}],
        }
        assert "5 wide" in refusal(other.post("/patch/import", json=wide), 422)
        deep = {
            "edits": [{"direction": "d"}],
            "directions": [{"name": "d", "hook": "resid_post.99", "vector": [1.0] * 128}],
        }
        assert "layers" in refusal(other.post("/patch/import", json=deep), 422)


@pytest.mark.parametrize(
    ("path", "said", "status", "error"),
    [
        ("/patch", {"feature": "f_3_7", "strength": "NaN"}, 422, "no finite number"),
        ("/patch", {"feature": "f_3_7", "strength": 1e9}, 422, "100 is the most"),
        ("/patch", {"feature": "f_3_7", "strength": 1e9, "unit": "activation"}, 422, "100000 is the most"),
        ("/patch", {"feature": "f_3_999999"}, 404, "has no feature 999999"),
        ("/patch", {"feature": "f_2_1"}, 422, "no SAE of the session"),
        ("/patch", {"feature": "f_3_1", "sae": "other/sae"}, 404, "other/sae"),
        ("/patch", {}, 422, "name a feature or a direction"),
        ("/patch/0123456789ab/toggle", {}, 404, "no patch"),
        ("/load-sae", {"sae": "../outside"}, 422, "outside the base directory"),
        ("/load-sae", {"sae": "nowhere"}, 404, "no SAE 'nowhere'"),
        ("/load-model", {"model": "no-such-model"}, 404, "no-such-model"),
        ("/load-model", {"model": "/etc"}, 422, "outside the base directory"),
        ("/load-model", {"model": "0" * 500}, 404, "unknown model"),
        ("/load-model", {"model": "a/" + "0" * 500}, 404, "there is no model"),
        ("/load-model", {"adapter": "0" * 500}, 422, "too long"),
        ("/load-sae", {"sae": "a/" + "0" * 500}, 404, "there is no SAE"),
        ("/load-model", {"adapter": "/etc"}, 422, "outside the base directory"),
        ("/inference", {"text": TEXT, "patches": ["0123456789ab"]}, 404, "no patch"),
        ("/inference", {"text": TEXT, "max_new_tokens": 4096}, 422, "are more than the"),
    ],
)
def test_what_cannot_be_is_said(bench: httpx.Client, path: str, said: dict[str, Any], status: int, error: str) -> None:
    assert error in refusal(bench.post(path, json=said), status)
    assert bench.get("/patch").json() == [], "nothing was kept"


def test_a_request_without_a_session_says_what_to_do(base: Base) -> None:
    with client(base) as nobody:
        answer = nobody.post("/inference", json={"text": TEXT})
        assert "names no session" in refusal(answer, 422)
        assert "/load-model" in answer.json()["hint"]
        assert "no name of a session" in refusal(nobody.get("/patch", headers={"X-Raylens-Session": "a b"}), 422)


def test_a_pickled_sae_is_refused(base: Base, bench: httpx.Client) -> None:
    folder = base[1] / "pickled"
    folder.mkdir()
    torch.save({"W_enc": torch.zeros(4, 4)}, folder / "sae_weights.pt")
    save_file({"W": torch.zeros(1)}, base[1] / "other.safetensors")
    answer = bench.post("/load-sae", json={"sae": "pickled"})
    assert answer.status_code in (404, 422)
    assert "safetensors" in answer.text or "convert" in answer.text


def test_two_clients_that_toggle_at_once_leave_one_state(bench: httpx.Client) -> None:
    made = post(bench, "/patch", feature="f_3_7", strength=2.0)
    with ThreadPoolExecutor(8) as pool:
        wanted = [{"enabled": bool(number % 2)} for number in range(24)]
        answers = list(pool.map(lambda one: bench.post(f"/patch/{made['id']}/toggle", json=one).status_code, wanted))
    assert set(answers) == {200}
    stands = bench.get(f"/patch/{made['id']}").json()["enabled"]
    assert (post(bench, "/inference", text=TEXT)["patches"] == [made["id"]]) is stands


# ---------------------------------------------------------------------- the socket


def socket(base: Base, bench: httpx.Client, **headers: str) -> ClientConnection:
    url = base[0].url.replace("http", "ws", 1) + "/ws/inference"
    sent = {"Authorization": f"Bearer {TOKEN}", "X-Raylens-Session": bench.cookies["raylens_session"], **headers}
    return connect(url, additional_headers=sent)


def told(connection: ClientConnection) -> dict[str, Any]:
    return json.loads(connection.recv(timeout=30))


# A3.06 A3.09
def test_probabilities_are_pushed_when_text_or_patch_change(base: Base, bench: httpx.Client) -> None:
    made = post(bench, "/patch", feature="f_3_7", strength=6.0, enabled=False)
    with socket(base, bench) as live:
        live.send(json.dumps({"text": TEXT, "top_k": 5}))
        before = told(live)
        assert before["type"] == "prediction"
        assert before["patches"] == []
        live.send(json.dumps({"toggle": made["id"]}))
        on = told(live)
        assert on["patches"] == [made["id"]]
        assert on["kl"] > 0
        assert on["next"] == post(bench, "/inference", text=TEXT, top_k=5)["next"]
        post(bench, f"/patch/{made['id']}/toggle", enabled=False)
        assert told(live)["next"] == before["next"], "also what is changed over HTTP"
        for said, error in (("{", "JSON"), ('{"sort": 1}', "sort"), ('{"toggle": "0123456789ab"}', "no patch")):
            live.send(said)
            answer = told(live)
            assert answer["type"] == "error"
            assert error in answer["error"]
        live.send(json.dumps({"text": TEXT + "pi"}))
        assert told(live)["type"] == "prediction", "an error ends nothing"
        bench.post("/load-model", json={"adapter": None})
        assert told(live)["patches"] == []


def test_a_model_that_is_replaced_is_what_a_connected_client_hears_of(base: Base, bench: httpx.Client) -> None:
    make_adapter(base[1] / "other", scale=0.2)
    with socket(base, bench) as live:
        live.send(json.dumps({"text": TEXT, "top_k": 5}))
        before = told(live)["next"]
        post(bench, "/load-model", adapter="other")
        assert told(live)["next"] != before
        post(bench, "/load-model")
        assert told(live)["next"] == before


def test_a_socket_that_breaks_off_leaves_nothing_behind(base: Base, bench: httpx.Client) -> None:
    for _ in range(3):
        live = socket(base, bench)
        live.send(json.dumps({"text": TEXT * 20}))
        live.socket.close()
    assert post(bench, "/inference", text=TEXT)["patches"] == []


def test_a_socket_wants_the_token(base: Base, bench: httpx.Client) -> None:
    with pytest.raises(InvalidStatus), socket(base, bench, Authorization="Bearer wrong"):
        pass


def test_hook_points_of_the_session_are_the_saes(bench: httpx.Client) -> None:
    session = bench.get("/api/v1/session").json()
    assert {HookPoint.parse(one["hook"]).layer for one in session["saes"]} == {1, 3, 5}
    assert (session["n_layers"], session["d_model"]) == (8, 128)
