"""The Encoder in this process: what it answers is what the engine gives for each text alone, and what it refuses."""

from __future__ import annotations

import asyncio
import pickle
import shutil
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForCausalLM

from fine_tunes import PICO_FOLDER, pico
from raylens.api.reading import (
    KEPT,
    AblateRequest,
    EncodeAnswer,
    EncodeRequest,
    SaeReading,
    ValuesRequest,
)
from raylens.engine.feature_answers import encode_answer
from raylens.engine.feature_reading import WantedReading, read_texts
from raylens.engine.passage import passage_tokens, span_tokens
from raylens.engine.saes import load_sae
from raylens.engine.token_effects import EffectsWanted, run, token_effects
from raylens.errors import (
    HubUnreachableError,
    InputError,
    MismatchError,
    OutOfMemoryError,
    RaylensError,
    UnknownNameError,
)
from raylens.traces.span import Turn
from raylens_serve.encoder import Encoder
from raylens_serve.metrics import Metrics, in_replica
from raylens_serve.services import EncoderClient, Local
from raylens_serve.settings import PICO_SAES, ServeSettings

NOISE = 2e-4
CODE = "def area(radius):\n    return math.pi * radius**2\n"

T = TypeVar("T")


def of(folder: Path, **settings: Any) -> EncoderClient:
    values = {"workspace": str(folder), **settings}
    values["encoder"] = {"threads": 1, **settings.get("encoder", {})}
    return EncoderClient(Local(Encoder(values)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderClient:
    workspace = tmp_path_factory.mktemp("encoder")
    (workspace / "catalog.yaml").write_text("aliases:\n  my-pico: raylens/pico\n")
    return of(workspace)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def ask(work: Callable[[], Awaitable[T]]) -> T:
    async def asked() -> T:
        return await asyncio.wait_for(work(), 60)

    return asyncio.run(asked())


def refusal(work: Callable[[], Awaitable[Any]]) -> RaylensError:
    with pytest.raises(RaylensError) as caught:
        ask(work)
    return caught.value


def oracle(request: EncodeRequest) -> EncodeAnswer:
    """The same by the engine, alone."""
    model = pico()
    saes = tuple(load_sae(ref) for ref in (request.saes or PICO_SAES))
    tokens = passage_tokens(model, request)
    (reading,) = read_texts(model, [WantedReading(tokens.ids, saes, request.next_tokens)])
    return encode_answer(model, "raylens/pico", tokens, saes, reading, top_k=request.top_k, per_token=request.per_token)


def assert_same(found: EncodeAnswer, expected: EncodeAnswer) -> None:
    for name in ("model", "token_ids", "tokens", "special", "n_dropped"):
        assert getattr(found, name) == getattr(expected, name)
    for one, other in zip(found.saes, expected.saes, strict=True):
        assert (one.sae, one.hook, one.layer) == (other.sae, other.hook, other.layer)
        assert_peaks(one, other)
        assert len(one.tokens) == len(other.tokens)
        for row, own in zip(one.tokens, other.tokens, strict=True):
            values, expected_values = ([firing.activation for firing in some] for some in (row, own))
            assert values == pytest.approx(expected_values, abs=NOISE)
    for token, other in zip(found.next_tokens, expected.next_tokens, strict=True):
        assert token.logit == pytest.approx(other.logit, abs=NOISE)
        assert token.probability == pytest.approx(other.probability, abs=NOISE)


def assert_peaks(one: SaeReading, other: SaeReading) -> None:
    values = {peak.index: peak.activation for peak in other.peaks}
    assert [peak.activation for peak in one.peaks] == pytest.approx(
        [peak.activation for peak in other.peaks], abs=NOISE
    )
    for peak in one.peaks:
        if peak.index in values:
            assert peak.activation == pytest.approx(values[peak.index], abs=NOISE)
        else:  # one that is as large as the last
            assert peak.activation == pytest.approx(other.peaks[-1].activation, abs=NOISE)


REQUESTS = [
    EncodeRequest(text=CODE),
    EncodeRequest(text=CODE * 40, per_token=False, next_tokens=5),
    EncodeRequest(text="x", saes=PICO_SAES[2:], top_k=3),
    EncodeRequest(token_ids=(0, 5, 9, 0, 12), saes=PICO_SAES[1:], top_k=KEPT, next_tokens=KEPT),
    EncodeRequest(input="import numpy as np\nx = np.", output="zeros(3)", per_token=False),
    EncodeRequest(input=(Turn(role="user", content="hi"),), output="yes", saes=PICO_SAES[:1]),
    EncodeRequest(text="y = 1\n" * 500, saes=()),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_a_text_is_answered_as_the_engine_answers_it(encoder: EncoderClient, request_: EncodeRequest) -> None:
    # A0.01
    answer = ask(lambda: encoder.encode(request_))
    if request_.saes == ():
        assert answer.saes == ()
        assert len(answer.token_ids) == 1024  # what pico reads
        assert answer.n_dropped == len(pico().tokenizer(request_.text)["input_ids"]) - 1024
        return
    assert_same(answer, oracle(request_))
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_what_comes_together_is_read_together_and_answered_alike(encoder: EncoderClient) -> None:
    ask(lambda: encoder.encode(REQUESTS[0]))
    passes: list[int] = []
    held = next(iter(loaded_models(encoder)))
    handle = held.engine.arch.embed.register_forward_hook(lambda _m, args, _o: passes.append(args[0].shape[0]))
    requests = [REQUESTS[at % 6] for at in range(24)]
    values = ValuesRequest(text=CODE, sae=PICO_SAES[0], features=(3, 214))

    async def together() -> list[Any]:
        return await asyncio.gather(*(encoder.encode(one) for one in requests), encoder.values(values))

    answers = ask(together)
    handle.remove()
    assert sum(passes) == 25
    assert len(passes) < 15
    expected = [oracle(one) for one in REQUESTS[:6]]
    for at in range(24):
        assert_same(answers[at], expected[at % 6])
    alone = ask(lambda: encoder.values(values))
    for one, other in zip(answers[-1].features, alone.features, strict=True):
        assert one.values == pytest.approx(other.values, abs=NOISE)


def loaded_models(encoder: EncoderClient) -> list[Any]:
    """Models that an encoder of this process holds."""
    local: Any = encoder.caller
    items = local._service._reader._shelf._items.values()
    return [item.value.loaded for item in items if hasattr(item.value, "loaded")]


def test_exact_activations_of_chosen_features(encoder: EncoderClient) -> None:
    chosen = (214, 0, 2047)
    answer = ask(lambda: encoder.values(ValuesRequest(text=CODE, sae=PICO_SAES[0], features=chosen)))
    model, sae = pico(), load_sae(PICO_SAES[0])
    with torch.inference_mode():
        hidden = model.model(torch.tensor([answer.token_ids]), output_hidden_states=True).hidden_states[4][0]
        dense = sae.sae.encode(hidden)
    assert [one.index for one in answer.features] == list(chosen)
    for one in answer.features:
        assert one.values == pytest.approx(dense[:, one.index].tolist(), abs=NOISE)
    assert (answer.special, answer.n_dropped, answer.sae) == ((0,), 0, PICO_SAES[0])


def test_effects_are_the_engines(encoder: EncoderClient) -> None:  # A0.06
    request = AblateRequest(
        input="def area(radius):\n    return math.", output="pi * radius", sae=PICO_SAES[2], n_tokens=4
    )
    answer = ask(lambda: encoder.ablate(request))
    model = pico()
    tokens = span_tokens(model, request.input, request.output)
    expected = run(token_effects(model, tokens, load_sae(PICO_SAES[2]), EffectsWanted(n_tokens=4)))
    assert (answer.token_ids, answer.n_input, answer.n_dropped) == (tokens.ids, tokens.output_start, 0)
    assert answer.log_prob == pytest.approx(expected.log_prob, abs=1e-4)
    assert [one.position for one in answer.ablations] == [one.position for one in expected.ablations]
    assert [one.effect for one in answer.ablations] == pytest.approx(
        [one.effect for one in expected.ablations], abs=1e-3
    )
    assert len(answer.counterfactuals) == 3 * 4
    assert len(answer.features) == 10
    alone = ask(lambda: encoder.ablate(AblateRequest(input="x = ", output="1")))
    assert (alone.sae, alone.features) == (None, ())
    named = ask(lambda: encoder.ablate(AblateRequest(input="x = ", output="1", features=(7,), counterfactuals=0)))
    assert (named.sae, [one.index for one in named.features]) == (PICO_SAES[0], [7])
    assert isinstance(refusal(lambda: encoder.ablate(AblateRequest(input="x = ", output=""))), InputError)


def test_a_measurement_lets_others_have_a_turn(encoder: EncoderClient) -> None:
    order: list[str] = []

    async def long() -> None:
        request = AblateRequest(input="x = 1\n" * 30, output="y", sae=PICO_SAES[0], n_tokens=90, counterfactuals=0)
        await encoder.ablate(request)
        order.append("long")

    async def short() -> None:
        await asyncio.sleep(0.001)
        await encoder.encode(EncodeRequest(text="x = 1", saes=PICO_SAES[:1], per_token=False))
        order.append("short")
        status = await encoder.status()  # the event loop is free all the while
        order.append("status")
        assert status["models"] == [{"model": "raylens/pico", "loaded": True}]

    async def both() -> None:
        await asyncio.gather(long(), short())

    ask(both)
    assert order == ["short", "status", "long"]


@pytest.mark.parametrize("name", [None, "raylens/pico", "Raylens/Pico", "my-pico"])
def test_a_model_is_found_by_any_of_its_names(encoder: EncoderClient, name: str | None) -> None:
    assert ask(lambda: encoder.encode(EncodeRequest(text="x", model=name, saes=()))).model == "raylens/pico"


GEMMA = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"


@pytest.mark.parametrize(
    ("request_", "kind", "said", "hint"),
    [
        (EncodeRequest(text="x", model="gpt2"), UnknownNameError, "model 'gpt2' is not served", "raylens/pico"),
        (EncodeRequest(text="x", saes=("a/b",)), UnknownNameError, "SAE 'a/b' is not served", PICO_SAES[1]),
        (EncodeRequest(text="x", saes=("/etc",)), UnknownNameError, "SAE '/etc' is not served", PICO_SAES[1]),
        (EncodeRequest(text="x", saes=(GEMMA,)), MismatchError, "trained on another model", "fits google/gemma-2-2b"),
        (
            EncodeRequest(text="x", saes=(GEMMA,), override_guard=True),
            MismatchError,
            "does not fit",
            "raylens-pico-res",
        ),
        (EncodeRequest(token_ids=(4096,)), InputError, "4096 is no token id", "4,096 tokens"),
    ],
)
def test_what_is_not_served_is_refused(
    encoder: EncoderClient, request_: EncodeRequest, kind: type[RaylensError], said: str, hint: str
) -> None:  # A0.23
    error = refusal(lambda: encoder.encode(request_))
    assert type(error) is kind
    assert said in error.message
    assert hint in error.hint


def test_a_feature_that_an_sae_does_not_have_is_refused(encoder: EncoderClient) -> None:
    error = refusal(lambda: encoder.values(ValuesRequest(text="x", sae=PICO_SAES[0], features=(2048,))))
    assert isinstance(error, UnknownNameError)
    request = AblateRequest(input="x", output="y", sae=PICO_SAES[0], features=(2048,))
    assert isinstance(refusal(lambda: encoder.ablate(request)), UnknownNameError)


def copy_of_pico(folder: Path) -> str:
    assert PICO_FOLDER is not None
    shutil.copytree(PICO_FOLDER, folder)
    return str(folder)


def tiny_model(folder: Path) -> str:
    """Of another shape, with pico's tokenizer: 1.1 MB in float32."""
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)
    pico().tokenizer.save_pretrained(folder)
    return str(folder)


def test_an_sae_of_another_model_needs_both_to_say_so(tmp_path: Path) -> None:  # A0.04
    ref = copy_of_pico(tmp_path / "copy")
    for served, asked in [(False, False), (False, True), (True, False)]:
        one = of(tmp_path, models=[{"model": ref, "saes": PICO_SAES[:1], "override_guard": served}])
        for saes in (None, PICO_SAES[:1]):
            error = refusal(partial(one.encode, EncodeRequest(text="x", saes=saes, override_guard=asked)))
            assert isinstance(error, MismatchError)
            assert "trained on another model" in error.message
            assert "override_guard, in the request and in the model's settings" in error.hint
    one = of(tmp_path, models=[{"model": ref, "saes": PICO_SAES[:1], "override_guard": True}])
    answer = ask(lambda: one.encode(EncodeRequest(text=CODE, override_guard=True)))
    assert answer.model == ref
    assert_peaks(answer.saes[0], oracle(EncodeRequest(text=CODE, saes=PICO_SAES[:1])).saes[0])


def test_the_catalogues_saes_are_served_where_none_are_configured(tmp_path: Path) -> None:
    one = of(tmp_path, models=[{"model": "raylens/pico"}])
    answer = ask(lambda: one.encode(EncodeRequest(text="x")))
    assert len(answer.saes) == 1  # the one that the catalogue suggests; there may be hundreds
    for sae in PICO_SAES:
        assert ask(partial(one.encode, EncodeRequest(text="x", saes=(sae,)))).saes[0].sae == sae
    assert isinstance(refusal(lambda: one.encode(EncodeRequest(text="x", saes=(GEMMA,)))), MismatchError)


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    refs = [tiny_model(tmp_path / name) for name in "abc"]
    models = [{"model": ref, "saes": ()} for ref in refs]
    bound = 9_000_000  # two of them, and a pass
    one = of(tmp_path, models=models, encoder={"memory_bytes": bound})

    async def some() -> None:
        for at in (0, 1, 0, 2):
            answer = await one.encode(EncodeRequest(text="x", model=refs[at]))
            assert answer.model == refs[at]
        with pytest.raises(UnknownNameError, match="no SAE is served for"):
            await one.ablate(AblateRequest(input="x", output="y", features=(1,), model=refs[2]))
        status = await one.status()
        assert status["limit_bytes"] == bound
        assert status["bytes"] == sum(status["held_bytes"].values()) <= bound
        assert [row["loaded"] for row in status["models"]] == [True, False, True]
        # However many ask for whatever, each is answered.
        mixed = [EncodeRequest(text=CODE, model=refs[at % 3]) for at in range(9)]
        answers = await asyncio.gather(*map(one.encode, mixed))
        assert [answer.model for answer in answers] == [request.model for request in mixed]

    ask(some)


def test_what_can_never_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:  # A0.23
    one = of(tmp_path, encoder={"memory_bytes": 60_000_000})
    error = refusal(lambda: one.encode(EncodeRequest(text="x")))
    assert isinstance(error, OutOfMemoryError)
    assert "raylens/pico" in error.message
    for said in ("batch_tokens", "dtype", "quantization", "fewer SAEs", "gemma-2-2b needs about 8 GB"):
        assert said in error.hint
    assert loaded_models(one) == []
    answer = ask(lambda: one.encode(EncodeRequest(text="x", saes=PICO_SAES[:1])))
    assert answer.saes


def test_a_text_is_cut_where_the_services_end(tmp_path: Path) -> None:
    one = of(tmp_path, limits={"tokens": 10})
    answer = ask(lambda: one.encode(EncodeRequest(text=CODE, saes=())))
    assert (len(answer.token_ids), answer.n_dropped) == (10, len(pico().tokenizer(CODE)["input_ids"]) - 10)


class Gated(BaseHTTPRequestHandler):
    """A hub that lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


def test_a_model_that_cannot_be_had_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = of(tmp_path, models=[{"model": "google/gemma-2-2b"}, {"model": "raylens/pico", "saes": PICO_SAES[:1]}])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert isinstance(refusal(lambda: one.encode(EncodeRequest(text="x"))), HubUnreachableError)
    with ThreadingHTTPServer(("127.0.0.1", 0), Gated) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        error = refusal(lambda: one.encode(EncodeRequest(text="x")))  # A0.21, A0.23: token not configured
        http.shutdown()
    assert isinstance(error, InputError)
    assert "google/gemma-2-2b is gated" in error.message
    assert "HF_TOKEN (or RAYLENS_SAE_MODEL_KEY)" in error.hint
    assert ask(lambda: one.encode(EncodeRequest(text="x", model="raylens/pico"))).saes


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="configured twice"):
        of(tmp_path, models=[{"model": "raylens/pico"}, {"model": "Raylens/pico"}])
    with pytest.raises(InputError):
        Encoder({"nothing": 1})
    assert Encoder(ServeSettings(workspace=str(tmp_path)))


def test_nothing_is_counted_outside_of_a_replica() -> None:
    assert not in_replica()
    metrics = Metrics("encoder")
    with metrics.request("encode", "raylens/pico"):
        metrics.tokens("raylens/pico", 5)
        metrics.loaded(7)
