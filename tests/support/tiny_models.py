"""Tiny random models of three architectures and SAEs of four types, saved as real folders once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from raylens.engine.load import LoadedModel, load_model

D_MODEL = 32
N_LAYERS = 3
ARCHITECTURES = ("llama", "gpt2", "gemma2")
SAE_TYPES = ("standard", "topk", "batchtopk", "jumprelu", "gated")

TEXT = """def area(radius):
    \"\"\"The area of a circle — π r².\"\"\"
    return math.pi * radius**2

for name, value in sorted(table.items()):
    print(f"{name}: {value:.3f}")
"""


@pytest.fixture(scope="session")
def text() -> str:
    return TEXT


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def _tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<bos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<pad>")


def _model(architecture: str, vocabulary: int) -> PreTrainedModel:
    if architecture == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=D_MODEL,
                intermediate_size=48,
                num_hidden_layers=N_LAYERS,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                initializer_range=0.2,
            )
        )
    if architecture == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_embd=D_MODEL,
                n_layer=N_LAYERS,
                n_head=4,
                n_positions=128,
                initializer_range=0.2,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=vocabulary,
            hidden_size=D_MODEL,
            intermediate_size=48,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=16,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
    )


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Architecture → a folder in transformers format; GPT-2's tokenizer adds no BOS, as the real one."""
    folders = {}
    for architecture in ARCHITECTURES:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("models") / f"tiny-{architecture}"
        tokenizer = _tokenizer(bos=architecture != "gpt2")
        model = _model(architecture, len(tokenizer))
        with torch.no_grad():  # norms' gains and biases start at constants, which would hide mistakes
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture(scope="session")
def loaded_models(model_folders: dict[str, Path]) -> dict[str, LoadedModel]:
    return {name: load_model(str(folder), device="cpu") for name, folder in model_folders.items()}


@pytest.fixture(scope="session", params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, loaded_models: dict[str, LoadedModel]) -> LoadedModel:
    return loaded_models[request.param]


@pytest.fixture(scope="session")
def llama(loaded_models: dict[str, LoadedModel]) -> LoadedModel:
    return loaded_models["llama"]


def _make_sae(kind: str, d_in: int = D_MODEL, d_sae: int = 128, *, seed: int = 1, **settings: Any) -> SAE[Any]:
    """A random sae-lens SAE; ``batchtopk`` is the training form, ``settings`` go to its config."""
    torch.manual_seed(seed)
    metadata = SAEMetadata(
        model_name="tiny", hook_name="blocks.1.hook_resid_post", prepend_bos=True, **settings.pop("metadata", {})
    )
    given = {"d_in": d_in, "d_sae": d_sae, "metadata": metadata, **settings}
    if kind == "standard":
        sae = StandardSAE(StandardSAEConfig(**given))
    elif kind == "topk":
        sae = TopKSAE(TopKSAEConfig(**{"k": 8, **given}))
    elif kind == "batchtopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**{"k": 8, **given}))
        sae.topk_threshold.fill_(0.7)
    elif kind == "gated":
        sae = GatedSAE(GatedSAEConfig(**given))
    else:
        sae = JumpReLUSAE(JumpReLUSAEConfig(**given))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = {"W_enc": d_in**-0.5, "W_dec": d_in**-0.5, "threshold": 0.5}.get(name, 0.3)
            parameter.copy_(torch.randn_like(parameter) * scale)
        if kind == "jumprelu":
            sae.get_parameter("threshold").abs_()
    return sae


def _save_sae(sae: SAE[Any], folder: Path) -> Path:
    """Save in SAELens format, as ``raylens train`` does."""
    if isinstance(sae, BatchTopKTrainingSAE):
        sae.save_inference_model(folder)
    else:
        sae.save_model(folder)
    return folder


@pytest.fixture(scope="session")
def make_sae() -> Callable[..., SAE[Any]]:
    return _make_sae


@pytest.fixture(scope="session")
def save_sae() -> Callable[[SAE[Any], Path], Path]:
    return _save_sae


@pytest.fixture(scope="session")
def sae_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SAE type → a folder in SAELens format, for ``resid_post.1`` of the tiny models."""
    return {kind: _save_sae(_make_sae(kind), tmp_path_factory.mktemp("saes") / f"tiny-{kind}") for kind in SAE_TYPES}


@pytest.fixture(params=SAE_TYPES)
def sae_folder(request: pytest.FixtureRequest, sae_folders: dict[str, Path]) -> Path:
    return sae_folders[request.param]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path, str], str]:
    """An empty hub cache and no network; the function puts a folder into it and returns its commit."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repo: str, folder: Path, at: str = "") -> str:
        commit = "0123456789abcdef0123456789abcdef01234567"
        home = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        target = home / "snapshots" / commit / at
        target.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / "main").write_text(commit)
        return commit

    return put
