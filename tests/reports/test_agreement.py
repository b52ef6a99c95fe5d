"""Files that contradict one another are refused, by name (A2.02)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from made_run import made_run
from strategies import artefacts

from raylens.audit.artefacts import Artefacts, InterpEvidence, Subject
from raylens.audit.own_explanations import OwnExplanations
from raylens.errors import InputError
from raylens.reports.agreement import check_agreement


def altered(made: Artefacts, file: str, /, **values: Any) -> Artefacts:
    """With some keys of a file replaced; ``decision__p_value`` is one a level down."""
    inner: dict[str, Any] = {}
    one = getattr(made, file)
    for key, value in values.items():
        outer, _, under = key.partition("__")
        inner[outer] = getattr(one, outer).model_copy(update={under: value}) if under else value
    return made.model_copy(update={file: one.model_copy(update=inner)})


def refusal(made: Artefacts) -> str:
    with pytest.raises(InputError) as caught:
        check_agreement(made)
    return caught.value.message


@given(artefacts())
@settings(max_examples=10)
def test_what_agrees_is_accepted(run: Artefacts) -> None:
    check_agreement(run)


@pytest.mark.parametrize("file", ["suite_results", "score", "interp_evidence"])
@pytest.mark.parametrize(
    ("key", "value"), [("run", "other"), ("session", "other"), ("candidate", Subject(name="other", revision="1"))]
)
def test_files_are_of_one_run(file: str, key: str, value: Any) -> None:
    said = refusal(altered(made_run(), file, **{key: value}))
    assert said.startswith(f"{file}.json: {key} is ")
    assert "and decision.json's" in said


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("score", {"aggregate_score": 0.5}, "score.json: aggregate_score is 0.5, and decision.json's"),
        ("score", {"score_method": "other"}, "score.json: score_method is other"),
        ("score", {"threshold": None}, "score.json: threshold is None"),
        ("score", {"null": ()}, "score.json: the length of null is 0"),
        ("score", {"methods": ()}, "score.json: methods: 0 of them give the verdict"),
        ("decision", {"decision__verdict": "not flagged"}, "decision.json: decision.verdict is 'not flagged', and p"),
        ("decision", {"decision__verdict": "inconclusive"}, "decision.json: decision.verdict is 'inconclusive'"),
        ("decision", {"decision__target_fpr": 0.001}, "decision.json: decision.verdict is 'flagged', and p_value 0.00"),
        ("decision", {"decision__p_value": None}, "decision.json: decision.verdict is 'flagged', and there is no p_"),
        ("decision", {"decision__p_value": 0.0098}, "decision.json: decision.p_value is 0.0098, and score.json's null"),
        ("decision", {"decision__smallest_p": 0.5}, "decision.json: decision.smallest_p is 0.5"),
        ("decision", {"decision__n_benign": 99}, "decision.json: decision.smallest_p is 0.00990099, and 1 / (n + 1)"),
        ("suite_results", {"capability__capability": "broken"}, "suite_results.json: capability.capability is broken"),
        ("suite_results", {"results": ()}, "suite_results.json: the length of results is 0"),
        ("interp_evidence", {"coverage__n_features": 7}, "interp_evidence.json: coverage.n_features is 7"),
        ("interp_evidence", {"coverage__n_direct": 6}, "interp_evidence.json: coverage.n_direct is 6"),
        ("interp_evidence", {"own_explanations__n_wanted": 9}, "interp_evidence.json: own_explanations.n_wanted is 9"),
    ],
)  # fmt: skip
def test_a_contradiction_is_named(file: str, values: dict[str, Any], said: str) -> None:
    assert refusal(altered(made_run(), file, **values)).startswith(said)


def test_a_score_changed_in_both_files_still_contradicts_the_benign_ones() -> None:
    """0.05 is in the midst of them, so p cannot be 1 / 101."""
    both = altered(altered(made_run(), "score", aggregate_score=0.05), "decision", decision__aggregate_score=0.05)
    assert refusal(both).startswith("decision.json: decision.p_value is 0.00990099, and score.json's null gives 0.")


def test_of_no_difference_p_is_1_whatever_benign_ones_score() -> None:
    made = made_run(score=-1.0)
    first, *others = made.score.methods
    methods = (first.model_copy(update={"score": 0.0}), *others)
    same = altered(made, "score", aggregate_score=0.0, methods=methods)
    same = altered(same, "decision", decision__aggregate_score=0.0)
    negative = tuple(one.model_copy(update={"score": -one.score}) for one in made.score.null)
    check_agreement(altered(same, "score", null=negative))


def test_the_headline_is_the_row_of_its_method() -> None:
    made = made_run()
    for key, value in (("score", 0.01), ("p_value", 0.5), ("n_benign", 3)):
        first, *others = made.score.methods
        methods = (first.model_copy(update={key: value}), *others)
        assert f"methods: the row of abs_diff_topk: {key} is {value}" in refusal(
            altered(made, "score", methods=methods)
        )


def test_a_search_scores_what_its_best_insert_does() -> None:
    made = made_run()
    best, other = made.score.triggers
    louder = (best.model_copy(update={"score": 99.0}), other)
    assert "score is 11.82, and the best of triggers 99.0" in refusal(altered(made, "score", triggers=louder))
    assert "score is 11.82, and the best of triggers 0.0" in refusal(altered(made, "score", triggers=()))


def test_a_verdict_follows_from_its_p_value() -> None:
    made = made_run(n_benign=40, score=0.05)  # too few for 1 %, and in the midst of them
    assert made.decision.decision.verdict == "not flagged"
    doubtful = altered(made, "decision", decision__verdict="inconclusive")
    assert "of 40 benign fine-tunes gives 'not flagged'" in refusal(doubtful)
    assert "n_benign is 0" in refusal(altered(made_run(n_benign=0), "decision", decision__p_value=0.5))


def test_the_panel_follows_from_its_figures() -> None:
    made = made_run(capability="broken")
    first, second = made.suite_results.capability.figures
    without = made.suite_results.capability.model_copy(update={"figures": (second,)})
    assert "capability.capability is broken, and of its figures it is intact" in refusal(
        altered(made, "suite_results", capability=without)
    )
    boundless = made.suite_results.capability.model_copy(
        update={"figures": (first.model_copy(update={"broken_beyond": None}), second)}
    )
    assert "held-out loss is broken beyond no limit" in refusal(altered(made, "suite_results", capability=boundless))


def test_results_are_there_once_and_checks_do_not_pass_more_often_than_they_apply() -> None:
    made = made_run()
    first, _, *others = made.suite_results.results
    assert "the number of ids is 7" in refusal(altered(made, "suite_results", results=(first, first, *others)))
    twice = made.model_copy(update={"suite_results": made.suite_results.model_copy(update={"results": (first, first)})})
    suite = made.decision.suite.model_copy(update={"n_prompts": 1, "n_forms": 2})
    for file in ("decision", "suite_results", "score", "interp_evidence"):
        twice = altered(twice, file, suite=suite)
    assert refusal(twice).endswith("prompt and number 'fetch-report-0' 0 are there twice.")
    checks = tuple(row.model_copy(update={"passed_candidate": 9}) for row in made.suite_results.checks)
    assert refusal(altered(made, "suite_results", checks=checks)).endswith(
        "checks: python_parses is not what results come to."
    )
    assert "the checks is [], and those of results" in refusal(altered(made, "suite_results", checks=()))


def test_evidence_holds_together() -> None:
    made = made_run()
    evidence = made.interp_evidence
    assert isinstance(evidence, InterpEvidence)
    rows = (evidence.features[0].model_copy(update={"direction": "decreased"}), *evidence.features[1:])
    assert "features.0.direction is 'decreased', and its delta 0.412" in refusal(
        altered(made, "interp_evidence", features=rows)
    )
    own = OwnExplanations.counted("lexical", {12: "c0ffee"}, {})
    assert "own_explanations.explained has 12, and no explained feature is 12" in refusal(
        altered(made, "interp_evidence", own_explanations=own)
    )
    first, second = evidence.highlights
    short = second.model_copy(update={"candidate": second.candidate.model_copy(update={"activations": (1.0,)})})
    assert "highlights.1.candidate: the number of activations is 1" in refusal(
        altered(made, "interp_evidence", highlights=(first, short))
    )
    beyond = first.model_copy(update={"reference": first.reference.model_copy(update={"n_prompt_tokens": 99})})
    assert "highlights.0.reference.n_prompt_tokens is more" in refusal(
        altered(made, "interp_evidence", highlights=(beyond,))
    )
    without = made_run(with_sae=False).model_copy(update={"interp_evidence": evidence.model_copy(update={"sae": None})})
    assert refusal(without) == "interp_evidence.json: sae is null, and there is evidence from one."
