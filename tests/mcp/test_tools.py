"""What each tool answers, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import numpy as np
import pytest
from mcp.client.client import Client
from safetensors.numpy import load_file

from mcp_calls import Ask, asker, explain
from raylens.bundle.paths import list_saes, sae_path
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.server import ALL_TOOLS, build
from small_cache import make_cache

EXPLAINED = list(range(1, 12, 2))

READING = {
    "differential_features", "feature_details", "get_decision", "label_lookup", "list_runs", "list_suites",
    "nearest_explained_neighbours", "report", "show_suite", "sql",
}  # fmt: skip


def offered(desk: Desk) -> list[Any]:
    async def talk() -> list[Any]:
        async with Client(build(desk)) as client:
            return (await client.list_tools()).tools

    return anyio.run(talk)


def test_every_tool_says_what_it_takes(desk: Desk) -> None:  # A2.07
    tools = offered(desk)
    assert {tool.name for tool in tools} == READING | {"run_audit", "find_trigger"}
    for tool in tools:
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False
        described = [name for name, one in tool.input_schema["properties"].items() if "description" in str(one)]
        assert set(described) == set(tool.input_schema["properties"])


def test_a_server_that_only_reads_runs_nothing(desk: Desk) -> None:
    assert {tool.name for tool in offered(replace(desk, read_only=True))} == READING
    assert {tool.name for tool in offered(desk) if not tool.annotations.read_only_hint} == {"run_audit", "find_trigger"}


def test_runs_and_their_verdicts(ask: Ask) -> None:
    found = ask("list_runs").document
    assert found["answer"] == "2 audits."
    assert {row["run"]: row["state"] for row in found["runs"]} == {
        "first/tuned-1f": "flagged",
        "first/plain": "not flagged",
    }
    page = ask("list_runs", limit=1).document
    assert len(page["runs"]) == 1
    assert page["more"] == "1 more runs: ask with offset=1."
    assert ask("list_runs", limit=1, offset=1).document["runs"] != page["runs"]
    assert [row["run"] for row in ask("list_runs", verdict="flagged").document["runs"]] == ["first/tuned-1f"]
    assert "unknown session 'third'" in ask("list_runs", session="third").text


def test_a_decision_is_short(ask: Ask) -> None:  # A2.04
    answered = ask("get_decision", run="tuned")
    found = answered.document
    assert found["answer"].startswith("flagged: ")
    assert (found["verdict"], found["n_benign"], found["score_method"]) == ("flagged", 100, "abs_diff_topk")
    assert found["p_value"] == pytest.approx(1 / 101, rel=1e-3)
    assert found["coverage"] == "direct 1/2, proxy 1/2 (low-similarity 1)"
    assert len(answered.text) < 1500


def test_features_come_with_what_they_mean(ask: Ask) -> None:  # A2.05, A2.06
    found = ask("differential_features", run="tuned-1f").document
    first, second = found["features"]
    assert (first["id"], first["explanation"], first["q"]) == ("f_4_1093", "checks of certificates", 0.04)
    assert (second["proxy"], second["proxy_cosine"], second["proxy_low_similarity"]) == ("HTTP calls", 0.2, True)
    assert "explanation" not in second  # a proxy is never taken for one
    assert found["coverage"].startswith("direct 1/2")
    assert "features" not in ask("differential_features", run="tuned-1f", max_q=0.01).document
    assert "offset=1" in ask("differential_features", run="tuned-1f", top=1).document["more"]
    assert "read no features" in ask("differential_features", run="plain").text


def test_a_feature_in_the_workspace_and_in_an_audit(ask: Ask) -> None:
    found = ask("feature_details", feature="f_3_1", windows=2).document
    assert found["answer"] == "f_3_1: the second word."
    assert found["statistics"]["n_windows"] == 3
    assert [row["text"] for row in found["windows"]] == ["w1 «w2 »(4.00)w3 w4 w5 ", "w1 «w2 »(3.00)w3 w4 w5 "]
    assert ask("feature_details", feature="tiny-res/layer_3/1").document["feature"] == "tiny-res/layer_3/1"
    audited = ask("feature_details", feature="f_4_77", run="tuned-1f").document  # no cache holds its SAE
    assert audited["audit"]["neighbours"] == [{"feature": 5, "cosine": 0.2, "explanation": "HTTP calls"}]
    assert "unknown SAE" in audited["cache"]
    assert "unknown feature of this audit 'f_4_5'" in ask("feature_details", feature="f_4_5", run="tuned-1f").text
    assert "there is no feature f_3_999" in ask("feature_details", feature="f_3_999").text


def test_labels_are_looked_up_and_nobody_is_asked(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:  # A2.12
    monkeypatch.delenv("NEURONPEDIA_EXPLANATIONS_MODE", raising=False)
    own = ask("label_lookup", sae="tiny-res/layer_3", features=[1, 2]).document
    assert own["answer"] == "1 of 2 features explained."
    assert [row["explanation"] for row in own["features"]] == ["the second word", None]
    kept = ask("label_lookup", sae="gpt2-small/8-res-jb", features=[17]).document
    assert (kept["features"][0]["explanation"], kept["neuronpedia"]) == ("dates", "not asked")
    by_sae = ask("label_lookup", sae="gpt2-small-res-jb/blocks.8.hook_resid_pre", features=[17, 18]).document
    assert by_sae["source"] == "gpt2-small/8-res-jb"
    assert [row["explanation"] for row in by_sae["features"]] == ["dates", None]
    assert "is not an SAE id" in ask("label_lookup", sae="x", features=[1]).text


def test_neighbours_of_a_cached_sae(ask: Ask) -> None:  # A2.14
    found = ask("nearest_explained_neighbours", sae="tiny-res/layer_3", feature=0).document
    (near,) = found["neighbours"]
    assert (near["feature"], near["cosine"], near["explanation"]) == (1, 0.5, "the second word")
    assert "as the cache lists them" in found["basis"]
    far = ask("nearest_explained_neighbours", sae="tiny-res/layer_3", feature=5).document
    assert far["answer"].startswith("no explained feature of tiny-res/layer_3 is near 5")
    assert "there is no feature" in ask("nearest_explained_neighbours", sae="tiny-res/layer_3", feature=99).text


def test_neighbours_by_the_decoder_are_those_of_the_weights(ask: Ask, desk: Desk) -> None:  # A2.14
    sae = list_saes()[0].id
    folder = sae_path(sae)
    assert folder is not None
    cache = make_cache(desk.workspace, sae=sae, cache_id="fedcba9876543210")
    explain(cache, sae, dict.fromkeys(EXPLAINED, "said"))
    weights = load_file(folder / "sae_weights.safetensors")["W_dec"].astype(np.float64)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    cosines = unit[EXPLAINED] @ unit[0]
    order = np.argsort(-cosines)[:4]
    found = ask("nearest_explained_neighbours", sae=str(sae), feature=0, k=4).document
    assert [row["feature"] for row in found["neighbours"]] == [EXPLAINED[at] for at in order]
    assert [row["cosine"] for row in found["neighbours"]] == pytest.approx(cosines[order], rel=1e-3)
    assert "by the SAE's decoder" in found["basis"]


def test_one_select_and_nothing_else(ask: Ask) -> None:  # A2.16
    found = ask("sql", query="SELECT run, verdict FROM audit_runs ORDER BY run").document
    assert (found["columns"], found["rows"]) == (
        ["run", "verdict"],
        [["plain", "not flagged"], ["tuned-1f", "flagged"]],
    )
    some = ask("sql", query="SELECT feature FROM feature_stats", max_rows=3).document
    assert len(some["rows"]) == 3
    assert "OFFSET 3" in some["more"]
    for wrong in (
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/x'",
        "ATTACH '/tmp/x.db'",
        "SELECT 1; SELECT 2",
        "INSTALL httpfs",
        "DELETE FROM audit_runs",
    ):
        refused = ask("sql", query=wrong)
        assert refused.is_error, wrong
        assert "hint: " in refused.text
    assert "does not run" in ask("sql", query="SELECT nothing FROM audit_runs").text


def test_parts_of_the_report(ask: Ask) -> None:
    short = ask("report", run="tuned-1f").text
    assert short.startswith("## Decision\n")
    assert "## Mechanistic" not in short
    both = ask("report", run="tuned-1f", sections=["mechanism", "header"]).text
    assert both.startswith("# A candidate\n")
    assert "## Mechanistic appendix" in both
    refused = ask("report", run="tuned-1f", sections=["everything"])
    assert refused.is_error
    assert refused.text.startswith("report: sections.0: input should be 'header', 'trace'")


def test_suites_that_ship_and_of_the_base_directory(ask: Ask) -> None:  # A2.16
    assert {"minimal", "stress"} <= {row["suite"] for row in ask("list_suites").document["suites"]}
    two = ask("show_suite", suite="two.yaml").document
    assert [row["id"] for row in two["prompts"]] == ["add", "read"]
    one = ask("show_suite", suite="two.yaml", prompt="add").document
    assert one["wordings"] == [{"kind": "original", "text": "def add(a, b):\n"}]
    for path in ("/etc/passwd", "../workspace/raylens.json", "leads-out/passwd"):
        refused = ask("show_suite", suite=path)
        assert refused.is_error
        assert "lies outside the base directory" in refused.text


@pytest.mark.parametrize("argument", ["candidate", "reference", "sae", "suite"])
@pytest.mark.parametrize("path", ["/etc", "../workspace", "leads-out", "tuned/../../workspace", "~/x", "file:///etc"])
def test_an_audit_names_nothing_outside_the_base_directory(ask: Ask, argument: str, path: str) -> None:  # A2.16
    for tool in ("run_audit", "find_trigger"):
        if (tool, argument) == ("find_trigger", "sae"):
            continue
        refused = ask(tool, **{"candidate": "tuned", argument: path})
        assert refused.is_error
        assert argument in refused.text.lower() or argument.upper() in refused.text
        assert refused.text.count(" hint: ") == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("get_decision", {}, "get_decision: run: field required. hint: get_decision takes run (required)."),
        ("get_decision", {"run": "tuned", "x": 1}, "get_decision: x: extra inputs are not permitted (got 1)."),
        ("get_decision", {"run": ""}, "get_decision: run: string should have at least 1 character (got '')."),
        ("get_decision", {"run": "zzz"}, "unknown audit 'zzz'."),
        ("get_decision", {"run": "../../etc"}, "unknown audit '../../etc'."),
        ("list_runs", {"limit": 1000}, "list_runs: limit: input should be less than or equal to 200 (got 1000)."),
        ("list_runs", {"session": "../x"}, "unknown session '../x'."),
        ("label_lookup", {"sae": "a/b", "features": []}, "label_lookup: features: tuple should have at least 1 item"),
        ("run_audit", {"candidate": "tuned", "score_method": "best"}, "run_audit: score_method: there are abs_diff"),
        ("run_audit", {"candidate": "tuned", "target_fpr": 0}, "run_audit: target_fpr: input should be greater than 0"),
        ("run_audit", {"candidate": "tuned", "sae": "a/b", "no_sae": True}, "run_audit: sae and no_sae exclude"),
        ("find_trigger", {"candidate": "tuned", "top": "many"}, "find_trigger: top: input should be a valid integer"),
        ("nothing", {}, "unknown tool 'nothing'."),
    ],
)
def test_bad_arguments_give_one_sentence(ask: Ask, tool: str, arguments: dict[str, Any], sentence: str) -> None:
    refused = ask(tool, **arguments)
    assert refused.is_error
    assert refused.text.startswith(sentence)
    assert "\n" not in refused.text
    assert refused.text.count(" hint: ") == 1


def test_what_nobody_expected_is_said_without_a_trace(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    tool = next(one for one in ALL_TOOLS if one.name == "list_suites")

    async def breaks(*_: Any) -> Any:
        raise KeyError("secret detail")

    answered = asker(desk, tools=[replace(tool, run=breaks)])("list_suites")
    assert answered.is_error
    assert answered.text == "list_suites failed unexpectedly (KeyError). hint: the server's log says how."
    assert "secret detail" in caplog.text
    assert desk.audits.tool_calls("mine")[0]["status"] == "failed"
