"""What the cache benchmarks run on: pico, and a wider Llama with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, one SAE and a number of tokens."""

    name: str
    model: str
    sae: str
    n_tokens: int


def pico(scale: float = 1.0) -> Subject:
    """The embedded model with its middle SAE."""
    return Subject("pico", "raylens/pico", "raylens-pico-res/layer_3", int(2_000_000 * scale))


def wide(folder: Path, scale: float = 1.0) -> Subject:
    """A random-weight Llama, 8 layers of width 512, and a random TopK-48 SAE of 8192 latents after layer 6."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from raylens.bundle.paths import model_path

    torch.manual_seed(0)
    bundled = model_path("raylens/pico")
    assert bundled is not None
    tokenizer = AutoTokenizer.from_pretrained(bundled)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        bos_token_id=tokenizer.bos_token_id,
    )
    model, sae = folder / "wide", folder / "wide-sae"
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    metadata = SAEMetadata(model_name=str(model), hook_name="blocks.6.hook_resid_post", prepend_bos=True)
    made = TopKSAE(TopKSAEConfig(d_in=512, d_sae=8192, k=48, metadata=metadata))
    with torch.no_grad():
        torch.nn.init.normal_(made.W_enc, std=512**-0.5)
        made.W_dec.copy_(made.W_enc.T)
    made.save_model(sae)
    return Subject("wide", str(model), str(sae), int(200_000 * scale))
