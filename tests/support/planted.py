"""A model whose features are known: random words, a small Llama with weights set by hand, and an SAE that reads it.

Every token's embedding is a direction nearly orthogonal to the others'. The one layer has two attention heads that
look back by one and by two tokens: queries and keys are the same constant for every token, turned by the rotary
embedding so that they meet at that distance. They copy what they see to places of their own in the residual stream,
which then holds, at each token, its own direction, the one before's and the one before that's. A latent adds up
directions and subtracts a threshold, so it follows its rule exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylens.explain.rule import Clause, Rule, Within
from raylens.explain.token_test import ANY, TokenTest

LENGTHS = (32, 126)
"""Words of a document: at least an excerpt, at most a window, so that no context is cut off."""
HOOK = "blocks.0.hook_resid_post"

_WIDTH = 128
"""Of a token's direction; more than there are tokens."""
_SHARPNESS = 30.0
_ROPE = 4.0
"""Base of the rotary embedding: so low that every pair tells neighbouring places apart."""
_NEAR = 0.6
"""Weight of a token at each of the places where it may stand: at two of them it is less than with what comes after."""
NAMES = ("Ada", "Bo", "Cleo", "Dora", "Emil", "Finn", "Gus", "Hanna", "Ivo", "Jan", "Kim", "Lea")
NUMBERS = ("10", "27", "305", "48", "512", "6", "77", "9")
FOLLOWS: Mapping[str, Mapping[str, float]] = {
    "north": {"wind": 0.3},
    "open": {"door": 0.25},
    "closed": {"door": 0.25},
    "under": {"stand": 0.5},
    "dry": {"river": 0.3, "lake": 0.3},
    "iron": {"old": 0.5, "gate": 0.2},
    "old": {"gate": 0.4},
    "cold": {"fire": 0.15, "and": 0.3},
    "and": {"fire": 0.3},
    "mister": dict.fromkeys(NAMES, 0.04),
    "eat": {"bread": 0.2, "milk": 0.2},
}
"""Chances that a word is followed by a certain other; otherwise any word follows, by :data:`OFTEN`."""
OFTEN: Mapping[str, float] = {
    "the": 8, "under": 1.5, "wind": 1.5, "north": 1.5, "door": 1.5, "open": 1, "closed": 1, "stand": 1.5, "dry": 1.5,
    "river": 1.5, "lake": 1.5, "iron": 1.5, "old": 1.5, "gate": 1.5, "cold": 1.5, "fire": 1.5, "mister": 1.5, "eat": 1,
    "bread": 1, "milk": 1, "say": 0.7, "stone": 0.7, "red": 0.3, "blue": 0.3, "green": 0.3, "gold": 0.3,
    **dict.fromkeys(NAMES, 0.12), **dict.fromkeys(NUMBERS, 0.15),
}  # fmt: skip
"""Per cent of words drawn at random that are this one; the rest of them are made-up words, all alike."""


def word(text: str) -> TokenTest:
    return TokenTest("exact", f" {text}")


def _of_class(name: str) -> TokenTest:
    return TokenTest("class", name)


def _any_of(*words: str) -> tuple[Clause, ...]:
    return tuple(Clause(word(each)) for each in words)


PLANTED: Mapping[str, Rule] = {
    "a token": Rule(_any_of("stone")),
    "a token that is nearly everywhere": Rule(_any_of("the")),
    "any of four tokens": Rule(_any_of("red", "blue", "green", "gold")),
    "a class": Rule((Clause(_of_class("capitalised")),)),
    "another class": Rule((Clause(_of_class("digits")),)),
    "a token after a token": Rule((Clause(word("wind"), (word("north"),)),)),
    "a token after either of two": Rule(
        (Clause(word("door"), (word("open"),)), Clause(word("door"), (word("closed"),)))
    ),
    "either of two tokens after another": Rule(
        (Clause(word("bread"), (word("eat"),)), Clause(word("milk"), (word("eat"),)))
    ),
    "a token after two": Rule((Clause(word("gate"), (word("iron"), word("old"))),)),
    "a token soon after another": Rule((Clause(word("fire"), within=Within(word("cold"), 2)),)),
    "whatever follows a token": Rule((Clause(ANY, (word("say"),)),)),
    "a class after a token": Rule((Clause(_of_class("capitalised"), (word("mister"),)),)),
    "a token except after another": Rule((Clause(word("stand"), not_after=word("under")),)),
    "either of two tokens except after another": Rule(
        (Clause(word("river"), not_after=word("dry")), Clause(word("lake"), not_after=word("dry")))
    ),
}
"""What each latent is to follow, by number; the one after the last is dead."""
DEAD = len(PLANTED)


def tokenize(text: str) -> list[str]:
    """As the tokenizer does: a word with the space before it."""
    return [f" {each}" for each in text.split(" ")[1:]]


def vocabulary(seed: int = 0) -> list[str]:
    """Words in any text: those of the rules, and 50 made-up ones."""
    rng = np.random.default_rng(seed)
    made = {"".join(rng.choice(list("bdfgklmnprst")) + rng.choice(list("aeiou")) for _ in range(3)) for _ in range(50)}
    return [*sorted({*OFTEN, *(each for after in FOLLOWS.values() for each in after)}), *sorted(made)]


def documents(n: int, seed: int) -> list[str]:
    """Random text, a line a document."""
    rng = np.random.default_rng(seed)
    words = vocabulary()
    chances = np.array([OFTEN.get(each, 0.0) for each in words])
    plain = chances == 0
    chances[plain] = (100 - chances.sum()) / plain.sum()
    chances /= 100
    found: list[str] = []
    for _ in range(n):
        length = int(rng.integers(LENGTHS[0], LENGTHS[1] + 1))
        drawn = [words[i] for i in rng.choice(len(words), length, p=chances)]
        luck = rng.random(length)
        for at in range(1, length):
            after = FOLLOWS.get(drawn[at - 1], {})
            place = int(np.searchsorted(np.cumsum(list(after.values())), luck[at], side="right"))
            if place < len(after):
                drawn[at] = list(after)[place]
        found.append("".join(f" {each}" for each in drawn))
    return found


def strengths(documents: Sequence[str]) -> list[NDArray[np.float32]]:
    """How strongly each latent fires on each word of some documents: ``[words, latents]`` each.

    What the model and the SAE work out, up to rounding: sums of the same weights, less the same thresholds.
    """
    tokens = _tokens(vocabulary())
    number = {token: i for i, token in enumerate(tokens)}
    weights = np.stack([_weights(rule, tokens) for rule in PLANTED.values()], axis=-1)
    thresholds = np.array([_threshold(rule) for rule in PLANTED.values()])
    found: list[NDArray[np.float32]] = []
    for text in documents:
        ids = np.array([number[token] for token in tokenize(text)], np.int64)
        total = weights[0, ids] - thresholds
        for back in (1, 2):
            total[back:] += weights[back, ids[:-back]]
        found.append(np.where(total > 1e-6, total, 0).astype(np.float32))
    return found


@dataclass(frozen=True)
class Planted:
    """Folders of what was built."""

    model: Path
    sae: Path
    text: Path


def build(folder: Path, n_documents: int = 800, seed: int = 7) -> Planted:
    """Model, SAE and text, saved as a user's would be."""
    words = vocabulary()
    made = Planted(folder / "planted", folder / "planted-sae", folder / "text.jsonl")
    directions = _directions(len(_tokens(words)))
    _save_model(made.model, words, directions)
    _save_sae(made.sae, words, directions)
    rows = [json.dumps({"text": text}) for text in documents(n_documents, seed)]
    made.text.write_text("\n".join(rows) + "\n")
    return made


def _tokens(words: Sequence[str]) -> list[str]:
    """The model's vocabulary. No word is unknown; a tokenizer has to have something to say so."""
    return ["<bos>", "<unk>", *(f" {each}" for each in words)]


def _directions(n: int) -> NDArray[np.float64]:
    """Unit vectors at random, nearly orthogonal: ``[n, _WIDTH]``."""
    drawn = np.random.default_rng(3).normal(size=(n, _WIDTH))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _save_model(folder: Path, words: Sequence[str], directions: NDArray[np.float64]) -> None:
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(_tokens(words))}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" [^ ]+"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<bos>")
    width = 4 + 3 * _WIDTH
    config = LlamaConfig(
        vocab_size=len(directions),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=_WIDTH,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE},
        bos_token_id=0,
        pad_token_id=0,
        eos_token_id=None,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    found = {name: np.zeros(value.shape) for name, value in model.state_dict().items()}
    for name in found:
        if name.endswith("norm.weight"):
            found[name][:] = 1.0
    embedding = found["model.embed_tokens.weight"]
    embedding[:, 0] = 1.0
    embedding[:, 4 : 4 + _WIDTH] = directions
    found["lm_head.weight"] = embedding
    query, key, value, out = (found[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkvo")
    # Every embedding has the norm √2, so the norm layer multiplies by the same number everywhere.
    gain = (width / 2) ** 0.5
    # Pair f of a head is turned by so much a token.
    turns = _ROPE ** (-np.arange(_WIDTH // 2) / (_WIDTH // 2))
    for head in range(2):
        rows = slice(head * _WIDTH, (head + 1) * _WIDTH)
        back = turns * (head + 1)
        query[rows, 0] = np.concatenate([np.cos(back), -np.sin(back)]) * _SHARPNESS / gain
        key[rows, 0] = np.concatenate([np.ones_like(back), np.zeros_like(back)]) / gain
        value[rows, 4 : 4 + _WIDTH] = np.eye(_WIDTH) / gain
        out[4 + (head + 1) * _WIDTH : 4 + (head + 2) * _WIDTH, rows] = np.eye(_WIDTH)
    model.load_state_dict({name: torch.from_numpy(each).float() for name, each in found.items()})
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def _save_sae(folder: Path, words: Sequence[str], directions: NDArray[np.float64]) -> None:
    import torch
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    # Row t is 1 on token t's direction and 0 on all others, though these are not quite orthogonal.
    reads = np.linalg.pinv(directions).T
    tokens = _tokens(words)
    encoder = np.zeros((4 + 3 * _WIDTH, DEAD + 1))
    bias = np.full(DEAD + 1, -1.0)
    for latent, rule in enumerate(PLANTED.values()):
        for place, weights in enumerate(_weights(rule, tokens)):
            encoder[4 + place * _WIDTH : 4 + (place + 1) * _WIDTH, latent] = weights @ reads
        bias[latent] = -_threshold(rule)
    # No model is named: the SAE's id is a hash of all this, excerpts are drawn by the id, and a folder of its own in
    # every run would draw others in every run.
    trained_on = SAEMetadata(hook_name=HOOK, prepend_bos=True, context_size=128)
    sae = StandardSAE(StandardSAEConfig(d_in=len(encoder), d_sae=DEAD + 1, metadata=trained_on))
    with torch.no_grad():
        sae.W_enc.copy_(torch.from_numpy(encoder))
        sae.W_dec.copy_(torch.from_numpy(encoder.T / np.maximum(np.linalg.norm(encoder, axis=0), 1e-9)[:, None]))
        sae.b_enc.copy_(torch.from_numpy(bias))
        sae.b_dec.zero_()
    sae.save_model(folder)


def _threshold(rule: Rule) -> float:
    """What the weights of all that has to hold add up to, but none of the less."""
    clause = rule.clauses[0]
    if clause.within is not None:
        return 1 + _NEAR / 2
    return (not clause.token.is_any) + len(clause.before) - 0.5


def _weights(rule: Rule, tokens: Sequence[str]) -> NDArray[np.float64]:
    """What each token adds where it stands, one before, and two before: ``[3, tokens]``.

    Clauses share them, so a rule may ask the same of several tokens, or of pairs that cannot be mixed up; members of
    a set differ in strength by up to a third.
    """
    weights = np.zeros((3, len(tokens)))
    for number, clause in enumerate(rule.clauses):
        tests = [clause.token, *reversed(clause.before)]
        for place, test in enumerate(tests):
            if not test.is_any:
                held = np.flatnonzero([test.holds(each) for each in tokens])
                weights[place, held] = 1.0
        if clause.within is not None:
            held = [clause.within.test.holds(each) for each in tokens]
            weights[1 : 1 + clause.within.tokens, held] = _NEAR
        if clause.not_after is not None:
            weights[1, [clause.not_after.holds(each) for each in tokens]] = -1.0
        own = np.flatnonzero(weights[0])
        weights[0, own] = 1.0 + 0.3 * ((own + number) % 3) / 3 if len(own) > 1 else weights[0, own]
    return weights
