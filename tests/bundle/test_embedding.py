"""The sentence embedding: NumPy and sentence-transformers agree, and it retrieves better than chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from raylens.bundle.embedding import StaticEmbedder, embed
from raylens.bundle.embedding_recipe import (
    EmbeddingRecipe,
    judge_embedding,
    retrieval,
    save_embedding,
    train_embedding,
    untrained,
)
from raylens.bundle.pairs import docstring_pairs, excerpts, next_pairs
from raylens.bundle.paths import embedding_path, model_path
from raylens.bundle.stdlib import StdlibFile, read_stdlib

TEXTS = [
    "def close(self):\n    self.sock.close()",
    "    Return the number of items in the queue.",
    "",
    "raise ValueError('negative shift count')",
    " " * 7,
    "héllo 🙂",
    "x" * 2000,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = model_path("raylens/pico")
    return Tokenizer.from_file(f"{folder}/tokenizer.json")


def test_numpy_and_sentence_transformers_give_the_same_vectors() -> None:
    theirs = SentenceTransformer(str(embedding_path()), device="cpu").encode(TEXTS)
    ours = embed(TEXTS)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape == (len(TEXTS), 128)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # float32, summed in another order


def test_vectors_are_of_length_one_and_an_empty_text_is_zero() -> None:
    norms = np.linalg.norm(embed(TEXTS), axis=1)
    assert norms == pytest.approx([1, 1, 0, 1, 1, 1, 1], abs=1e-5)
    assert embed([]).shape == (0, 128)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=6))
def test_a_text_has_one_vector_whatever_it_is_embedded_with(texts: list[str]) -> None:
    together = embed(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(embed([text])[0], vector, atol=1e-6)


def test_the_embedding_has_picos_tokenizer(tokenizer: Tokenizer) -> None:
    own = Tokenizer.from_file(str(embedding_path() / "tokenizer.json"))
    assert own.get_vocab() == tokenizer.get_vocab()


def test_excerpts_cover_the_text_in_order(tokenizer: Tokenizer) -> None:
    text = next(f.text for f in read_stdlib("held_out") if f.path == "json/scanner.py")
    cut = excerpts(text, tokenizer)
    assert text.startswith("".join(cut))
    assert len(text) - len("".join(cut)) < 32 * 12
    assert excerpts(text, tokenizer, shift=32) == cut[1:]
    assert excerpts("x", tokenizer) == []


def test_pairs_are_neighbours_and_no_excerpt_is_in_two(tokenizer: Tokenizer) -> None:
    files = [f for f in read_stdlib("held_out") if f.path in ("graphlib.py", "queue.py")]
    pairs = list(next_pairs(files, tokenizer))
    text = {f.path: f.text for f in files}
    assert {p.path for p in pairs} == text.keys()
    assert all(p.anchor + p.positive in text[p.path] for p in pairs)
    assert sum(len(p.anchor + p.positive) for p in pairs) <= sum(map(len, text.values()))


def test_docstring_pairs_keep_the_docstring_out_of_the_code() -> None:
    source = '''
class Queue:
    """Holds items until somebody asks for them.

    More than that is not said here.
    """

    limit = 10

    async def get(self):
        """Remove and return an item."""
        while self.empty():
            await self.wait()
        return self.items.pop()

    def nothing(self):
        """Only a docstring, so no code to go with it."""
'''
    pairs = list(docstring_pairs([StdlibFile("q.py", source), StdlibFile("broken.py", "def"), StdlibFile("a.txt", "")]))
    assert [p.anchor for p in pairs] == ["Holds items until somebody asks for them.", "Remove and return an item."]
    assert pairs[1].positive.startswith("async def get(self):\n    while")
    assert all("somebody asks" not in p.positive for p in pairs)


def test_the_card_says_it_beats_chance_and_how_it_compares_with_tf_idf() -> None:
    metrics = json.loads((embedding_path() / "metrics.json").read_text())
    for task in metrics["held_out"].values():
        assert task["trained"]["mrr"]["interval"][0] > task["untrained"]["mrr"]["interval"][1]
        assert task["trained"]["mrr"]["value"] >= task["tf-idf"]["mrr"]["value"] - 0.02


def test_shipped_vectors_retrieve_the_code_of_a_docstring(tokenizer: Tokenizer) -> None:
    held_out = [f for f in read_stdlib("held_out") if f.path in ("ftplib.py", "tarfile.py", "queue.py")]
    pairs = list(docstring_pairs(held_out))
    groups = [p.path for p in pairs]
    recall = {}
    chance = untrained(tokenizer, EmbeddingRecipe())
    for name, encode in (("trained", embed), ("untrained", lambda texts: np.asarray(chance.encode(texts)))):
        similarity = encode([p.anchor for p in pairs]) @ encode([p.positive for p in pairs]).T
        recall[name] = retrieval(similarity, groups)["recall_at_10"]["value"]
    assert recall["trained"] > recall["untrained"] + 0.2


def test_retrieval_is_as_a_slow_reading_of_its_definition() -> None:
    similarity = np.random.default_rng(0).normal(size=(40, 40)).round(1).astype(np.float32)
    found = retrieval(similarity, ["a"] * 20 + ["b"] * 20)
    ranks = [sum(1 for j in range(40) if similarity[i, j] >= similarity[i, i]) for i in range(40)]
    assert found["mrr"]["value"] == pytest.approx(sum(1 / r for r in ranks) / 40)
    assert found["recall_at_10"]["value"] == pytest.approx(sum(r <= 10 for r in ranks) / 40)


def test_training_learns_and_what_is_stored_is_what_was_trained(tokenizer: Tokenizer, tmp_path) -> None:
    files = [f for f in read_stdlib("train") if f.path.startswith("email/")]
    recipe = EmbeddingRecipe(dim=16, epochs=4, batch=64, shifts=(0,))
    lines: list[str] = []
    model = train_embedding(files, tokenizer, recipe, lines.append)
    save_embedding(model, tmp_path)
    stored = StaticEmbedder.load(tmp_path)
    np.testing.assert_allclose(stored.embed(TEXTS), model.encode(TEXTS), atol=2e-3)
    assert lines[-1].startswith("step")

    before = untrained(tokenizer, recipe)
    held_out = [f for f in read_stdlib("held_out") if f.path == "email/header.py"]
    judged = judge_embedding(stored.embed, lambda t: np.asarray(before.encode(list(t))), files[:3], held_out, tokenizer)
    task = judged["next excerpt"]
    assert task["n"] > 50
    assert task["trained"]["mrr"]["value"] > task["untrained"]["mrr"]["value"]
