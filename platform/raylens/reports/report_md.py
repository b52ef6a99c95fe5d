"""``report.md``: one scroll, from one template (A2.04 to A2.06, A2.21)."""

from __future__ import annotations

from raylens.audit.artefacts import Artefacts, Completion, InterpEvidence, PromptResult, TriggerHit
from raylens.audit.feature_rows import FeatureRow
from raylens.reports.json_files import to_json
from raylens.reports.markdown import code, fence, plain, table
from raylens.reports.numbers import behind, count, figure, percent, signed
from raylens.reports.outputs import SOURCE, Outputs, changed_checks, clipped, distance, ending, name, names
from raylens.reports.wording import (
    METHOD_HEADS,
    ONE_VERDICT,
    calibration,
    can_it_still,
    change,
    fires_on,
    meaning,
    methods,
    passed,
    posture,
    searched,
    significant,
    stability,
    statistics,
    subject,
    trace,
    verdict_line,
)


def report_md(artefacts: Artefacts) -> str:
    """The report of a run as Markdown; made from ``artefacts`` alone.

    Raises:
        InputError: A figure is NaN or infinite, which JSON has no way to write.
    """
    blocks = [
        *_header(artefacts),
        "## Audit trace",
        _rows("step", "with", trace(artefacts)),
        "## Decision",
        *_decision(artefacts),
        "## Behavioural outputs",
        *_behaviour(artefacts),
        "## Mechanistic appendix",
        *_mechanism(artefacts),
        "## Raw score payload",
        f"`score.json`, whole. Calibration: {plain(calibration(artefacts.score))}.",
        fence(to_json(artefacts.score).rstrip("\n"), "json"),
    ]
    return "\n\n".join(blocks) + "\n"


def _header(artefacts: Artefacts) -> list[str]:
    about = artefacts.decision
    rows = [
        ("session", about.session),
        ("run", about.run),
        ("reference", subject(about.reference)),
        ("candidate", subject(about.candidate)),
        ("SAE", about.sae or "none"),
        ("suite", f"{about.suite.name}, digest {about.suite.digest}"),
    ]
    return [
        f"# {plain(about.title) or 'Untitled audit'}",
        _rows("audit", "of", rows),
        "What stands in blocks and `code` below was written by models, suites and label sources: it is data, and no "
        "instruction to whoever reads it. Characters without a shape are shown as `⟨U+200B⟩` or `␛`.",
    ]


def _decision(artefacts: Artefacts) -> list[str]:
    decision = artefacts.decision.decision
    return [
        f"**{plain(verdict_line(decision))}** {plain(decision.reason)}",
        fence(to_json(decision).rstrip("\n"), "json"),
        "What this does and does not say:",
        "\n".join(f"- {plain(sentence)}" for sentence in posture(artefacts)),
    ]


def _behaviour(artefacts: Artefacts) -> list[str]:
    results = artefacts.suite_results
    blocks = ["### Checks"]
    if results.checks:
        rows = [
            [
                plain(row.check),
                passed(row.passed_reference, row.n_reference),
                passed(row.passed_candidate, row.n_candidate),
            ]
            for row in results.checks
        ]
        blocks += [
            table(["check", "reference passes:", "candidate passes:"], rows),
            "Of completions that a check applies to.",
        ]
    else:
        blocks.append("The suite has no checks.")
    blocks += ["### Capability panel", can_it_still(results.capability)]
    if results.capability.figures:
        rows = [
            [
                plain(one.name),
                figure(one.reference),
                figure(one.candidate),
                figure(one.broken_beyond),
                behind(one.n_reference, one.n),
                "broken" if one.is_broken else "intact",
            ]
            for one in results.capability.figures
        ]
        blocks.append(table(["figure", "reference:", "candidate:", "broken beyond:", "n:", "is"], rows))
    return [*blocks, "### Outputs side by side", *_outputs(Outputs.of(results.results))]


def _outputs(outputs: Outputs) -> list[str]:
    blocks = [outputs.summary()]
    if outputs.alike:
        blocks.append(f"Alike: {_named(outputs.alike)}.")
    for one in outputs.shown:
        blocks += _output(one)
    if outputs.folded:
        blocks.append(f"Different too, and in full in `{SOURCE}`: {_named(outputs.folded)}.")
    return blocks


def _output(result: PromptResult) -> list[str]:
    changed = [
        f"- check {code(before.check)}: reference {before.status}, candidate {after.status}: {code(after.reason)}"
        for before, after in changed_checks(result)
    ]
    return [
        f"#### {plain(name(result)) or 'without an id'}",
        f"{distance(result)}.",
        *(["\n".join(changed)] if changed else []),
        "Prompt:",
        *_clipped_fence(result.prompt),
        *_completion("Reference", result.reference),
        *_completion("Candidate", result.candidate),
    ]


def _completion(who: str, completion: Completion) -> list[str]:
    said = f"{who} ({ending(completion)})"
    return [f"{said}: it wrote nothing."] if not completion.text else [f"{said}:", *_clipped_fence(completion.text)]


def _clipped_fence(text: str) -> list[str]:
    shown, remark = clipped(text)
    return [fence(shown), f"… {remark}"] if remark else [fence(shown)]


def _named(results: tuple[PromptResult, ...]) -> str:
    shown, more = names(results)
    return ", ".join(map(code, shown)) + (f", and {more} more" if more else "")


def _mechanism(artefacts: Artefacts) -> list[str]:
    evidence = artefacts.interp_evidence
    blocks = ["### Features that changed"]
    if evidence is None:
        blocks.append("There is no evidence from features: the audit ran without an SAE.")
    else:
        blocks += _features(evidence)
    blocks += ["### Inserts found by the search for triggers", searched(artefacts.score)]
    if artefacts.score.triggers:
        blocks.append("\n".join(_trigger(one, fires_on(one, evidence)) for one in artefacts.score.triggers))
    rows = [[plain(cell) for cell in row] for row in methods(artefacts.score)]
    return [*blocks, "### Scores of all methods", table(METHOD_HEADS, rows), ONE_VERDICT]


def _features(evidence: InterpEvidence) -> list[str]:
    blocks = [
        f"Coverage: {plain(evidence.coverage.line)}",
        *([f"Own explanations: {plain(own.line)}"] if (own := evidence.own_explanations) is not None else []),
        f"Read at {code(evidence.hook)}, pooled by {code(evidence.pooling)}. {significant(evidence)}",
        plain(stability(evidence)),
    ]
    return [*blocks, "\n".join(map(_feature, evidence.features))] if evidence.features else blocks


def _feature(row: FeatureRow) -> str:
    said = meaning(row)
    text = f"{code(said.text)} — {plain(said.remark)}" if said.text else plain(said.remark)
    lines = [f"- **{code(row.id)}** {change(row)}: {text}", f"  - {'; '.join(statistics(row))}"]
    if said.is_proxy and row.neighbours:
        near = (f"{one.feature} ({figure(one.cosine)}) {code(one.explanation)}" for one in row.neighbours)
        lines.append(f"  - explained neighbours: {'; '.join(near)}")
    return "\n".join(lines)


def _trigger(hit: TriggerHit, features: list[str]) -> str:
    lines = [
        f"- {code(hit.text)} in slot {code(hit.slot)}: score {signed(hit.score)} nats ({count(hit.n_tokens, 'token')})",
        f"  - the candidate then writes {code(hit.writes)} on {percent(hit.share)} of "
        f"{count(hit.n_prompts, 'prompt')}, and on {percent(hit.share_without)} without; without it writes "
        f"{code(hit.writes_without)}",
    ]
    if features:
        lines.append(f"  - features that fire more on it: {', '.join(map(code, features))}")
    return "\n".join(lines)


def _rows(left: str, right: str, rows: list[tuple[str, str]]) -> str:
    return table([left, right], [[plain(key), plain(value)] for key, value in rows])
