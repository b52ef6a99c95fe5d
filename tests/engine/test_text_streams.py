"""Texts written side by side, against each one written alone: whoever comes and goes, each reads the same."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import raylens.engine.text_streams as streams_file
from raylens.bundle.paths import PICO
from raylens.engine import growing_batch
from raylens.engine.generation import end_ids, generate
from raylens.engine.growing_batch import GrowingBatch, join, read, read_scored, reread
from raylens.engine.load import LoadedModel, load_model
from raylens.engine.sampling import Dice, choose
from raylens.engine.text_events import End, Event, PromptRead, TextRequest, Token
from raylens.engine.text_pieces import Piece
from raylens.engine.text_streams import TextStreams
from raylens.errors import InputError, OutOfMemoryError, OverloadedError, RaylensError, RunError, StoppedError
from raylens.llm.errors import ContextTooLongError

PROMPTS = ("def area(", "for name, value in sorted(table.items()):\n    print(", "π", "math.pi * radius**2 " * 3, "x")
WAIT_S = 60


@dataclass
class Heard:
    """What one text was told."""

    events: list[Event] = field(default_factory=list)
    told: queue.Queue[Event] = field(default_factory=queue.Queue)

    def tell(self, event: Event) -> None:
        self.events.append(event)
        self.told.put(event)

    def end(self) -> End | Exception:
        while True:
            event = self.told.get(timeout=WAIT_S)
            if isinstance(event, End | Exception):
                return event

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))

    @property
    def tokens(self) -> list[Token]:
        return [token for event in self.events if isinstance(event, Piece) for token in event.tokens]

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


@contextmanager
def writing(loaded: LoadedModel, **more: Any) -> Iterator[TextStreams]:
    streams = TextStreams(loaded, **more)
    try:
        yield streams
    finally:
        streams.close()


def heard(streams: TextStreams, *requests: TextRequest) -> list[Heard]:
    """All asked at once, and heard to their ends."""
    found = [Heard() for _ in requests]
    for one, request in zip(found, requests, strict=True):
        streams.submit(request, one.tell)
    for one in found:
        end = one.end()
        if isinstance(end, Exception):
            raise end
    return found


def ids_of(loaded: LoadedModel, text: str) -> tuple[int, ...]:
    ids = loaded.tokenizer(text)["input_ids"]
    assert isinstance(ids, list)
    return tuple(ids)


@pytest.fixture(scope="module")
def pico() -> LoadedModel:
    return load_model(PICO, device="cpu")


def test_rows_that_join_and_leave_have_the_logits_of_each_alone(loaded: LoadedModel) -> None:
    """Lengths from within the sliding window of the third model to beyond it."""
    torch.manual_seed(0)
    rows = [torch.randint(2, 280, (n,)).tolist() for n in (3, 30, 17, 9)]
    random = iter(torch.randint(2, 280, (200,)).tolist())

    def alone(ids: list[int]) -> torch.Tensor:
        return loaded.model(torch.tensor([ids])).logits[0, -1]

    with torch.inference_mode():
        batch = join([read(loaded, ids)[0] for ids in rows[:2]])
        for step in range(14):
            if step in (3, 8):
                batch = join([batch, read(loaded, rows[2 if step == 3 else 3])[0]])
            if step in (6, 11):
                batch.keep([at for at in range(len(batch)) if at != step % 2])
            if step == 12:
                batch.keep([len(batch) - 1])
            logits = batch.step([next(random) for _ in range(len(batch))])
            for ids, row in zip(batch.rows, logits, strict=True):
                torch.testing.assert_close(row, alone(ids), atol=1e-4, rtol=1e-4)
            kept = max(layer.keys.shape[-2] for layer in batch.cache.layers)
            assert kept == batch.length  # padding that nobody needs is gone
        assert not batch.exact


def test_what_is_read_again_is_exact(loaded: LoadedModel) -> None:
    prompt, written = ids_of(loaded, PROMPTS[0]), [5, 9, 11]
    with torch.inference_mode():
        batch, logits = read(loaded, prompt)
        for token in written:
            logits = batch.step([token])
        again, same = reread(loaded, prompt, written)
    assert torch.equal(logits, same)
    assert (again.rows, again.exact) == (batch.rows, True)


def test_greedy_texts_are_those_of_generate(loaded: LoadedModel) -> None:
    prompts = [ids_of(loaded, text) for text in PROMPTS]
    expected = generate(loaded, prompts, 24)
    with writing(loaded, max_batch=3) as streams:
        found = heard(streams, *(TextRequest(prompt, 24) for prompt in prompts))
        assert streams.counts() == (0, 0)
    for one, wanted in zip(found, expected, strict=True):
        assert one.ids == wanted.ids
        assert one.events[0] == PromptRead()
        assert one.events[-1] == End("stop" if wanted.stopped else "length", wanted.n_tokens)
        assert one.text == loaded.tokenizer.decode(list(wanted.ids), skip_special_tokens=True)


@settings(max_examples=8)
@given(st.data())
def test_texts_are_the_same_in_any_company(pico: LoadedModel, data: st.DataObject) -> None:
    some = st.builds(
        TextRequest,
        st.sampled_from(PROMPTS).map(lambda text: ids_of(pico, text)),
        st.integers(0, 12),
        st.sampled_from([(), ("e",), ("\n", "self")]),
        st.sampled_from([0.0, 0.7, 1.3]),
        st.sampled_from([1.0, 0.8]),
        st.integers(-5, 5),
        st.sampled_from([None, 0, 2]),
    )
    requests = data.draw(st.lists(some, min_size=2, max_size=7))
    with writing(pico, max_batch=data.draw(st.integers(1, 4))) as streams:
        found = heard(streams, *requests)
    for request, one in zip(requests, found, strict=True):
        assert one.ids == slow(pico, request)


def slow(loaded: LoadedModel, request: TextRequest) -> tuple[int, ...]:
    """Ids that belong to the answer, without batch or cache: the text is looked at as a whole after every token."""
    dice = Dice(request.temperature, request.top_p, request.seed or 0) if request.temperature else None
    made: list[int] = []
    assert request.max_tokens is not None
    with torch.inference_mode():
        while len(made) < request.max_tokens:
            logits = loaded.model(torch.tensor([[*request.prompt, *made]])).logits[:, -1].float()
            token = choose(logits, [dice], [len(made)]).tokens[0]
            if token in end_ids(loaded):
                break
            made.append(token)
            text = str(loaded.tokenizer.decode(made))
            cut = min((at for stop in request.stop if (at := text.find(stop)) >= 0), default=None)
            if cut is not None:
                kept = [n for n in range(len(made)) if len(str(loaded.tokenizer.decode(made[:n]))) < cut]
                return tuple(made[: len(kept)])
    return tuple(made)


def test_near_ties_are_decided_alone(pico: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise as batches make it, below the size of a tie, changes nothing that is said."""
    prompts = [ids_of(pico, text) for text in PROMPTS]
    expected = generate(pico, prompts, 20)
    step, reads = GrowingBatch.step, []

    def noisy(batch: GrowingBatch, tokens: Sequence[int]) -> torch.Tensor:
        logits = step(batch, tokens)
        return logits if batch.exact else logits + (torch.rand_like(logits) - 0.5) * 0.45

    def counted(*arguments: Any) -> Any:
        reads.append(1)
        return reread(*arguments)

    # Far more noise than there is, so that ties are frequent: two logits come nearer by up to 0.45, and 0.5 is near.
    monkeypatch.setattr(GrowingBatch, "step", noisy)
    monkeypatch.setattr("raylens.engine.sampling.TIE", 0.5)
    monkeypatch.setattr(streams_file, "reread", counted)
    with writing(pico, max_batch=5) as streams:
        found = heard(streams, *(TextRequest(prompt, 20) for prompt in prompts))
    assert reads
    assert [one.ids for one in found] == [wanted.ids for wanted in expected]


def test_log_probabilities_are_those_of_the_whole_text(loaded: LoadedModel) -> None:
    requests = [TextRequest(ids_of(loaded, text), 6, (), 0.0, 1.0, None, 3, 2) for text in PROMPTS]
    with writing(loaded, max_batch=5) as streams:
        found = heard(streams, *requests)
    for request, one in zip(requests, found, strict=True):
        whole = [*request.prompt, *one.ids]
        with torch.inference_mode():
            nats = torch.log_softmax(loaded.model(torch.tensor([whole])).logits[0].double(), dim=-1)
        first = one.events[0]
        assert isinstance(first, PromptRead)
        tokens = [*first.tokens, *one.tokens]
        assert [token.id for token in tokens] == whole
        assert (tokens[0].log_prob, tokens[0].top) == (None, ())
        for at, token in enumerate(tokens[1:], 1):
            assert token.log_prob == pytest.approx(float(nats[at - 1, token.id]), abs=1e-4)
            top = nats[at - 1].topk(2 if at < len(request.prompt) else 3)
            assert [value for _, value in token.top] == pytest.approx(top.values.tolist(), abs=1e-4)
            assert {other for other, _ in token.top} == set(top.indices.tolist())


def test_long_prompts_are_scored_in_parts(pico: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(pico, "def area(radius):\n    return math.pi * radius**2\n" * 4)
    with torch.inference_mode():
        whole, _, expected = read_scored(pico, ids, 2)
        torch.testing.assert_close(expected, read(pico, ids)[1], atol=1e-4, rtol=1e-4)
        for size in (1, 7, len(ids) - 1, len(ids)):
            monkeypatch.setattr(growing_batch, "_PIECE", size)
            parts, batch, logits = read_scored(pico, ids, 2)
            assert [value for value, _ in parts] == pytest.approx([value for value, _ in whole], abs=1e-4)
            assert [[i for i, _ in top] for _, top in parts] == [[i for i, _ in top] for _, top in whole]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(batch.step([5]), read(pico, [*ids, 5])[1], atol=1e-4, rtol=1e-4)
        assert read_scored(pico, ids[:1], 2)[0] == []
    assert len(whole) == len(ids) - 1


def test_a_model_that_keeps_no_keys_and_values_is_stepped_row_by_row(pico: LoadedModel) -> None:
    class Forgetful(torch.nn.Module):
        """Answers as its model does, and keeps nothing."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.inner = model
            self.generation_config = model.generation_config

        def forward(self, ids: torch.Tensor, use_cache: bool = False, past_key_values: Any = None) -> Any:
            assert past_key_values is None
            out = self.inner(ids, use_cache=False)
            out.past_key_values = None
            return out

    bare = load_model(PICO, device="cpu")
    bare.engine.hf_model = Forgetful(bare.model)
    prompts = [ids_of(pico, text) for text in PROMPTS[:3]]
    with writing(bare) as streams:
        found = heard(streams, *(TextRequest(prompt, 6, top_log_probs=1, prompt_log_probs=0) for prompt in prompts))
    assert [one.ids for one in found] == [wanted.ids for wanted in generate(pico, prompts, 6)]


def test_a_text_given_up_is_written_no_further(pico: LoadedModel) -> None:
    with writing(pico, max_batch=2) as streams:
        first, second, third = Heard(), Heard(), Heard()
        give_up = streams.submit(TextRequest(ids_of(pico, "x"), 900), first.tell)
        streams.submit(TextRequest(ids_of(pico, "y"), 30), second.tell)
        never = streams.submit(TextRequest(ids_of(pico, "z"), 900), third.tell)
        while len(first.ids) < 5:
            first.told.get(timeout=WAIT_S)
        give_up()
        never()
        assert second.end() == End("length", 30)
        [last] = heard(streams, TextRequest(ids_of(pico, "def"), 5))
        assert len(last.ids) == 5
        assert streams.counts() == (0, 0)
    assert len(first.ids) < 60
    assert third.events == []


def test_what_cannot_be_asked_is_said_at_once(pico: LoadedModel) -> None:
    held, release = threading.Event(), threading.Event()

    def block(_: Event) -> None:
        held.set()
        release.wait(WAIT_S)

    with writing(pico, max_batch=1, max_waiting=1) as streams:
        for wrong, kind, said in (
            (TextRequest(()), InputError, "no tokens"),
            (TextRequest((1, 4096)), InputError, "they count from 0 to 4,095"),
            (TextRequest((1,) * 1024), ContextTooLongError, "1,024 tokens; the prompt has 1,024"),
            (TextRequest((1,) * 1000, 25), ContextTooLongError, "has 1,000, and 25 are to follow"),
        ):
            with pytest.raises(kind, match=said):
                streams.submit(wrong, block)
        streams.submit(TextRequest((5,), 2), block)
        assert held.wait(WAIT_S)
        waits = Heard()
        streams.submit(TextRequest((5,), 2), waits.tell)
        with pytest.raises(OverloadedError, match="1 requests wait"):
            streams.submit(TextRequest((5,), 2), block)
        release.set()
        assert waits.end() == End("length", 2)
        [whole] = heard(streams, TextRequest((1,) * 1020))
        assert whole.events[-1] == End("length", 4)
        assert [one.events for one in heard(streams, TextRequest((1,) * 1024, 0))] == [[PromptRead(), End("length", 0)]]
    with pytest.raises(StoppedError):
        streams.submit(TextRequest((5,), 2), block)


def test_closing_tells_whoever_waits(pico: LoadedModel) -> None:
    streams, some = TextStreams(pico, max_batch=1), [Heard(), Heard()]
    for one in some:
        streams.submit(TextRequest(ids_of(pico, "x"), 900), one.tell)
    some[0].told.get(timeout=WAIT_S)
    assert streams.is_running()
    streams.close()
    assert all(isinstance(one.end(), StoppedError) for one in some)
    assert not streams.is_running()


def scarce(most_rows: int, fail: Callable[[list[list[int]]], bool]) -> Callable[..., torch.Tensor]:
    """Steps that do not fit into memory with more rows than this, and break off half-way: some layers are updated."""
    step = GrowingBatch.step

    def stepped(batch: GrowingBatch, tokens: Sequence[int]) -> torch.Tensor:
        logits = step(batch, tokens)
        if len(batch) > most_rows or fail(batch.rows):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits

    return stepped


def test_texts_that_do_not_fit_together_take_turns(pico: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [ids_of(pico, text) for text in PROMPTS]
    requests = [TextRequest(prompt, 15, (), temperature, 1.0, 3) for prompt in prompts for temperature in (0.0, 1.0)]
    with writing(pico, max_batch=8) as streams:
        expected = heard(streams, *requests)
        monkeypatch.setattr(GrowingBatch, "step", scarce(3, lambda _: False))
        found = heard(streams, *requests)
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.events[-1] for one in found] == [one.events[-1] for one in expected]
    assert all(sum(isinstance(event, PromptRead) for event in one.events) == 1 for one in found)


def test_one_that_does_not_fit_alone_is_refused_and_the_others_are_not(
    pico: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [ids_of(pico, text) for text in PROMPTS]
    too_long = (1,) * 200
    monkeypatch.setattr(GrowingBatch, "step", scarce(99, lambda rows: any(len(row) > 205 for row in rows)))
    with writing(pico, max_batch=8) as streams:
        some = [Heard() for _ in range(6)]
        for one, prompt in zip(some, [*prompts[:3], too_long, *prompts[3:]], strict=True):
            streams.submit(TextRequest(prompt, 12), one.tell)
        ends = [one.end() for one in some]
        assert isinstance(ends[3], OutOfMemoryError)
        assert [end for end in ends if isinstance(end, End)] == [End("length", 12)] * 5
        monkeypatch.undo()
        assert heard(streams, TextRequest(too_long, 12))[0].events[-1] == End("length", 12)


def test_what_goes_wrong_is_told_to_those_it_is_about(pico: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    step = GrowingBatch.step

    def wrong(batch: GrowingBatch, tokens: Sequence[int]) -> torch.Tensor:
        logits = step(batch, tokens)
        for row, ids in zip(logits, batch.rows, strict=True):
            if ids[1] == 77:
                row[3] = math.nan
        if any(ids[1] == 88 for ids in batch.rows):
            raise RuntimeError("a kernel failed")
        return logits

    monkeypatch.setattr(GrowingBatch, "step", wrong)
    with writing(pico) as streams:
        some = [Heard(), Heard()]
        for one, prompt in zip(some, ((0, 77), (0, 5)), strict=True):
            streams.submit(TextRequest(prompt, 8), one.tell)
        ends = [one.end() for one in some]
        assert isinstance(ends[0], RunError)
        assert "not all finite" in ends[0].message
        assert ends[1] == End("length", 8)
        broken = Heard()
        streams.submit(TextRequest((0, 88), 8), broken.tell)
        end = broken.end()
        assert isinstance(end, RuntimeError)
        assert not isinstance(end, RaylensError)
        assert heard(streams, TextRequest((0, 5), 3))[0].events[-1] == End("length", 3)
