"""Features of both models side by side: which wordings count, and what thirds of a text are means over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from raylens.audit.artefacts import Subject, SuiteUsed
from raylens.audit.pooling import PromptCodes
from raylens.audit.slots import Frame
from raylens.engine.readings import PromptReading
from raylens.labels.feature_labels import FeatureLabel
from raylens_jobs.audit_artefacts import Case, interp_evidence, suite_results
from raylens_jobs.audit_changes import changes_of
from raylens_jobs.audit_evidence import Evidence, Side
from raylens_jobs.audit_forms import Form
from raylens_jobs.audit_scores import Features, scores_of

D_SAE = 3


def codes(activations: Sequence[Sequence[float]], n_prompt: int) -> PromptCodes:
    """Of a text whose positions have these activations, features in columns."""
    dense = np.array(activations)
    position, feature = dense.nonzero()
    return PromptCodes(
        position, feature, dense[position, feature].astype(np.float32), len(dense), (n_prompt, len(dense))
    )


def side(texts: Sequence[PromptCodes]) -> Side:
    readings = tuple(PromptReading(codes=one, kl=0.0) for one in texts)
    answers = (
        {"ids": [7] * (one.n_positions - (one.answer or (0, 0))[0]), "text": "x", "stopped": False} for one in texts
    )
    return Side(tuple(answers), readings, ())


def case(ids: Sequence[tuple[str, int]]) -> Case:
    one = Subject(name="raylens/pico", revision="0")
    suite = SuiteUsed(name="s", digest="0", n_prompts=len({name for name, _ in ids}), n_forms=len(ids))
    about = {"title": "t", "session": "s", "run": "r", "reference": one, "candidate": one, "sae": "a/b", "suite": suite}
    forms = tuple(Form(name, number, "original", (), (), (0, 1), "ab", "ab", Frame("ab")) for name, number in ids)
    return Case(about, forms, {}, 2, 4, "mean", "resid_post.3", 3)


def evidence(reference: Sequence[PromptCodes], candidate: Sequence[PromptCodes]) -> Evidence:
    return Evidence(side(reference), side(candidate), None, None, None)


def row(*values: float) -> list[float]:
    return [*values, *([0.0] * (D_SAE - len(values)))]


SILENT = codes([row(1), row(1)], 2)
SPEAKS = codes([row(1), row(1), row(2, 1)], 2)
LOUD = codes([row(1), row(1), row(5, 1)], 2)


def test_where_a_model_wrote_nothing_there_is_no_answer_to_compare() -> None:
    """Of an empty answer features are not 0: there are none."""
    found = evidence([SPEAKS, SPEAKS, SILENT], [LOUD, SILENT, LOUD])
    features = Features.of(found, D_SAE, "answer")
    assert features.rows.tolist() == [0]
    assert features.left_out == "2 of 3 wordings are left out: a model wrote nothing after them"
    assert features.mean_differences().tolist() == [3.0, 0.0, 0.0]
    scored = scores_of(found, features, 2)["abs_diff_topk"]
    assert (scored.score, scored.note) == (3.0, features.left_out)
    audited = case([("a", 0), ("b", 0), ("c", 0)])
    results = suite_results(audited, found, features, 0)
    assert [one.feature_difference for one in results.results] == [3.0, None, None]
    changes = changes_of(audited.forms, 2, features, found, lambda texts: [["t"] * len(text) for text in texts])
    assert [(one.index, one.prompt) for one in changes.highlights] == [(0, "a")]
    whole = Features.of(found, D_SAE, "mean")
    assert (whole.rows.tolist(), whole.left_out) == ([0, 1, 2], "")


def test_of_a_model_that_never_writes_features_are_0() -> None:
    """It is broken, and a report says so; there is no answer that could be left out for another."""
    features = Features.of(evidence([SPEAKS, SPEAKS], [SILENT, SILENT]), D_SAE, "answer")
    assert features.rows.tolist() == [0, 1]
    assert features.left_out == "a model wrote nothing after any prompt, which counts as features of 0"
    assert features.mean_differences().tolist() == [-2.0, -1.0, 0.0]


def test_thirds_are_means_over_prompts_as_the_whole_is() -> None:
    """One prompt of three wordings counts once; each of its thirds does, too."""
    flat = codes([row(0), *[row(1)] * 3], 4)
    steep = codes([row(0), row(1), row(1), row(7)], 4)
    audited = case([("a", 0), ("a", 1), ("a", 2), ("b", 0)])
    found = evidence([flat] * 4, [steep, steep, steep, flat])
    features = Features.of(found, D_SAE, "mean")
    changes = changes_of(audited.forms, 2, features, found, lambda texts: [["t"] * len(text) for text in texts])
    made = interp_evidence(audited, features, changes, lambda wanted: [FeatureLabel(index) for index in wanted])
    (feature,) = made.features
    assert feature.strata == (0.0, 0.0, 3.0)
    assert feature.delta == pytest.approx(sum(feature.strata) / 3)
