"""Every family of models that RayLens names: loaded from a local folder, read, steered and patched (A3.12).

Tiny ones with random weights, made by transformers' own classes. What an encoder is good for, and what not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules.pooling import Pooling
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from raylens.api.edits import Edit, PatchSpec
from raylens.engine.load import LoadedModel, load_model, load_tokenizer
from raylens.engine.models import describe_model
from raylens.engine.saes import load_sae
from raylens.engine.tap import tap
from raylens.engine.text_embedding import load_embedding, locate_embedding
from raylens.errors import InputError
from raylens.ids import HookPoint
from raylens.workbench.edited_reading import next_logits
from raylens.workbench.edits import edited, load_edits
from raylens.workbench.patch_export import ExportSettings, Patchable, export_patch
from raylens_app.cli.main import main
from small_patches import IDS, logits, settings, steering, vector

__all__ = ("settings",)

WIDTH, LAYERS, VOCABULARY = 32, 3, 300
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
NARROW = {**GROUPED, "head_dim": 8, "sliding_window": 16}


def _gpt2() -> PreTrainedModel:
    sizes: dict[str, Any] = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 128}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, **sizes, initializer_range=0.2, bos_token_id=0, eos_token_id=0)
    )


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": _gpt2,
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**NARROW)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**NARROW)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**NARROW)),
}


def saved(model: PreTrainedModel, folder: Path, tokenizer: Path) -> Path:
    """A folder in transformers format; gains and biases are off their constants, which would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def folder(
    request: pytest.FixtureRequest, model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    torch.manual_seed(0)
    return saved(FAMILIES[request.param](), tmp_path_factory.mktemp(request.param) / "model", model_folders["llama"])


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(str(folder), device="cpu")


def own_logits(folder: Path, hook: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """By transformers alone, what the second block gives on changed by ``hook``."""
    plain: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if hook is not None:
        blocks = plain.transformer.h if hasattr(plain, "transformer") else plain.model.layers

        def change(_module: Any, _inputs: Any, output: Any) -> Any:
            return (hook(output[0]), *output[1:]) if isinstance(output, tuple) else hook(output)

        blocks[1].register_forward_hook(change)
    return logits(plain)


def test_it_is_loaded_and_read_as_transformers_has_it(model: LoadedModel, folder: Path) -> None:  # A3.12
    expected = own_logits(folder)
    torch.testing.assert_close(logits(model.model), expected)
    torch.testing.assert_close(next_logits(model, IDS[0]), expected[0, -1].float(), atol=1e-4, rtol=1e-4)
    point = HookPoint("resid_post", 0)
    hidden = model.model(torch.tensor(IDS), output_hidden_states=True, use_cache=False).hidden_states[1]
    torch.testing.assert_close(tap(model, [point], torch.tensor(IDS))[point], hidden.detach())
    info = describe_model(str(folder))
    assert (info.d_model, info.n_layers, info.vocab_size, info.max_positions) == (WIDTH, LAYERS, VOCABULARY, 128)


def test_it_is_steered(model: LoadedModel, folder: Path, sae_folders: dict[str, Path]) -> None:  # A3.12
    """Along a direction, and a feature of an SAE clamped, against hooks of the test's own."""
    direction = torch.tensor(vector())
    edits = load_edits(model, steering(), {}, None, lambda *_: 1.0)
    with edited(model, edits):
        steered = logits(model.model)
    torch.testing.assert_close(steered, own_logits(folder, lambda h: h + 2.0 * direction / direction.norm()))

    sae = load_sae(sae_folders["jumprelu"])
    spec = PatchSpec(edits=(Edit(feature=f"{sae.id}/5", method="clamp", strength=3.0, unit="activation"),))
    with edited(model, load_edits(model, spec, {str(sae.id): sae}, None, lambda *_: 1.0)):
        clamped = logits(model.model)

    def clamp(h: Tensor) -> Tensor:
        return h + (3.0 - sae.sae.encode(h)[..., 5:6]) * sae.sae.W_dec[5]

    with torch.no_grad():
        torch.testing.assert_close(clamped, own_logits(folder, clamp), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(model.model), logits(model.model))
    torch.testing.assert_close(logits(model.model), own_logits(folder))


def test_it_is_patched(model: LoadedModel, folder: Path, tmp_path: Path, settings: ExportSettings) -> None:  # A3.12
    """A patch as an adapter that peft alone loads: what the hook does, or a measured distance from it."""
    spec = steering("mlp_out.1", method="project_out")
    record = export_patch(Patchable(model, model), spec, {}, None, tmp_path / "patch", settings)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = logits(PeftModel.from_pretrained(base, tmp_path / "patch").eval())
    with edited(model, load_edits(model, spec, {}, None, lambda *_: 1.0)):
        hooked = logits(model.model)
    assert not torch.allclose(hooked, logits(model.model), atol=1e-2)
    if record.exact:
        torch.testing.assert_close(found, hooked, atol=1e-3, rtol=1e-3)
    else:
        assert record.why_not
    untouched = logits(model.model).log_softmax(-1)

    def kl(other: Tensor) -> float:
        target = hooked.log_softmax(-1)
        return float((target.exp() * (target - other.log_softmax(-1))).sum(-1).mean())

    assert kl(found) < 0.2 * kl(untouched), "it does most of what the hook does"


@pytest.fixture(scope="module", params=["masked", "bare"])
def encoder(
    request: pytest.FixtureRequest, model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    torch.manual_seed(0)
    config = BertConfig(**SIZES)
    made = BertForMaskedLM(config) if request.param == "masked" else BertModel(config)
    return saved(made, tmp_path_factory.mktemp(request.param) / "bert", model_folders["llama"])


def test_of_an_encoder_works_what_works(encoder: Path, tmp_path: Path) -> None:  # A3.12
    """Its tokenizer cuts texts, and it embeds excerpts for hard negatives."""
    assert load_tokenizer(str(encoder))("def area(r):")["input_ids"]
    words = Transformer(str(encoder))
    made = SentenceTransformer(modules=[words, Pooling(WIDTH)], device="cpu")
    made.save(str(tmp_path / "embedding"))
    vectors = load_embedding(locate_embedding(str(tmp_path / "embedding")))(["def area(r):", "import os"])
    assert vectors.shape == (2, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(
        vectors, made.encode(["def area(r):", "import os"], normalize_embeddings=True), atol=1e-5
    )


def test_of_an_encoder_what_does_not_work_is_refused_in_one_sentence(
    encoder: Path, sae_folders: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:  # A3.12
    with pytest.raises(
        InputError, match=r"is an encoder \(Bert.*\): it reads texts both ways and writes none"
    ) as error:
        load_model(str(encoder), device="cpu")
    assert "--embedding-model" in error.value.hint
    workspace = ["--workspace", str(tmp_path / "workspace")]
    sae = str(sae_folders["jumprelu"])
    for words in (
        ["steer", "def area", "--model", str(encoder), "--sae", sae, "--feature", "f_1_5", "--override-guard"],
        ["record", "--model", str(encoder), "--layer", "1", "--ctx-len", "64", "--out", str(tmp_path / "acts.parquet")],
    ):
        assert main([*workspace, *words]) == 2
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if "is an encoder" in line] == said[-1:]
    assert not (tmp_path / "acts.parquet").exists()
