"""The judge that tests put behind a real endpoint: it knows our prompts and no others, and answers as it is set to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fake_llm import FakeLlm
from judges import ask, excerpt, feature, reading
from llm_clients import settings_for, talk
from raylens.chat import Reply, Request, TokenLogprob
from raylens.examples.excerpt import ExampleSets, Excerpt
from raylens.explain.explainers import EXPLAINERS, FeatureFacts
from raylens.explain.reply import Unreadable, read_reply, retry_messages
from raylens.explain.rule import Clause, Rule
from raylens.explain.token_test import TokenTest
from raylens.llm.errors import RequestRefusedError
from raylens.score.questions import Answered, Question, ScorerSettings
from raylens.score.scorers import CHAT
from reading_judge import Judge, wire
from shown import Reader, UnknownChatError
from truths import Rules, Table

FACTS = FeatureFacts(0.01, ("a", "b"))
WORD = "what feature 5 responds to"


def sets(seed: int = 0, n: int = 20) -> ExampleSets:
    """Strengths of 1.1, 2.2 …: simulation has to tell more than on and off."""
    positives, negatives = feature(2 * n, 2 * n, seed=seed)
    strengths = [np.float32(1.1) * (1 + at % 9) / 9 for at in range(2 * n)]
    positives = [replace(one, activations=one.activations * by) for one, by in zip(positives, strengths, strict=True)]
    largest = max(one.peak for one in positives)
    train, test = tuple(positives[:n]), tuple(positives[n:])
    return ExampleSets(train, test, tuple(negatives[:n]), tuple(negatives[n:]), largest)


def replied(judge: Judge, request: Request) -> Reply:
    answer = judge.answer(wire(request))
    assert answer.status == 200, answer.raw
    rows = tuple(TokenLogprob(*row) for row in answer.logprobs or ())
    return Reply(answer.text, rows if request.top_logprobs else None)


def asked(name: str, judge: Judge, some: ExampleSets, settings: ScorerSettings, word: str = WORD) -> list[Answered]:
    questions = CHAT[name].build_requests(word, some.test, some.test_negatives, settings, 3)
    return ask(CHAT[name], questions, lambda question: replied(judge, question.request))


@pytest.mark.parametrize("logprobs", [0, 5])
@pytest.mark.parametrize(("mode", "value"), [("perfect", 1.0), ("inverted", 0.0)])
@pytest.mark.parametrize("name", CHAT)
def test_it_knows_what_every_scorer_asks(
    name: str, mode: str, value: float, logprobs: int, settings: ScorerSettings
) -> None:
    table = Table({4: sets(1), 5: sets(2)})
    judge = Judge(table, mode)  # type: ignore[arg-type]
    answered = asked(name, judge, sets(2), replace(settings, top_logprobs=logprobs))
    found = {metric.name: metric.value for metric in CHAT[name].result(answered)}
    assert not table.missed
    if name == "simulation":
        expected = 1.0 if mode == "perfect" else -1.0
        assert found["correlation"] == pytest.approx(expected, abs=1e-6 if logprobs else 0.01)
        if not logprobs:
            assert found["correlation"] != pytest.approx(expected, abs=1e-6), "levels are rounded"
        return
    assert ("auc" in found) == (logprobs > 0 and name not in {"intruder", "concept"})
    assert {each for key, each in found.items() if key != "chance"} == {value}


def test_of_a_text_it_was_not_given_it_says_that_nothing_fires(settings: ScorerSettings) -> None:
    table = Table({4: sets(1), 5: sets(2)})
    other = [reading(one, (*one.tokens[:-1], " else")) for one in sets(1).test]
    answered = asked("detection", Judge(table), replace(sets(1), test=tuple(other)), settings)
    found = {metric.name: metric.value for metric in CHAT["detection"].result(answered)}
    assert (found["recall"], found["balanced_accuracy"]) == (0.0, 0.5)
    assert len(table.missed) == 20
    assert not table.conflicts
    again = Table(
        {4: replace(sets(1), test_negatives=(replace(sets(1).test[0], activations=np.zeros(8, np.float32)),))}
    )
    assert list(again.conflicts) == [4]


@pytest.mark.parametrize("name", EXPLAINERS)
@pytest.mark.parametrize("feature", [4, 5])
def test_it_knows_the_feature_that_every_explainer_asks_about(name: str, feature: int) -> None:
    table = Table({4: sets(1), 5: replace(sets(2), train=tuple(excerpt(2000 + i, [0, 0.5, 3.0]) for i in range(9)))})
    of = sets(1) if feature == 4 else replace(sets(2), train=tuple(excerpt(2000 + i, [0, 0.5, 3.0]) for i in range(9)))
    explainer = EXPLAINERS[name]
    prompts = explainer.prompts()
    judge = Judge(table)
    request = explainer.build(FACTS, of, prompts)
    assert read_reply(replied(judge, request)) == f"what feature {feature} responds to"
    room = explainer.fitted(FACTS, of, prompts, 10_000, lambda text: len(text) // 4).n_tokens + 500 - 40
    short = explainer.fitted(FACTS, of, prompts, room, lambda text: len(text) // 4)
    assert (short.trimmed, read_reply(replied(judge, short.request))) == (True, f"what feature {feature} responds to")
    for answer in ("I cannot say.", ""):
        retry = Request(retry_messages(request.messages, answer, Unreadable("it was empty."), prompts))
        assert read_reply(replied(judge, retry)) == f"what feature {feature} responds to"
    assert [one.is_retry for one in judge.seen] == [False, False, True, True]
    assert judge.seen[-1].reason == "it was empty."
    assert len(judge.seen[0].negatives) == explainer.n_negatives


def test_a_chat_is_read_as_it_was_written(settings: ScorerSettings) -> None:
    tricky = excerpt(1, [0, 3.0, 3.0], tokens=('say "{count}"', '\n2. "text 2"', "<<\u2028>>"))
    plain = [excerpt(7, [0, 0, 0]), excerpt(8, [0, 0, 0])]
    read = Reader().read
    for name in ("detection", "fuzz", "simulation"):
        questions = CHAT[name].build_requests("names {texts}", [tricky], plain, settings, 0)
        for question in questions:
            shown = read(wire(question.request))
            assert (shown.prompt, shown.explanation) == (name, "names {texts}")
            known = {f"{e.window_id}:{e.start}": e for e in (tricky, *plain)}
            assert shown.texts == tuple(known[item].text for item in question.item_ids)
            if name == "simulation":
                assert shown.tokens == known[question.item_ids[0]].tokens
            if name == "fuzz":
                marked = [text[a:b] for text, spans in zip(shown.texts, shown.marks, strict=True) for a, b in spans]
                assert '\n2. "text 2"<<\u2028>>' in marked
                assert len(marked) == 3, "every negative borrows marks"


def requests(settings: ScorerSettings) -> list[Request]:
    """One of every prompt."""
    some = sets()
    found = [
        scorer.build_requests("a phrase", some.test, some.test_negatives, settings, 1)[0] for scorer in CHAT.values()
    ]
    explainers = [one.build(FACTS, some, one.prompts()) for one in EXPLAINERS.values()]
    return [*(question.request for question in found), *explainers]


def test_what_is_not_word_for_word_ours_is_refused(settings: ScorerSettings) -> None:
    reader = Reader()
    for request in requests(settings):
        chat = wire(request)
        assert reader.read(chat)
        body = chat[-1]["content"]
        wrong: list[list[dict[str, str]]] = [
            [*chat[:-1], {"role": "user", "content": f"{body}\nthanks"}],
            [*chat[:-1], {"role": "user", "content": f"Please. {body}"}],
            [*chat[:-1], {"role": "assistant", "content": body}],
            [{**chat[0], "content": chat[0]["content"].replace("language model", "model")}, *chat[1:]],
            chat[1:],
            chat[:-1],
            [*chat, {"role": "assistant", "content": "?"}, {"role": "user", "content": "and?"}],
        ]
        if '\n1. "' in body:
            wrong.append([*chat[:-1], {"role": "user", "content": body.replace("\n1. ", "\n9. ")}])
        for one in wrong:
            if one != chat:
                with pytest.raises(UnknownChatError):
                    reader.read(one)
    with pytest.raises(UnknownChatError):
        reader.read([])


def test_a_users_prompts_are_recognised_where_they_are_known(tmp_path, settings: ScorerSettings) -> None:  # A1.09
    (tmp_path / "detection.txt").write_text("version: 2\n--- user\nMine: {explanation} {count}\n{texts}\n")
    chat = [{"role": "user", "content": 'Mine: months 1\n1. "in May"'}]
    assert Reader(tmp_path).read(chat).texts == ("in May",)
    with pytest.raises(UnknownChatError):
        Reader().read(chat)


def test_a_coin_falls_alike_whenever_it_is_asked_and_fairly(settings: ScorerSettings) -> None:
    some = replace(settings, top_logprobs=5)
    for name in CHAT:
        one, again, other = (asked(name, Judge(mode="coin", seed=seed), sets(), some) for seed in (1, 1, 2))
        assert one == again
        assert one != other
    said = [asked("detection", Judge(mode="coin", seed=seed), sets(), settings) for seed in range(30)]
    yes = np.mean([values for one in said for _, reply in one for values in getattr(reply, "values")])  # noqa: B009
    assert abs(yes - 0.5) < 4 * 0.5 / np.sqrt(30 * 40)


def test_a_judge_that_always_says_the_same(settings: ScorerSettings) -> None:
    judge = Judge(mode="constant")
    found = {m.name: m.value for m in CHAT["detection"].result(asked("detection", judge, sets(), settings))}
    assert (found["recall"], found["precision"], found["balanced_accuracy"]) == (1.0, 0.5, 0.5)
    (correlation,) = CHAT["simulation"].result(asked("simulation", judge, sets(), settings))
    assert (correlation.value, correlation.n_failed) == (None, 0)
    places = [reply.values.index(1.0) for _, reply in asked("intruder", judge, sets(), settings)]  # type: ignore[union-attr]
    assert set(places) == {0}


def tokenize(text: str) -> list[str]:
    return [" " + word for word in text.split(" ")[1:]]


def worded(at: int, words: str, word: str) -> Excerpt:
    tokens = tuple(f" {each}" for each in words.split())
    one = excerpt(at, [float(token == f" {word}") for token in tokens])
    return reading(one, tokens)


def test_rules_judge_an_explanation_by_what_it_says(settings: ScorerSettings) -> None:
    rules = {
        name: Rule((Clause(TokenTest("stripped", word)),)) for name, word in (("apples", "apple"), ("nuts", "nut"))
    }
    fruit = [worded(i, f"w{i} an apple w{i} nut" if i % 2 else f"apple w{i} w{i} w", "apple") for i in range(24)]
    silent = [worded(100 + i, f"w{i} nut here" if i % 3 else f"w{i} w w", "apple") for i in range(24)]
    judge = Judge(Rules(rules, tokenize))
    own = ExampleSets(tuple(fruit[:12]), tuple(fruit[12:]), tuple(silent[:12]), tuple(silent[12:]), 1.0)
    for name in CHAT:
        found = CHAT[name].result(asked(name, judge, own, settings, "apples"))
        assert found[0].value == pytest.approx(1.0), name
    other = {m.name: m.value for m in CHAT["detection"].result(asked("detection", judge, own, settings, "nuts"))}
    assert (other["recall"], other["precision"]) == (6 / 12, 6 / 14), (
        "six texts of either kind have a nut, and two more"
    )
    request = EXPLAINERS["default"].build(FACTS, own, EXPLAINERS["default"].prompts())
    assert read_reply(replied(judge, request)) == "apples"
    assert judge.answer(wire(questions("pears", own, settings)[0].request)).status == 400
    assert judge.refused == ["no rule is known for 'pears'"]


def questions(word: str, some: ExampleSets, settings: ScorerSettings) -> Sequence[Question]:
    return CHAT["detection"].build_requests(word, some.test, some.test_negatives, settings, 1)


def test_it_answers_over_http_and_refuses_there_too(settings: ScorerSettings) -> None:
    judge = Judge(Table({5: sets()}), delay_s=0.05)
    asks = questions(WORD, sets(), replace(settings, top_logprobs=5))
    with FakeLlm(judge) as llm:
        came = talk(settings_for(llm, max_concurrency=8), *(one.request for one in asks))
        lost = talk(settings_for(llm), "what is the capital of France?")
        assert llm.high_water > 1, "answers are delayed side by side"
    answered = [(one, CHAT["detection"].read_reply(one, reply)) for one, reply in zip(asks, came.replies, strict=True)]
    assert {m.name: m.value for m in CHAT["detection"].result(answered)}["auc"] == 1.0
    assert isinstance(lost.outcomes[0], RequestRefusedError)
    assert "the judge does not know this" in str(lost.outcomes[0])
    assert len(judge.refused) == 1
    assert json.loads(came.texts[0])
