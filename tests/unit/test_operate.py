"""The dashboard and the alerts ask for metrics that there are."""

import json
import re
import shutil
from array import array
from pathlib import Path

import pytest
import yaml

from shared.metrics.exposition import Exposition
from shared.metrics.pages import Sum
from shared.metrics.registry import SIZE
from shared.metrics.table import METRICS, Service
from tests.documents import allotted
from tests.promtool import checked, required_promtool

ROOT = Path(__file__).parents[2]
ALERTS_FILE = ROOT / "docs" / "operate" / "alerts.yml"
CASES_FILE = ROOT / "docs" / "operate" / "alerts.test.yml"
ALERTS = [rule for group in yaml.safe_load(ALERTS_FILE.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "docs" / "operate" / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
HOWTO = (ROOT / "docs" / "howto" / "monitor.md").read_text()


def expressions() -> list[str]:
    return [rule["expr"] for rule in ALERTS] + [
        target["expr"] for panel in PANELS for target in panel["targets"]
    ]


def samples() -> dict[str, set[str]]:
    """The names that a scrape of any service can have, with their labels."""
    found: dict[str, set[str]] = {}
    known = {metric: dict.fromkeys(metric.series, 0.0) for metric in METRICS if metric.is_of_servers}
    for service in Service:
        for family in Exposition(
            service, lambda: Sum(array("d", bytes(8 * SIZE)), 1), lambda: known
        ).collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_each_expression_names_samples_and_labels_that_there_are(expression: str):
    known = samples()
    named = re.findall(r"\b(turnkeeper_\w+)\b(?:\{([^}]*)\})?", expression)
    assert named or expression.count("up{")
    for name, selector in named:
        assert name in known, name
        assert set(re.findall(r"(\w+)[!=]?[=~]", selector)) <= known[name] | {"job", "instance"}
        if name.endswith(("_total", "_bucket", "_sum", "_count")):
            assert re.search(rf"(rate|increase)\({name}", expression), f"{name} only rises: ask for its rate"
    for labels in re.findall(r"\bby \(([^)]*)\)", expression):
        allowed = set().union(*(known[name] for name, _ in named)) if named else set()
        assert set(labels.replace(" ", "").split(",")) <= allowed | {"job", "instance"}


def values_of_labels() -> dict[tuple[str, str], set[str]]:
    """The values that each label of each metric can have."""
    return {
        (metric.name, label): {labels[number] for labels in metric.series}
        for metric in METRICS
        for number, label in enumerate(metric.labels)
    }


def test_values_that_expressions_select_are_those_of_the_labels():
    values = values_of_labels()
    for expression in expressions():
        for name, label, value in re.findall(r'(turnkeeper_\w+)\{(\w+)!?="([^"]*)"', expression):
            assert value in values[name, label], expression


def test_the_dashboard_is_one_that_grafana_imports():
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert len(rows) == 5
    for panel in PANELS:
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_each_alert_is_explained():
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"page", "warn"}
        assert rule["annotations"]["summary"]
    assert re.findall(r"^\| `(Turnkeeper\w+)` \|", HOWTO, re.MULTILINE) == [rule["alert"] for rule in ALERTS]


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own checker. Only a machine of one's own may go without it."""
    return required_promtool()


def test_prometheus_takes_the_alerts(promtool: str):
    said = checked(promtool, "check", "rules", ALERTS_FILE)
    assert f"SUCCESS: {len(ALERTS)} rules found" in said


def test_each_alert_fires_when_it_should_and_only_then(promtool: str):
    assert "SUCCESS" in checked(promtool, "test", "rules", CASES_FILE)


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    cases = [
        (one["alertname"], bool(one["exp_alerts"]))
        for test in yaml.safe_load(CASES_FILE.read_text())["tests"]
        for one in test["alert_rule_test"]
    ]
    assert set(cases) == {(rule["alert"], fires) for rule in ALERTS for fires in (True, False)}


def test_the_cases_are_of_series_that_there_are():
    known, values = samples(), values_of_labels()
    named = [
        re.fullmatch(r"(\w+)\{(.*)\}", series["series"]).groups()
        for test in yaml.safe_load(CASES_FILE.read_text())["tests"]
        for series in test["input_series"]
    ]
    for name, selector in named:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', selector))
        if name == "up":
            continue
        metric = name.removesuffix("_bucket")
        for label in labels.keys() - {"job", "instance"}:
            assert label in known[name], name
            assert label == "le" or labels[label] in values[metric, label], (name, label)


def test_prometheus_takes_the_configuration_of_the_page(promtool: str, tmp_path: Path):
    (block,) = allotted(__file__)
    shutil.copy(ALERTS_FILE, tmp_path / "alerts.yml")
    (tmp_path / "prometheus.yml").write_text(block.take())
    said = checked(promtool, "check", "config", tmp_path / "prometheus.yml")
    assert f"SUCCESS: {len(ALERTS)} rules found" in said
    jobs = [job["job_name"] for job in yaml.safe_load(block.text)["scrape_configs"]]
    assert jobs == [f"turnkeeper-{service}" for service in Service]
