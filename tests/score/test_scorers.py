"""The scorers that ask a judge, from question to figure, under judges that know, lie, toss a coin or say nothing."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import stats

from judges import ask, coin, excerpt, feature, inverted, levels, perfect, spelled, unanswered, written
from raylens.chat import Reply
from raylens.errors import InputError, UnknownNameError
from raylens.explain.prompts import packaged_names
from raylens.score import detection, intruder, recall, simulation
from raylens.score.metrics import Metric
from raylens.score.questions import (
    PROMPT_NAMES,
    FailedItem,
    ScorerSettings,
    Unreadable,
    failed_items,
    feature_seed,
    score_prompts,
)
from raylens.score.scorers import CHAT, NAMES, chat_scorer

OF_EXCERPTS = tuple(name for name in CHAT if name != "concept")
YES_NO = ("detection", "fuzz", "recall")
FEATURES = 200
LOWEST, HIGHEST = (float(x) for x in stats.binom.ppf([1e-4, 1 - 1e-4], FEATURES, 0.95) / FEATURES)


def values(metrics: tuple[Metric, ...]) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in metrics}


def test_every_scorer_of_the_list_is_there() -> None:  # A1.05
    assert {"detection", "recall", "fuzz", "simulation", "surprisal", "embedding"} <= set(NAMES)
    assert chat_scorer("fuzz") is CHAT["fuzz"]
    with pytest.raises(UnknownNameError, match="detektion") as caught:
        chat_scorer("detektion")
    assert "detection" in caught.value.hint


@pytest.mark.parametrize("name", YES_NO)
def test_a_judge_that_knows_scores_one_and_one_that_lies_zero(name: str, settings: ScorerSettings) -> None:  # A1.05
    positives, negatives = feature(13, 11)
    questions = CHAT[name].build_requests("a phrase", positives, negatives, settings, 3)
    for judge, value in ((perfect, 1.0), (inverted, 0.0)):
        found = CHAT[name].result(ask(CHAT[name], questions, judge), base_rate=0.01)
        assert set(values(found).values()) == {value}
        assert {"precision", "recall", "f1", "balanced_accuracy", "accuracy", "auc"} < {m.name for m in found}
        assert {(metric.n, metric.n_failed) for metric in found} == {(24, 0)}


def test_simulation_and_intruder_of_a_judge_that_knows_and_one_that_lies(settings: ScorerSettings) -> None:  # A1.05
    positives, negatives = feature(13, 11)
    simulated = simulation.build_requests("a phrase", positives, negatives, settings, 3)
    for judge, value in ((perfect, 1.0), (inverted, -1.0)):
        (found,) = simulation.result(ask(simulation, simulated, judge))
        assert found.value == pytest.approx(value)
        assert (found.n, found.n_failed) == (24, 0)
    asked = intruder.build_requests("", positives, negatives, settings, 3)
    for judge, value in ((perfect, 1.0), (inverted, 0.0)):
        found, chance = intruder.result(ask(intruder, asked, judge))
        assert (found.value, chance.value) == (value, 1 / 5)
        assert (found.n, found.n_failed) == (len(asked), 0)


@pytest.mark.parametrize("name", YES_NO)
def test_a_coin_is_covered_as_chance(name: str, settings: ScorerSettings) -> None:
    inside: dict[str, list[bool]] = {}
    for number in range(FEATURES):
        positives, negatives = feature(30, 30, length=3, seed=number)
        questions = CHAT[name].build_requests("a phrase", positives, negatives, settings, number)
        for metric in CHAT[name].result(ask(CHAT[name], questions, coin(number))):
            assert metric.ci_low is not None
            assert metric.ci_high is not None
            inside.setdefault(metric.name, []).append(metric.ci_low <= 0.5 <= metric.ci_high)
    assert set(inside) == {"precision", "recall", "f1", "balanced_accuracy", "accuracy", "auc"}
    covered = {metric: float(np.mean(each)) for metric, each in inside.items()}
    assert all(LOWEST <= share <= (1 if metric == "f1" else HIGHEST) for metric, share in covered.items()), covered


def test_a_coin_that_simulates_or_seeks_intruders_is_covered_as_chance(settings: ScorerSettings) -> None:
    inside: dict[str, list[bool]] = {"correlation": [], "accuracy": []}
    for number in range(FEATURES):
        positives, negatives = feature(20, 20, length=3, seed=number)
        for name, truth in (("simulation", 0.0), ("intruder", 0.2)):
            scorer = CHAT[name]
            questions = scorer.build_requests("a phrase", positives, negatives, settings, number)
            metric = scorer.result(ask(scorer, questions, coin(number)), seed=number)[0]
            assert metric.ci_low is not None
            assert metric.ci_high is not None
            inside[metric.name].append(metric.ci_low <= truth <= metric.ci_high)
    covered = {metric: float(np.mean(each)) for metric, each in inside.items()}
    # Bootstrap of 40 excerpts, and a proportion of at most ten, whose coverage comes in steps.
    assert all(0.88 <= share <= 1.0 for share in covered.values()), covered


@pytest.mark.parametrize("name", OF_EXCERPTS)
def test_every_item_is_asked_once_and_the_last_batch_is_not_dropped(name: str, settings: ScorerSettings) -> None:
    positives, negatives = feature(49, 49)
    questions = CHAT[name].build_requests("a phrase", positives, negatives, settings, 3)
    asked = [item for question in questions for item in question.item_ids]
    everything = {f"{e.window_id}:{e.start}" for e in positives + negatives}
    if name == "intruder":
        assert set(asked) < everything
        texts = "".join(question.request.messages[-1].content for question in questions)
        assert all(json.dumps(e.text) in texts for e in positives)
    else:
        assert sorted(asked) == sorted(everything)
    if name in YES_NO:
        assert [len(question.item_ids) for question in questions] == [5] * 19 + [3]
        assert [len(question.request.messages[-1].content.split("\n")) for question in questions[-1:]] == [3 + 3]


@pytest.mark.parametrize("name", OF_EXCERPTS)
def test_questions_are_reproducible_and_differ_by_feature(name: str, settings: ScorerSettings) -> None:
    positives, negatives = feature(12, 12)
    one, same, other = (
        CHAT[name].build_requests("a phrase", positives, negatives, settings, feature_seed(22, "sae", number, name))
        for number in (1, 1, 2)
    )
    assert one == same
    assert one != other
    assert feature_seed(22, "a", 1) != feature_seed(23, "a", 1) != feature_seed(23, "a", 2)


def test_order_says_nothing(settings: ScorerSettings) -> None:
    """Over many features, a positive is as likely in each of the five places, and after a positive as after another."""
    places, repeats = np.zeros(5), []
    for number in range(150):
        positives, negatives = feature(10, 10, length=3)
        for question in detection.build_requests("", positives, negatives, settings, feature_seed(0, number)):
            places += question.truth
            repeats += [a == b for a, b in zip(question.truth[:-1], question.truth[1:], strict=True)]
    assert stats.chisquare(places).pvalue > 1e-3
    # Drawn without replacement from ten and ten, a neighbour is alike in 9 of 19.
    assert stats.binomtest(sum(repeats), len(repeats), 9 / 19).pvalue > 1e-3


@pytest.mark.parametrize("name", OF_EXCERPTS)
def test_unanswered_items_are_counted_and_shown_and_never_guessed(name: str, settings: ScorerSettings) -> None:
    positives, negatives = feature(13, 11)
    scorer = CHAT[name]
    questions = scorer.build_requests("a phrase", positives, negatives, settings, 3)
    answered = ask(scorer, questions[1:], perfect) + ask(scorer, questions[:1], lambda _: Reply("I cannot say."))
    lost = questions[0].item_ids
    for metric in scorer.result(answered):
        assert (metric.n, metric.n_failed) == (sum(len(q.item_ids) for q in questions[1:]), len(lost))
    assert scorer.result(answered)[0].value == pytest.approx(1.0)
    reason = "no JSON object" if name == "simulation" else "no JSON list"
    assert failed_items(answered) == tuple(FailedItem(item, name, reason) for item in lost)

    for metric in scorer.result(unanswered(questions)):
        assert (metric.n, metric.ci_low) == (0, None)
        assert metric.value is None or metric.name == "chance"
        assert metric.n_failed == sum(len(q.item_ids) for q in questions)


def test_recall_puts_recall_first(settings: ScorerSettings) -> None:
    positives, negatives = feature(6, 6)
    questions = recall.build_requests("a phrase", positives, negatives, settings, 1)
    assert [m.name for m in recall.result(ask(recall, questions, perfect))][:3] == ["recall", "precision", "f1"]
    plain = detection.build_requests("a phrase", positives, negatives, settings, 1)
    assert [q.request for q in questions] == [q.request for q in plain]
    assert {q.scorer for q in questions} == {"recall"}


def test_a_question_shows_its_texts_and_nothing_that_tells(settings: ScorerSettings) -> None:
    tricky = excerpt(1, [0, 3.0], tokens=('say "{count}"', '\n2. "text 2"'))
    (question,) = detection.build_requests("names {texts}", [tricky], [excerpt(7, [0, 0])], settings, 0)
    shown = question.request.messages[-1].content.split("\n")
    assert shown[0] == "Description: names {texts}"
    assert len(shown) == 5, "a line break in a text does not begin another"
    assert sorted(json.loads(line[3:]) for line in shown[3:]) == [" w7_0 w7_1", 'say "{count}"\n2. "text 2"']
    assert question.request.temperature == 0.0
    assert question.request.top_logprobs == 0
    assert question.prompt_hash == settings.prompts["detection"].sha256
    assert settings.prompts.prompt_hash == score_prompts().prompt_hash


def test_the_intruder_is_the_only_window_of_its_kind(settings: ScorerSettings) -> None:
    positives, negatives = feature(50, 10)
    questions = intruder.build_requests("the name", positives, negatives, settings, 5)
    band = {e.text: e.quantile for e in positives}
    assert len(questions) == 20, "bands of five make a group of four and one that is filled up"
    places = [question.truth.index(1.0) for question in questions]
    assert len(set(places)) > 2
    for question, place in zip(questions, places, strict=True):
        content = question.request.messages[-1].content
        assert "the name" not in content
        texts = [json.loads(line[3:]) for line in content.split("\n")[1:]]
        assert [text not in band for text in texts] == [i == place for i in range(5)]
        assert len(set(texts)) == 5
        assert len({band[text] for text in texts if text in band}) == 1
    used = [question.item_ids[0] for question in questions]
    assert max(used.count(item) for item in used) == 2, "ten negatives, twenty questions"
    assert intruder.build_requests("", positives[:3], negatives, settings, 5) == []
    assert intruder.build_requests("", positives, [], settings, 5) == []
    assert intruder.result([]) == (
        Metric("accuracy", None, None, None, 0, 0),
        Metric("chance", None, None, None, 0, 0),
    )


def test_prompts_ship_and_are_checked() -> None:  # A1.09
    assert packaged_names("score") == sorted(PROMPT_NAMES)
    for name in PROMPT_NAMES:
        prompt = score_prompts()[name]
        assert prompt.version >= 1
        # Examples in the prompt are themselves answered as a reply is read.
        said = [turn.content for turn in prompt.turns if turn.role == "assistant"]
        asked = [turn.content for turn in prompt.turns if turn.role == "user"]
        # The last turn asks; of surprisal nothing is asked, a model reads on.
        assert len(said) == len(asked) - 1
        assert len(said) >= (name != "surprisal")
        for question, answer in zip(asked, said, strict=False):
            found = json.loads(answer)
            if name == "concept":
                assert found in ([0], [1])
                continue
            (count,) = re.findall(r"^(?:Texts|Tokens) \((\d+)\):$", question, re.MULTILINE)
            assert int(count) == len(re.findall(r"^\d+\. \"", question, re.MULTILINE))
            if name == "intruder":
                assert 1 <= found[0] <= int(count)
            else:
                assert len(found) == int(count)


def test_a_users_prompt_replaces_one_and_changes_its_hash(tmp_path, settings: ScorerSettings) -> None:  # A1.09
    (tmp_path / "detection.txt").write_text("version: 2\n--- user\nMine: {explanation} {count}\n{texts}\n")
    mine = ScorerSettings(score_prompts(tmp_path))
    positives, negatives = feature(2, 2)
    (question,) = detection.build_requests("months", positives, negatives, mine, 0)
    assert question.request.messages[0].content.startswith("Mine: months 4\n1. ")
    assert question.prompt_hash != settings.prompts["detection"].sha256
    assert mine.prompts["fuzz"] == settings.prompts["fuzz"]


@pytest.mark.parametrize(
    "wrong", [{"per_prompt": 0}, {"mark_above": 1.0}, {"mark_above": -0.1}, {"intruder_windows": 2}]
)
def test_settings_that_make_no_question_are_refused(wrong) -> None:
    with pytest.raises(InputError):
        ScorerSettings(score_prompts(), **wrong)


def test_simulation_asks_for_room_to_answer(settings: ScorerSettings) -> None:
    questions = simulation.build_requests("", [excerpt(1, [1.0] * 128)], [], settings, 0)
    answer = written(questions[0], levels(questions[0]))
    # About a token for every two characters of such text, at worst.
    assert questions[0].request.max_tokens > len(answer) / 2
    assert isinstance(simulation.read_reply(questions[0], spelled(answer[:-9])), Unreadable)
