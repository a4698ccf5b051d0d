"""The dashboard and the alerts ask for metrics that there are."""

import json
import re
import shutil
import subprocess
from array import array
from pathlib import Path

import pytest
import yaml

from shared.metrics.exposition import Exposition
from shared.metrics.pages import Sum
from shared.metrics.table import METRICS, Service
from shared.metrics.tally import SIZE

ROOT = Path(__file__).parents[2]
ALERTS_FILE = ROOT / "docs" / "operate" / "alerts.yml"
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


def test_values_that_expressions_select_are_those_of_the_labels():
    values = {
        (metric.name, label): {labels[number] for labels in metric.series}
        for metric in METRICS
        for number, label in enumerate(metric.labels)
    }
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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here")
def test_prometheus_takes_the_alerts():
    checked = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS_FILE)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(ALERTS)} rules found" in checked.stdout
