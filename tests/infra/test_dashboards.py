"""Prometheus and Grafana: what a dashboard asks for is counted by somebody, and says what it is and in which unit."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
import yaml

import raylens_serve.metrics
from raylens_serve.config_file import APPLICATION

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/grafana"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
RAY = Path(ray.__file__).parent
RAY_SOURCES = (
    "serve/_private/replica.py",
    "serve/_private/deployment_state.py",
    "serve/_private/request_ingress_metrics.py",
    "serve/_private/router.py",
    "dashboard/modules/reporter/reporter_agent.py",
)
LABELS_OF_RAY = {"application", "deployment", "status_code", "ip", "NodeAddress", "GpuIndex", "le"}
UNITS = {"none", "reqps", "ms", "s", "bytes", "percent", "percentunit"}
SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}


class Metric(NamedTuple):
    """As a source makes it: what it is, and its labels where they stand there."""

    kind: str
    labels: frozenset[str]


def made_in(path: Path) -> Iterator[tuple[str, Metric]]:
    """Metrics by name, from calls of ``Counter``, ``Gauge`` and ``Histogram``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        kind = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [*node.args, *(one.value for one in node.keywords if one.arg == "name")]
        if kind not in SUFFIXES or not given:
            continue
        labels = [
            part.value
            for argument in [*node.args[1:], *(one.value for one in node.keywords)]
            if isinstance(argument, ast.Tuple)
            for part in argument.elts
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        yield _name(given[0]), Metric(kind, frozenset(labels))


def _name(node: ast.expr) -> str:
    """A literal, or an f-string whose one variable is the protocol."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "http" for part in node.values)  # pyright: ignore
    return str(node.value) if isinstance(node, ast.Constant) else ""


def exported(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """By the names that Ray's exporter gives them."""
    return {f"ray_{name}{suffix}": one for name, one in metrics.items() for suffix in SUFFIXES[one.kind]}


OWN = exported(dict(made_in(Path(raylens_serve.metrics.__file__))))
RAYS = exported({name: one for source in RAY_SOURCES for name, one in made_in(RAY / source)})


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def asked(expression: str) -> tuple[set[str], set[str]]:
    """Metrics and labels of an expression."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    metrics = set(re.findall(r"\bray_\w+", bare))
    labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", bare))
    for group in re.findall(r"\bby\s*\(([^)]*)\)", bare):
        labels.update(label.strip() for label in group.split(","))
    return metrics, labels


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_what_it_asks_for_is_counted(path: Path) -> None:
    used = set()
    for panel in panels(path):
        for target in panel["targets"]:
            metrics, labels = asked(target["expr"])
            assert metrics, target["expr"]
            assert metrics <= OWN.keys() | RAYS.keys(), metrics - OWN.keys() - RAYS.keys()
            own = [OWN[metric].labels for metric in metrics if metric in OWN]
            known = set().union(*own, {"le", "NodeAddress"}) if own else LABELS_OF_RAY
            assert labels <= known, (target["expr"], labels - known)
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= labels or not labels - {"le"}, "a legend names what the series are told apart by"
            used |= metrics
    # Nothing that we count is kept from who looks.
    bases = {re.sub("_(total|bucket|sum|count)$", "", metric) for metric in OWN}
    assert bases == {re.sub("_(total|bucket|sum|count)$", "", metric) for metric in used & OWN.keys()}


def test_series_are_those_of_our_application() -> None:
    for path in DASHBOARDS:
        assert set(re.findall(r'application=\\"(\w+)\\"', path.read_text())) == {APPLICATION}


def test_our_own_metrics_are_found_in_the_source() -> None:
    assert {"ray_raylens_requests_total", "ray_raylens_request_seconds_bucket"} <= OWN.keys()
    assert OWN["ray_raylens_requests_total"].labels >= {"part", "outcome"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_titles_units_and_a_place_and_counters_are_rates(path: Path) -> None:
    found = panels(path)
    titles = [panel["title"] for panel in found]
    assert all(titles)
    assert len(set(titles)) == len(titles)
    cells: set[tuple[int, int]] = set()
    for panel in found:
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & mine, panel["title"]
        assert max(x for x, _ in mine) < 24
        cells |= mine
        for target in panel["targets"]:
            counters = [one for one in asked(target["expr"])[0] if {**OWN, **RAYS}[one].kind != "Gauge"]
            for metric in counters:
                assert re.search(rf"rate\({metric}(?:\{{[^}}]*\}})?\[\$__rate_interval\]\)", target["expr"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_it_works_with_any_prometheus(path: Path) -> None:
    document = json.loads(path.read_text())
    variables = {one["name"]: one for one in document["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    text = path.read_text()
    sources = {panel["datasource"]["uid"] for panel in panels(path)}
    sources |= {target["datasource"]["uid"] for panel in panels(path) for target in panel["targets"]}
    assert sources == {"${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == variables.keys()
    for one in variables.values():
        if one["type"] == "query":
            metrics, _ = asked(one["definition"])
            assert metrics <= OWN.keys() | RAYS.keys()


def test_grafana_finds_the_dashboards_and_prometheus() -> None:
    compose = yaml.safe_load(re.sub(r"\$\{[^}]*\}", "1", (ROOT / "infra/compose.yaml").read_text()))
    grafana = compose["services"]["grafana"]
    mounts = dict(one.split(":")[:2] for one in grafana["volumes"])
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/raylens.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (FOLDER / "dashboards" / home.relative_to(provider["options"]["path"])) in DASHBOARDS
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"].strip("${}") in grafana["environment"]
    (job,) = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == "raylens"
    scraped = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
